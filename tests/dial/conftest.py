import socket

import pytest


@pytest.fixture
def no_sockets(monkeypatch):
    """Return a function that forbids making sockets and resolving names until the test ends."""

    class Forbidden(socket.socket):
        def __init__(self, *args, **kwds):
            raise AssertionError("a socket was made")

    def forbid():
        monkeypatch.setattr(socket, "socket", Forbidden)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwds: pytest.fail("the resolver was asked"))

    return forbid
