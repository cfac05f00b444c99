import socket

import pytest


@pytest.fixture
def no_sockets(monkeypatch):
    """Return a function after whose call no socket may be made, nor a name resolved."""

    class Forbidden(socket.socket):
        def __init__(self, *args, **kwds):
            raise AssertionError("a socket was made")

    def forbid():
        monkeypatch.setattr(socket, "socket", Forbidden)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwds: pytest.fail("the resolver was asked"))

    return forbid
