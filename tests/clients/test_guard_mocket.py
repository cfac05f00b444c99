"""A fake socket whose peer is a name: Mocket's."""

import asyncio
import socket

import pytest

import safedial
from safedial import testing
from tests.support import namespace


def under_mocket(host, port):
    """Runs in a child process, because Mocket replaces most of the socket module."""
    import mocket

    def plain():
        with mocket.Mocketizer():
            mocket.mocket.Mocket.register(mocket.MocketEntry((host, port), [b"hello"]))
            with socket.create_connection((host, port), 5) as sock:
                sock.sendall(b"hello")
                return sock.recv(9)

    def by_guard():
        with safedial.guard():
            return plain()

    def entered_under_it():
        with mocket.Mocketizer():
            mocket.mocket.Mocket.register(mocket.MocketEntry((host, port), [b"hello"]))
            with safedial.guard(), socket.create_connection((host, port), 5) as sock:
                sock.sendall(b"hello")
                return sock.recv(9)

    found = [plain(), by_guard(), entered_under_it(), safedial.guard()(plain)(), safedial.wrap(plain)()]
    here = testing.dead_port()
    with testing.self_connect(here), safedial.guard(), pytest.raises(safedial.SelfConnectError):
        socket.create_connection(("127.0.0.1", here))
    return found, vars(socket.socket).get("connect"), asyncio.iscoroutine(plain)


@pytest.mark.parametrize(("host", "port"), [("example.org", 40000), ("127.0.0.1", 40001), ("192.0.2.1", 80)])
def test_no_self_connect_is_invented(host, port):
    assert namespace.call_outside(under_mocket, host, port) == ([b"hello"] * 5, None, False)
