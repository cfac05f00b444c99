"""Which processes have a socket, with real processes."""

import os
import socket
import subprocess
import sys

import pytest

from safedial.cli.doctor import processes
from safedial.cli.doctor.facts import Process

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="there is no /proc")

_CHILD = """
import sys
with open("/proc/self/comm", "wb") as file:
    file.write(b"re\\033[1m\\xffs")
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def sock():
    with socket.socket() as sock:
        yield sock


def inode(sock):
    return os.fstat(sock.fileno()).st_ino


def name():
    with open("/proc/self/comm") as file:
        return file.read().strip()


def test_all_that_share_it_and_no_other_socket(sock):
    with socket.socket() as other:
        assert set(processes.find([inode(sock), inode(other)])[0]) == {inode(sock), inode(other)}
        command = [sys.executable, "-c", _CHILD]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[sock.fileno()]
        ) as child:
            assert child.stdout.readline()
            found, _ = processes.find([inode(sock)])
            child.stdin.close()
    this, that = Process(os.getpid(), name()), Process(child.pid, "re\\x1b[1m\ufffds")
    assert found == {inode(sock): tuple(sorted([this, that]))}, "a process may give itself any name"


def test_twice_in_one_process(sock):
    with sock.dup():
        assert processes.find([inode(sock)])[0] == {inode(sock): (Process(os.getpid(), name()),)}


def test_of_no_process():
    with socket.socket() as sock:
        gone = inode(sock)
    assert processes.find([gone])[0] == {}
    assert processes.find([]) == ({}, True)


def test_processes_that_end_meanwhile(sock):
    """As many that start and end at once as one look sees."""
    command = [sys.executable, "-c", "import os\nfor _ in range(300):\n if not os.fork(): os._exit(0)\n os.wait()"]
    with subprocess.Popen(command) as child:
        while child.poll() is None:
            assert processes.find([inode(sock)])[0] == {inode(sock): (Process(os.getpid(), name()),)}
    assert processes._name(child.pid) == ""
