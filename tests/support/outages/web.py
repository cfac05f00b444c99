"""The rows of HTTP and WebSocket."""

import contextlib
import functools

import aiohttp
import httpx
import requests
import websockets.asyncio.client
import websockets.sync.client

import safedial
from tests.support.outages.rows import ANSWER, CONNECT, FACTORY, Row, aclose, close, close_async, dialer, trusting

ADAPTERS = safedial.adapters


def url(place, scheme="http"):
    return f"{scheme}{'s' if place.ca else ''}://{place.host}:{place.port}/"


def requests_session(place):
    session = requests.Session()
    session.verify, session.trust_env = place.ca or True, False
    session.url = url(place)
    session.request = functools.partial(session.request, timeout=(CONNECT, CONNECT))
    return session


def httpx_client(kind):
    def make(place):
        tls = {"verify": trusting(place)} if place.ca else {}
        return kind(base_url=url(place), timeout=CONNECT, trust_env=False, **tls)

    return make


def aiohttp_session(place):
    limits = aiohttp.ClientTimeout(sock_connect=CONNECT, sock_read=CONNECT)
    connector = aiohttp.TCPConnector(ssl=trusting(place) or True)
    return aiohttp.ClientSession(url(place), connector=connector, timeout=limits)


def requests_factory(place):
    def connect():
        with contextlib.ExitStack() as stack:
            session = stack.enter_context(ADAPTERS.requests.protect(requests_session(place)))
            session.get(session.url).raise_for_status()
            stack.pop_all()
            return session

    return safedial.wrap(connect, policy=place.policy)()


def httpx_factory(place):
    def connect():
        with contextlib.ExitStack() as stack:
            client = ADAPTERS.httpx.protect(httpx_client(httpx.Client)(place))
            stack.enter_context(contextlib.closing(client))
            client.get("/").raise_for_status()
            stack.pop_all()
            return client

    return safedial.wrap(connect, policy=place.policy)()


async def httpx_async_factory(place):
    async def connect():
        client = ADAPTERS.httpx.protect(httpx_client(httpx.AsyncClient)(place))
        try:
            (await client.get("/")).raise_for_status()
        except BaseException:
            await client.aclose()
            raise
        return client

    return await safedial.wrap(connect, policy=place.policy)()


async def aiohttp_factory(place):
    async def connect():
        session = ADAPTERS.aiohttp.protect(aiohttp_session(place))
        try:
            async with session.get("/") as response:
                response.raise_for_status()
        except BaseException:
            await session.close()
            raise
        return session

    return await safedial.wrap(connect, policy=place.policy)()


def requests_protected(place):
    return ADAPTERS.requests.protect(requests_session(place), dialer=dialer(place))


def httpx_protected(place):
    return ADAPTERS.httpx.protect(httpx_client(httpx.Client)(place), dialer=dialer(place))


async def httpx_async_protected(place):
    client = httpx_client(httpx.AsyncClient)(place)
    return ADAPTERS.httpx.protect(client, dialer=dialer(place))


async def aiohttp_protected(place):
    return ADAPTERS.aiohttp.protect(aiohttp_session(place), policy=place.policy)


def post_requests(session, key):
    session.post(session.url + key).raise_for_status()


def post_httpx(client, key):
    client.post(f"/{key}").raise_for_status()


async def post_httpx_async(client, key):
    (await client.post(f"/{key}")).raise_for_status()


async def post_aiohttp(session, key):
    async with session.post(f"/{key}") as response:
        response.raise_for_status()


def websockets_(place):
    connect = safedial.wrap(websockets.sync.client.connect, policy=place.policy)
    limits = {"open_timeout": CONNECT, "close_timeout": CONNECT}
    return connect(url(place, "ws"), ssl=trusting(place), proxy=None, **limits).__enter__()  # as `with` does


async def websockets_async(place):
    connect = safedial.wrap(websockets.asyncio.client.connect, policy=place.policy)
    return await connect(url(place, "ws"), ssl=trusting(place), open_timeout=CONNECT, proxy=None)


def send(connection, key):
    connection.send(key)
    assert connection.recv(ANSWER) == "ok"


async def send_async(connection, key):
    await connection.send(key)
    assert await connection.recv() == "ok"


SESSION, CLIENT = "protect(session, dialer=…)", "protect(client, dialer=…)"
DIAL = {"covers": "dial", "keeps": True}
ROWS = [
    Row("requests", FACTORY, "HTTP", requests_factory, post_requests, close),
    Row("requests", SESSION, "HTTP", requests_protected, post_requests, close, **DIAL),
    Row("httpx", FACTORY, "HTTP", httpx_factory, post_httpx, close),
    Row("httpx", CLIENT, "HTTP", httpx_protected, post_httpx, close, **DIAL),
    Row("httpx, async", FACTORY, "HTTP", httpx_async_factory, post_httpx_async, aclose),
    Row("httpx, async", CLIENT, "HTTP", httpx_async_protected, post_httpx_async, aclose, **DIAL),
    Row("aiohttp", FACTORY, "HTTP", aiohttp_factory, post_aiohttp, close_async),
    Row(
        "aiohttp",
        "protect(session, policy=…)",
        "HTTP",
        aiohttp_protected,
        post_aiohttp,
        close_async,
        covers="TLS",
        keeps=True,
    ),
    Row("websockets", "wrap(websockets.sync.client.connect, policy=…)", "WebSocket", websockets_, send, close),
    Row(
        "websockets, async",
        "wrap(websockets.connect, policy=…)",
        "WebSocket",
        websockets_async,
        send_async,
        close_async,
    ),
]
