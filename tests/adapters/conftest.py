"""What the tests of all adapters have in common."""

import socket

import pytest


@pytest.fixture(autouse=True)
def _no_name_server(monkeypatch):
    """Names that are none are refused at once: these tests know no network but loopback."""
    real = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwds):
        name = host.decode() if isinstance(host, bytes) else host
        if name and name.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *args, **kwds)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
