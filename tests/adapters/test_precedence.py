"""The client's own explicit setting counts first, then the Dialer's, then the library's default.

For event loops, test_asyncio.py has the same. aiohttp takes no Dialer.
"""

import socket

import pytest

from safedial import Dialer
from tests.support import web
from tests.support.dialer_clients import CLIENTS, KEEPIDLE, NODELAY

DIALS = []


class Noting(Dialer):
    """Notes the settings of each dial, and keeps a duplicate of its socket, to look at when the client is done."""

    def dial(self, address, **kwds):
        return self.note(super().dial(address, **kwds))

    async def dial_async(self, address, **kwds):
        return self.note(await super().dial_async(address, **kwds))

    def note(self, sock):
        DIALS.append((self.timeout, sock.dup()))
        return sock


@pytest.fixture(autouse=True)
def _nothing_noted():
    yield
    for _, sock in DIALS:
        sock.close()
    DIALS.clear()


@pytest.fixture(params=CLIENTS)
def client(request):
    return CLIENTS[request.param]


@pytest.fixture
def server():
    with web.serve() as server:
        yield server


def dialed(client, server, own=None, dialers=None):
    """The timeout of the dial that *client* makes with its own and the Dialer's settings, and the socket."""
    client.dial(server, Noting(**(dialers or {})), **(own or {}))
    [(timeout, sock)] = DIALS
    return timeout, sock


def both(client, server, setting, own, dialers, look):
    """What is seen with both settings, and with the Dialer's alone."""
    seen = []
    for given in [{setting: own}, {}] if setting in client.own else [{}]:
        seen.append(look(*dialed(client, server, given, dialers)))
        DIALS.pop()[1].close()
    return seen if setting in client.own else [None, *seen]


def test_timeout(client, server):
    assert both(client, server, "timeout", 3, {"timeout": 4}, lambda timeout, _: timeout) == [3, 4]


def test_timeout_by_default_is_the_librarys(client, server):
    assert dialed(client, server)[0] == client.timeout


def test_source_address(client, server):
    dialers = {"source_address": ("127.0.0.3", 0)}
    seen = both(client, server, "source_address", ("127.0.0.2", 0), dialers, lambda _, sock: sock.getsockname()[0])
    assert seen == ["127.0.0.2" if "source_address" in client.own else None, "127.0.0.3"]


def test_socket_option(client, server):
    dialers = {"socket_options": [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (*KEEPIDLE, 55)]}
    seen = both(client, server, "keepidle", 77, dialers, lambda _, sock: sock.getsockopt(*KEEPIDLE))
    assert seen == [77 if "keepidle" in client.own else None, 55]


def test_socket_option_that_only_the_dialer_has_stays(client, server):
    own = {"keepidle": 77} if "keepidle" in client.own else {}
    _, sock = dialed(client, server, own, {"socket_options": [(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 8)]})
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 8


def test_socket_option_that_the_library_sets_by_default(client, server):
    """The Dialer's counts, except where asyncio or http.client set theirs after the dial."""
    _, sock = dialed(client, server, dialers={"socket_options": [(*NODELAY, 0)]})
    assert sock.getsockopt(*NODELAY) == client.nodelay
