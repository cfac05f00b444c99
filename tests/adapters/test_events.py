"""on_event hears of the dials of every adapter."""

import asyncio
import contextlib
import errno
from types import SimpleNamespace

import aiohttp
import pytest

import safedial
from safedial import testing
from safedial.adapters import asyncio as asyncio_adapter
from safedial.adapters import http as http_adapter
from safedial.adapters.aiohttp import SafeTCPConnector, protect
from tests.support import web
from tests.support.dialer_clients import CLIENTS, HOST
from tests.support.policies import retrying


def with_smtp(server, dialer):
    smtp = http_adapter.SafeSMTP(dialer=dialer, timeout=5)
    with contextlib.closing(smtp):
        # The web server answers the greeting that it does not get by hanging up.
        smtp._get_socket(HOST, server.port, 5).close()


def with_loop(server, dialer):
    async def connect():
        _, writer = await asyncio.open_connection(HOST, server.port)
        writer.close()
        await writer.wait_closed()

    with asyncio.Runner(loop_factory=lambda: asyncio_adapter.new_event_loop(dialer=dialer)) as runner:
        runner.run(connect())


def with_streams(server, dialer):
    async def connect():
        _, writer = await asyncio_adapter.open_connection(HOST, server.port, on_event=dialer.on_event)
        writer.close()
        await writer.wait_closed()

    asyncio.run(connect())


DIALS = {name: client.dial for name, client in CLIENTS.items()}
DIALS |= {"smtplib": with_smtp, "event loop": with_loop, "asyncio": with_streams}


@pytest.fixture(params=DIALS)
def dial(request):
    return DIALS[request.param]


@pytest.fixture
def refused():
    """Stands for a server, where nobody listens."""
    with testing.refused_port() as port:
        yield SimpleNamespace(port=port, url=f"http://{HOST}:{port}/")


class TestDialer:
    def test_connected(self, dial, events):
        with web.serve() as server:
            dial(server, safedial.Dialer(on_event=events.append))
        assert ("connected", (HOST, server.port)) in [(event.kind, event.address) for event in events]

    def test_failed(self, dial, events, refused):
        with pytest.raises(Exception):  # noqa: B017, PT011  # each client has its own
            dial(refused, safedial.Dialer(on_event=events.append))
        failed = [event for event in events if event.kind == "failed"]
        assert {(event.host, event.port, event.error.errno) for event in failed} == {
            (HOST, refused.port, errno.ECONNREFUSED)
        }


def through_session(**given):
    return aiohttp.ClientSession(connector=SafeTCPConnector(**given))


def through_protect(**given):
    return protect(aiohttp.ClientSession(), **given)


@pytest.mark.parametrize("make", [through_session, through_protect], ids=lambda make: make.__name__)
class TestAiohttp:
    def get(self, make, url, **given):
        async def get():
            async with make(**given) as session, session.get(url) as response:
                await response.read()

        asyncio.run(get())

    def test_connected(self, make, events):
        with web.serve() as server:
            self.get(make, server.url, on_event=events.append)
        assert [event.kind for event in events] == ["connected"]

    def test_failed(self, make, events, refused):
        with pytest.raises(aiohttp.ClientConnectorError):
            self.get(make, refused.url, on_event=events.append, policy=retrying(2))
        assert [event.kind for event in events] == ["failed", "retry", "failed", "gave_up"]
        assert {event.error.errno for event in events} == {errno.ECONNREFUSED}


def test_wrong_hook_of_aiohttp():
    async def make():
        with pytest.raises(TypeError, match="on_event must be callable"):
            SafeTCPConnector(on_event=5)
        async with aiohttp.ClientSession() as session:
            with pytest.raises(TypeError, match="on_event must be callable"):
                protect(session, on_event=5)

    asyncio.run(make())
