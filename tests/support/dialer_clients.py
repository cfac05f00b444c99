"""Clients that dial with a Dialer, by the adapters, each as one function."""

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import Any

import httpx
import redis.asyncio
import requests
import urllib3
import valkey.asyncio

from safedial._retry.argument import DEFAULT
from safedial.adapters import http as http_adapter
from safedial.adapters import httpx as httpx_adapter
from safedial.adapters import redis as redis_adapter
from safedial.adapters import requests as requests_adapter
from safedial.adapters import urllib3 as urllib3_adapter
from safedial.adapters import valkey as valkey_adapter

HOST = "127.0.0.1"
KEEPIDLE = (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
NODELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY)


def with_http(server, dialer, **own):
    with contextlib.closing(http_adapter.SafeHTTPConnection(HOST, server.port, dialer=dialer, **own)) as connection:
        connection.request("GET", "/")
        connection.getresponse().read()


def with_opener(server, dialer, **own):
    http_adapter.build_opener(dialer=dialer).open(server.url, **own).close()


def keepidle_in(own):
    """*own* with a value of TCP_KEEPIDLE as urllib3 and httpx take it, beside their defaults."""
    value = own.pop("keepidle", None)
    return own if value is None else {**own, "socket_options": [(*NODELAY, 1), (*KEEPIDLE, value)]}


def with_manager(server, dialer, **own):
    with urllib3_adapter.protect(urllib3.PoolManager(**keepidle_in(own)), dialer=dialer) as http:
        http.request("GET", server.url)


def with_pool(server, dialer, **own):
    with urllib3_adapter.protect(
        urllib3.HTTPConnectionPool(HOST, server.port, **keepidle_in(own)), dialer=dialer
    ) as http:
        http.request("GET", "/")


def with_requests(server, dialer, **own):
    with requests_adapter.protect(requests.Session(), dialer=dialer) as session:
        session.trust_env = False
        session.get(server.url, **own)


def httpx_arguments(own):
    timeout = {"timeout": httpx.Timeout(9, connect=own.pop("timeout"))} if "timeout" in own else {}
    if source := own.pop("source_address", None):
        own["local_address"] = source[0]
    return timeout, keepidle_in(own)


def with_httpx(server, dialer, **own):
    timeout, rest = httpx_arguments(own)
    transport = httpx_adapter.SafeHTTPTransport(dialer=dialer, **rest)
    with httpx.Client(transport=transport, trust_env=False, **timeout) as client:
        client.get(server.url)


def with_httpx_async(server, dialer, **own):
    timeout, rest = httpx_arguments(own)

    async def get():
        transport = httpx_adapter.SafeAsyncHTTPTransport(dialer=dialer, **rest)
        async with httpx.AsyncClient(transport=transport, trust_env=False, **timeout) as client:
            await client.get(server.url)

    asyncio.run(get())


def resp_arguments(own):
    """What the client of redis or valkey gives to its connections."""
    given = {}
    if "timeout" in own:
        given["socket_connect_timeout"] = own["timeout"]
    if "keepidle" in own:
        given |= {"socket_keepalive": True, "socket_keepalive_options": {socket.TCP_KEEPIDLE: own["keepidle"]}}
    return given


def with_resp(library, adapter):
    def dial(server, dialer, **own):
        client = adapter.protect(library.Redis(HOST, server.port, **resp_arguments(own)), dialer=dialer)
        client.connection_pool.make_connection()._connect().close()

    return dial


def with_resp_async(library, adapter):
    def dial(server, dialer, **own):
        async def connect():
            given = resp_arguments(own)
            client = adapter.protect(library.asyncio.Redis(host=HOST, port=server.port, **given), dialer=dialer)
            connection = client.connection_pool.make_connection()
            await connection._connect()
            await connection.disconnect(nowait=True)
            await client.aclose()

        asyncio.run(connect())

    return dial


@dataclass(frozen=True)
class Client:
    """A client, what it can be told itself, and its own default timeout."""

    dial: Any
    own: frozenset
    timeout: Any = None
    nodelay: int = 0  # if a Dialer has it switched off


def connect_timeout(library):
    """The library's default."""
    return library.Redis().connection_pool.make_connection().socket_connect_timeout


ALL = {"timeout", "source_address", "keepidle"}
RESP = {"timeout", "keepidle"}
CLIENTS = {
    "http": Client(with_http, {"timeout", "source_address"}, DEFAULT, nodelay=1),
    "urllib.request": Client(with_opener, {"timeout"}, DEFAULT, nodelay=1),
    "urllib3 manager": Client(with_manager, ALL),
    "urllib3 pool": Client(with_pool, ALL),
    "requests": Client(with_requests, {"timeout"}),
    "httpx": Client(with_httpx, ALL, 5),
    "httpx async": Client(with_httpx_async, ALL, 5, nodelay=1),
    "redis": Client(with_resp(redis, redis_adapter), RESP, connect_timeout(redis)),
    "redis.asyncio": Client(with_resp_async(redis, redis_adapter), RESP, connect_timeout(redis.asyncio), nodelay=1),
    "valkey": Client(with_resp(valkey, valkey_adapter), RESP, connect_timeout(valkey)),
    "valkey.asyncio": Client(with_resp_async(valkey, valkey_adapter), RESP, connect_timeout(valkey.asyncio), nodelay=1),
}
