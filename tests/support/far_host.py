"""Another host, whose connections come from a network namespace of its own, at the other end of a cable (veth)."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess

import pytest

from safedial._tcp.selfconnect import RESET
from tests.support import faults, namespace

ADDRESS = "10.9.0.2"
_HERE = "10.9.0.1"


def require():
    if os.name != "posix" or os.geteuid() or shutil.which("ip") is None:
        pytest.skip("another host needs root, and ip of iproute2")


@contextlib.contextmanager
def resetting(port):
    """Let another host accept each connection to *port*; yield a function that makes it reset the newest one.

    Call it in a namespace, as root.
    """
    (told, tell), (heard, answer) = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            _be_the_host(port, told, answer)
        os._exit(1)
    try:
        os.read(heard, 1)  # it has its namespace
        _run(f"link add near type veth peer name far netns {pid}")
        _run(f"address add {_HERE}/24 dev near")
        _run("link set near up")
        os.write(tell, b".")
        assert os.read(heard, 1), "the other host could not listen"
        yield lambda: os.write(tell, b".")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for descriptor in (told, tell, heard, answer):
            os.close(descriptor)


def _be_the_host(port, told, answer):
    namespace.enter_network()
    os.write(answer, b".")
    os.read(told, 1)
    _run(f"address add {ADDRESS}/24 dev far")
    _run("link set far up")
    with faults.listener(ADDRESS, port) as server:
        os.write(answer, b".")
        while True:
            accepted, _ = server.accept()
            os.read(told, 1)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            accepted.close()


def _run(command):
    subprocess.run(["ip", *command.split()], check=True)
