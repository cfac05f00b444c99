"""Clients that know nothing of safedial, for faults to act on."""

import asyncio
import contextlib
import errno
import selectors
import socket
import time

from safedial import testing
from safedial._tcp.selfconnect import RESET
from tests.support import dials


def ends_of(sock):
    """Return both addresses of a connection, and make it end with a reset: a TIME_WAIT would disturb the next test."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    return dials.Ends(sock.getsockname(), sock.getpeername())


def with_connect_ex(host, port):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        code = sock.connect_ex((host, port))
        if code:
            raise OSError(code, "connect_ex")
        return ends_of(sock)


def with_a_selector(host, port):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock, selectors.DefaultSelector() as loop:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect((host, port))
        loop.register(sock, selectors.EVENT_WRITE)
        loop.select(5)
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, "SO_ERROR")
        return ends_of(sock)


def with_create_connection(host, port):
    with socket.create_connection((host, port), 5) as sock:
        return ends_of(sock)


async def _asyncio(host, port):
    _, writer = await asyncio.open_connection(host, port)
    ends = ends_of(writer.get_extra_info("socket"))
    writer.transport.abort()
    await asyncio.sleep(0)
    return ends


CLIENTS = {
    "create_connection": with_create_connection,
    "connect_ex": with_connect_ex,
    "selector": with_a_selector,
    "asyncio": lambda host, port: dials.run(_asyncio(host, port)),
}


@contextlib.contextmanager
def connected_to_itself(port, host="127.0.0.1"):
    """Yield a socket that is connected to itself."""
    with testing.self_connect(port), socket.create_connection((host, port)) as sock:
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):  # closed by the test
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def answers(server):
    """Dial *server*, and return whether it answered."""
    with socket.socket() as sock:
        # From a port that bind() draws, which has the other parity: connect() might draw the server's own port.
        sock.bind((server.host, 0))
        code = sock.connect_ex(server.address)
    assert code in (0, errno.ECONNREFUSED)
    return code == 0


def ask(server, words=b"hello"):
    with socket.create_connection(server.address, 5, (server.host, 0)) as sock:
        sock.sendall(words)
        return sock.recv(100)


def eventually(condition):
    """Return whether *condition* becomes true within ten seconds."""
    for _ in range(1000):
        if condition():
            return True
        time.sleep(0.01)
    return False
