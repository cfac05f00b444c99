"""Addresses that a Dialer refuses: each client raises the error that it has without safedial, of the same class."""

import asyncio
import contextlib
import ftplib
import http.client
import re
import smtplib
import socket

import httpx
import pymemcache
import pytest
import redis
import requests
import urllib3
import valkey
from redis.backoff import NoBackoff
from redis.retry import Retry

from safedial import Dialer
from safedial.adapters import http as our_http
from safedial.adapters import httpx as our_httpx
from safedial.adapters import redis as our_redis
from safedial.adapters import requests as our_requests
from safedial.adapters import socket as our_socket
from safedial.adapters import urllib3 as our_urllib3
from safedial.adapters import valkey as our_valkey

HOST = "127.0.0.1"
REFUSED = object()  # a port where nobody listens
TOO_LARGE = object()  # the same, plus 65,536: glibc drops what does not fit
ADDRESSES = [
    (HOST, TOO_LARGE),
    (HOST, 2**70),
    (HOST, -1),
    (HOST, 0),
    (HOST, None),
    (HOST, True),
    (HOST, 1.5),
    (HOST, "no-such-service"),
    ("", REFUSED),
    (None, REFUSED),
    (b"127.0.0.1", REFUSED),
    ("a b.invalid", REFUSED),
    ("a\0b.invalid", REFUSED),
    ("a\n.invalid", REFUSED),
    ("a..invalid", REFUSED),
    ("x" * 64 + ".invalid", REFUSED),
    ("\u00e9" * 64 + ".invalid", REFUSED),
    ("1" * 300, REFUSED),
    ("[::1", REFUSED),
    ("127.0.0.1%lo", REFUSED),
]


@contextlib.contextmanager
def ended(client):
    yield client
    client.close()


def http_client(kind, host, port):
    with ended(kind(host, port, timeout=5)) as client:
        client.connect()


def smtp(kind, host, port):
    with ended(kind(timeout=5)) as client:
        client.connect(host, port)


def ftp(kind, host, port):
    with kind(timeout=5) as client:
        client.connect(host, port)


def pool(kind, host, port):
    with kind(host, port, retries=False) as client:
        client.request("GET", "/")


def session(protect, host, port):
    with requests.Session() as client:
        client.trust_env = False
        (protect or _same)(client).get(f"http://{host}:{port}/")


def httpx_client(protect, host, port):
    with httpx.Client(trust_env=False) as client:
        (protect or _same)(client).get(f"http://{host}:{port}/")


def httpx_async(protect, host, port):
    async def main():
        async with httpx.AsyncClient(trust_env=False) as client:
            await (protect or _same)(client).get(f"http://{host}:{port}/")

    asyncio.run(main())


def redis_client(protect, host, port):
    with (protect or _same)(redis.Redis(host, port, retry=Retry(NoBackoff(), 0))) as client:
        client.ping()


def redis_async(protect, host, port):
    async def main():
        plain = redis.asyncio.Redis(host=host, port=port, retry=redis.asyncio.retry.Retry(NoBackoff(), 0))
        async with (protect or _same)(plain) as client:
            await client.ping()

    asyncio.run(main())


def valkey_client(protect, host, port):
    with ended((protect or _same)(valkey.Valkey(host, port))) as client:
        client.ping()


def memcached(module, host, port):
    with ended(pymemcache.Client((host, port), socket_module=module)) as client:
        client.get("user:1")


def created(module, host, port):
    module.create_connection((host, port), 5).close()


def _same(client):
    return client


CLIENTS = {
    "http.client": (http_client, http.client.HTTPConnection, our_http.SafeHTTPConnection),
    "smtplib": (smtp, smtplib.SMTP, our_http.SafeSMTP),
    "ftplib": (ftp, ftplib.FTP, our_http.SafeFTP),
    "urllib3": (pool, urllib3.HTTPConnectionPool, our_urllib3.SafeHTTPConnectionPool),
    "urllib3 connection": (http_client, urllib3.connection.HTTPConnection, our_urllib3.SafeHTTPConnection),
    "requests": (session, None, our_requests.protect),
    "httpx": (httpx_client, None, our_httpx.protect),
    "httpx, asyncio": (httpx_async, None, our_httpx.protect),
    "redis": (redis_client, None, our_redis.protect),
    "redis, asyncio": (redis_async, None, our_redis.protect),
    "valkey": (valkey_client, None, our_valkey.protect),
    "pymemcache": (memcached, socket, our_socket),
    "socket": (created, socket, our_socket),
}
# In asyncio, anyio and redis put an error into words of their own, and ours have the kernel's.
IN_OWN_WORDS = {"httpx, asyncio", "redis, asyncio"}


def raised(use, how, address):
    """Return the classes of an error and of its causes, and its text."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  # compared
        use(how, *address)
    error, kinds = caught.value, []
    while error is not None and len(kinds) < 3:
        kinds.append(type(error))
        error = error.__cause__
    # Our classes are named after the library's; objects have addresses.
    return kinds, re.sub(r"<\S+ object at 0x[0-9a-f]+>|Safe(?=HTTP)", "", str(caught.value))


@pytest.mark.parametrize("name", CLIENTS)
def test_client_has_its_own_errors(name, refused_port):
    use, plain, safe = CLIENTS[name]
    ports = {REFUSED: refused_port, TOO_LARGE: refused_port + 65536}
    for host, port in ADDRESSES:
        address = host, ports[port] if port in (REFUSED, TOO_LARGE) else port
        (kinds, text), (expected, words) = (raised(use, how, address) for how in (safe, plain))
        assert kinds[0] is expected[0], address
        if name not in IN_OWN_WORDS:
            assert (kinds, text) == (expected, words), address


class TestResolver:
    """The Dialer's own resolver is not bypassed: its error stays."""

    def test_port_out_of_range(self):
        dialer = Dialer(resolver=socket.getaddrinfo)
        for use in (
            lambda: our_http.SafeHTTPConnection(HOST, 123456, dialer=dialer).connect(),
            lambda: our_urllib3.SafeHTTPConnection(HOST, 123456, dialer=dialer).connect(),
            lambda: our_redis.SafeConnection(HOST, 123456, dialer=dialer)._connect(),
            lambda: our_socket.create_connection((HOST, 123456), resolver=socket.getaddrinfo),
        ):
            with pytest.raises(ValueError, match="the port must be from 0 to 65535, not 123456"):
                use()
