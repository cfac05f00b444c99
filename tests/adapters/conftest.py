"""Fixtures for the tests of all adapters."""

import _socket
import socket

import pytest


@pytest.fixture(autouse=True)
def _no_name_server(monkeypatch):
    """Resolve *.invalid to an error at once: these tests use no network except loopback."""
    # The function below the stdlib's: who replaces that one is asked about numeric hosts, too.
    real = _socket.getaddrinfo

    def getaddrinfo(host, *args, **kwds):
        name = host.decode() if isinstance(host, bytes) else host
        if name and name.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *args, **kwds)

    monkeypatch.setattr(_socket, "getaddrinfo", getaddrinfo)
