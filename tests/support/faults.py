"""Faults and servers on the real kernel, made without root (see "How it is tested" in the README)."""

import contextlib
import errno
import os
import signal
import socket
import sys
import threading

import pytest

import safedial
from safedial import testing
from safedial._tcp import steering
from safedial._tcp.selfconnect import RESET
from safedial.testing import faults as testing_faults
from safedial.testing import silent
from safedial.testing.holders import holders

MEANS = ("option", "bind")


def dial_itself(port):
    """Self-connect by the source port, and return the socket. A fault of `testing` is a layer, as the guard is."""
    return socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.1", port))


def is_guarded(port, kind=None):
    """Return whether a self-connect to *port* of a socket of the class *kind*, by default socket.socket, is refused."""
    with (kind or socket.socket)(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.bind(("127.0.0.1", port))
        try:
            sock.connect(("127.0.0.1", port))
        except safedial.SelfConnectError:
            return True
        return False


def forks_among_threads(test):
    """Mark a *test* that forks while other threads run."""
    for mark in (
        pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
        pytest.mark.skipif(
            "COVERAGE_RUN" in os.environ, reason="coverage itself hangs if a fork happens while it holds its lock"
        ),
        pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
    ):
        test = mark(test)
    return test


def fork_beside(busy, child, times):
    """Fork *times* while a thread calls *busy* in a loop. In each child, ``child()`` must return True."""
    over = threading.Event()

    def work():
        while not over.is_set():
            busy()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(times):
            pid = os.fork()
            if not pid:
                signal.alarm(20)  # ends a child that waits for a lock
                right = False
                with contextlib.suppress(BaseException):
                    right = child()
                os._exit(not right)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        over.set()
        thread.join()


def option(low: int, high: int) -> tuple[int, int, int]:
    """Return IP_LOCAL_PORT_RANGE as a member of socket_options. Skip the test if this kernel has no such option."""
    require_option()
    return (socket.IPPROTO_IP, steering.IP_LOCAL_PORT_RANGE, steering.option_value(steering.PortRange(low, high)))


def require_option() -> None:
    """Skip the test if this kernel has no IP_LOCAL_PORT_RANGE."""
    if not kernel_steers():
        pytest.skip("this kernel has no IP_LOCAL_PORT_RANGE (Linux 6.3)")


def kernel_steers() -> bool:
    """Return whether this kernel has IP_LOCAL_PORT_RANGE."""
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_IP, steering.IP_LOCAL_PORT_RANGE, 0)
        except OSError:
            return False
    return True


@contextlib.contextmanager
def self_connect(means: str, port: int, times: int | None = None):
    """Make self-connects, as `testing.self_connect` does, only by the given *means*.

    The fault is nearer to the kernel than the code under test, so it defeats steering.
    """
    with pytest.MonkeyPatch.context() as patch, testing.self_connect(port, times) as fault:
        if means == "bind":
            patch.setattr(testing_faults, "_narrow", lambda *args: None)
        yield fault


def assert_server_can_bind(host: str, port: int) -> None:
    """Bind and listen without SO_REUSEADDR, as the strictest server does.

    If tests share the machine's network, another process may have drawn the port meanwhile. Then no socket of
    this process, and no self-connected socket, may have it.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
        try:
            server.bind((host, port))
            server.listen()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or sys.platform != "linux":
                raise
            who = holders(port)
            if any("to itself" in each or f" {os.getpid()} " in each for each in who):
                raise AssertionError(f"port {port} is held: {who}") from error


def port_never_drawn() -> int:
    """Return a free port outside of the ephemeral range: no dial of it connects to itself by chance."""
    with testing.server_port() as port:
        return port


@contextlib.contextmanager
def listener(host: str = "127.0.0.1", port: int = 0, backlog: int = 128):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=backlog) as server:
        yield server


@contextlib.contextmanager
def full_listener(host: str = "127.0.0.1", port: int = 0):
    """A server whose backlog is full, a black hole: the kernel drops further connects without an answer."""
    with listener(host, port) as server, silent.full(server):
        yield server


@contextlib.contextmanager
def black_hole_and_server():
    """An IPv6 address that never answers, and an IPv4 server on the same port.

    It is a `dead_port`, because the kernel may draw a port that only one family has free.
    """
    port = testing.dead_port()
    with full_listener("::1", port) as black_hole, listener(port=port) as server:
        yield black_hole, server


def tcp(host: str, port: int):
    """Return getaddrinfo's result for a numeric *host*."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return (family, socket.SOCK_STREAM, 6, "", (host, port, 0, 0) if ":" in host else (host, port))
