"""The rows of all other clients: Redis, Valkey, Memcached, HTTP, WebSocket, AMQP, sockets and streams."""

import asyncio
import contextlib
import functools
import socket
import ssl

import aiohttp
import httpx
import pika
import pymemcache
import redis
import redis.asyncio
import requests
import valkey
import valkey.asyncio
import websockets.asyncio.client
import websockets.sync.client
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

import safedial
from tests.support.outages.drivers import close, close_async, trusting
from tests.support.outages.rows import ANSWER, CONNECT, Row

ADAPTERS = safedial.adapters
FACTORY = "wrap(connect, policy=…)"
LIMITS = {"socket_connect_timeout": CONNECT}
# Seconds for all rounds of a dial.
TOTAL = 60


# --- Redis and Valkey ------------------------------------------------------------------------------------


def resp_client(kind, retry):
    """Return a function that makes a client whose own Retry does not wait: only one of the two may."""

    def make(place, limits=LIMITS):
        tls = {"ssl": True, "ssl_ca_certs": place.ca} if place.ca else {}
        login = {"username": place.user, "password": place.password, "db": place.database or 0}
        return kind(host=place.host, port=place.port, socket_timeout=CONNECT, retry=retry(), **login, **limits, **tls)

    return make


REDIS = {
    "redis": resp_client(redis.Redis, lambda: Retry(NoBackoff(), 0)),
    "redis, async": resp_client(redis.asyncio.Redis, lambda: AsyncRetry(NoBackoff(), 0)),
    "valkey": resp_client(valkey.Valkey, lambda: valkey.retry.Retry(valkey.backoff.NoBackoff(), 0)),
    "valkey, async": resp_client(
        valkey.asyncio.Valkey, lambda: valkey.asyncio.retry.Retry(valkey.backoff.NoBackoff(), 0)
    ),
}


def resp_factory(make):
    def dial(place):
        def connect():
            with contextlib.ExitStack() as stack:
                client = stack.enter_context(contextlib.closing(make(place)))
                client.ping()
                stack.pop_all()
                return client

        return safedial.wrap(connect, policy=place.policy)()

    return dial


def resp_factory_async(make):
    async def dial(place):
        async def connect():
            client = make(place)
            try:
                await client.ping()
            except BaseException:
                await client.aclose()
                raise
            return client

        return await safedial.wrap(connect, policy=place.policy)()

    return dial


def dialer(place):
    """Return the Dialer that waits. The async adapters say that a client's own limit bounds all rounds, if it counts."""
    return safedial.Dialer(timeout=CONNECT, total_timeout=TOTAL, policy=place.policy)


def resp_protected(make, protect):
    return lambda place: protect(make(place, {}), dialer=dialer(place))


def increment(client, key):
    assert client.incr(key) == 1


async def increment_async(client, key):
    assert await client.incr(key) == 1


async def aclose(client):
    await client.aclose()


def resp_rows():
    for name, make in REDIS.items():
        asynchronous = name.endswith("async")
        write, end = (increment_async, aclose) if asynchronous else (increment, close)
        factory = (resp_factory_async if asynchronous else resp_factory)(make)
        protect = getattr(ADAPTERS, name.partition(",")[0]).protect
        yield Row(name, FACTORY, "Redis", factory, write, end)
        options = {"covers": "dial", "keeps": True, "blind": name == "redis, async"}
        yield Row(name, "protect(client, dialer=…)", "Redis", resp_protected(make, protect), write, end, **options)


def pymemcache_(place):
    def connect():
        tls = {"tls_context": trusting(place)} if place.ca else {}
        client = pymemcache.Client((place.host, place.port), connect_timeout=CONNECT, timeout=CONNECT, **tls)
        client.version()
        return client

    return safedial.wrap(connect, policy=place.policy)()


def increment_memcached(client, key):
    assert client.add(key, "0", noreply=False)
    assert client.incr(key, 1, noreply=False) == 1


# --- HTTP ------------------------------------------------------------------------------------------------


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
            session = stack.enter_context(requests_session(place))
            session.get(session.url).raise_for_status()
            stack.pop_all()
            return session

    return safedial.wrap(connect, policy=place.policy)()


def httpx_factory(place):
    def connect():
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(contextlib.closing(httpx_client(httpx.Client)(place)))
            client.get("/").raise_for_status()
            stack.pop_all()
            return client

    return safedial.wrap(connect, policy=place.policy)()


async def httpx_async_factory(place):
    async def connect():
        client = httpx_client(httpx.AsyncClient)(place)
        try:
            (await client.get("/")).raise_for_status()
        except BaseException:
            await client.aclose()
            raise
        return client

    return await safedial.wrap(connect, policy=place.policy)()


async def aiohttp_factory(place):
    async def connect():
        session = aiohttp_session(place)
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


# --- WebSocket and AMQP ----------------------------------------------------------------------------------


def websockets_(place):
    connect = safedial.wrap(websockets.sync.client.connect, policy=place.policy)
    return connect(url(place, "ws"), ssl=trusting(place), open_timeout=CONNECT, close_timeout=CONNECT, proxy=None)


async def websockets_async(place):
    connect = safedial.wrap(websockets.asyncio.client.connect, policy=place.policy)
    return await connect(url(place, "ws"), ssl=trusting(place), open_timeout=CONNECT, proxy=None)


def send(connection, key):
    connection.send(key)
    assert connection.recv(ANSWER) == "ok"


async def send_async(connection, key):
    await connection.send(key)
    assert await connection.recv() == "ok"


def pika_(place):
    tls = {"ssl_options": pika.SSLOptions(trusting(place), place.host)} if place.ca else {}
    login = pika.PlainCredentials(place.user or "guest", place.password or "guest")
    parameters = pika.ConnectionParameters(
        *(place.host, place.port, place.database or "/", login),
        **{"socket_timeout": CONNECT, "stack_timeout": CONNECT, **tls},
    )
    return safedial.wrap(pika.BlockingConnection, policy=place.policy)(parameters)


def publish(connection, key):
    channel = connection.channel()
    channel.confirm_delivery()  # basic_publish() then waits for the broker's ack
    channel.basic_publish("", "records", key.encode())


# --- Sockets and streams ---------------------------------------------------------------------------------


def with_tls(place, sock):
    if not place.ca:
        return sock
    try:
        return trusting(place).wrap_socket(sock, server_hostname=place.host)
    except BaseException:
        sock.close()
        raise


def safe_connect(place):
    sock = safedial.safe_connect((place.host, place.port), timeout=CONNECT, policy=place.policy)
    return with_tls(place, sock)


def socket_factory(place):
    def connect():
        sock = with_tls(place, socket.create_connection((place.host, place.port), timeout=CONNECT))
        try:
            tell(sock, "ping")
        except BaseException:
            sock.close()
            raise
        return sock

    return safedial.wrap(connect, policy=place.policy)()


def tell(sock, line):
    sock.sendall(f"{line}\n".encode())
    if sock.recv(100) != b"ok\n":
        raise EOFError("the server hung up")


async def open_connection(place):
    limits = {"timeout": CONNECT, "policy": place.policy}
    return await safedial.open_connection(place.host, place.port, ssl=trusting(place), **limits)


async def streams_factory(place):
    async def connect():
        async with asyncio.timeout(CONNECT):
            streams = await asyncio.open_connection(place.host, place.port, ssl=trusting(place))
            try:
                await tell_streams(streams, "ping")
            except BaseException:
                streams[1].close()
                raise
            return streams

    return await safedial.wrap(connect, policy=place.policy)()


async def tell_streams(streams, line):
    reader, writer = streams
    writer.write(f"{line}\n".encode())
    await reader.readuntil(b"ok\n")


async def close_streams(streams):
    streams[1].close()
    with contextlib.suppress(OSError):
        await streams[1].wait_closed()


# --- The rows --------------------------------------------------------------------------------------------

ROWS = [
    Row("socket", "safe_connect(…, policy=…)", "lines", safe_connect, tell, close, covers="dial"),
    Row("socket", FACTORY, "lines", socket_factory, tell, close),
    Row(
        *("asyncio", "open_connection(…, policy=…)", "lines", open_connection, tell_streams, close_streams),
        covers="TLS",
    ),
    Row("asyncio", FACTORY, "lines", streams_factory, tell_streams, close_streams),
    *resp_rows(),
    Row("pymemcache", FACTORY, "Memcached", pymemcache_, increment_memcached, close),
    Row("requests", FACTORY, "HTTP", requests_factory, post_requests, close),
    Row("requests", "protect(session, dialer=…)", "HTTP", requests_protected, post_requests, close, covers="dial", keeps=True),
    Row("httpx", FACTORY, "HTTP", httpx_factory, post_httpx, close),
    Row("httpx", "protect(client, dialer=…)", "HTTP", httpx_protected, post_httpx, close, covers="dial", keeps=True),
    Row("httpx, async", FACTORY, "HTTP", httpx_async_factory, post_httpx_async, aclose),
    Row("httpx, async", "protect(client, dialer=…)", "HTTP", httpx_async_protected, post_httpx_async, aclose, covers="dial", keeps=True),
    Row("aiohttp", FACTORY, "HTTP", aiohttp_factory, post_aiohttp, close_async),
    Row("aiohttp", "protect(session, policy=…)", "HTTP", aiohttp_protected, post_aiohttp, close_async, covers="TLS", keeps=True),
    Row("websockets", "wrap(websockets.sync.client.connect, policy=…)", "WebSocket", websockets_, send, close),
    Row("websockets, async", "wrap(websockets.connect, policy=…)", "WebSocket", websockets_async, send_async, close_async),
    Row("pika", "wrap(pika.BlockingConnection, policy=…)", "AMQP", pika_, publish, close),
]
