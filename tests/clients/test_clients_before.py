"""What a self-connect looks like in clients that nobody guards: the reason for safedial.

Real client libraries, each in a process of its own, with a time limit. The fault is the plugin's, made
on the kernel; psycopg dials in C, past every hook of Python, so there the kernel draws the port
itself, in a namespace of two ports.
"""

import contextlib

import pytest

from safedial.testing import dead_port, refused_port, self_connect
from safedial.testing.run import run_client
from tests.support import namespace

HOST = "127.0.0.1"
LIMIT = 2.0  # seconds for those that hang, where the client's own timeout is one


def symptom(name, limit):
    """In a child process: what the client made of being connected to itself."""
    with refused_port() as port:
        run_client(CLIENTS[name], HOST, port, 30)  # which imports the client
    port = dead_port()
    with self_connect(port) as fault:
        trial = run_client(CLIENTS[name], HOST, port, limit)
    assert fault.triggered, "the client dials past the fault"
    return {
        "hung": trial.hung,
        "error": f"{type(trial.error).__name__}: {trial.error}",
        "to itself": trial.self_connected,
    }


def said(value):
    """Make what a client returned visible as an error."""
    raise LookupError(repr(value))


def redis_default(host, port):
    import redis

    with contextlib.closing(redis.Redis(host, port, socket_timeout=1, retry=None)) as client:
        with contextlib.suppress(AttributeError):  # the first call trips over the server's greeting
            client.get("user:1")
        said(client.get("user:1"))


def redis_resp2(host, port):
    import redis

    with contextlib.closing(redis.Redis(host, port, socket_timeout=1, protocol=2)) as client:
        said((bool(client.exists("a")), client.lpush("a", "b"), sorted(client.smembers("c"))))


def pymysql_connect(host, port):
    import pymysql

    return pymysql.connect(host=host, port=port, user="root", connect_timeout=1)


def requests_get(host, port):
    import requests

    return requests.get(f"http://{host}:{port}/", timeout=1)


def httpx_get(host, port):
    import httpx

    return httpx.get(f"http://{host}:{port}/", timeout=1)


async def aiohttp_get(host, port):
    import aiohttp

    timeout = aiohttp.ClientTimeout(1)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"http://{host}:{port}/") as response:
        said(response.status)


async def asyncpg_connect(host, port):
    import asyncpg

    return await asyncpg.connect(host=host, port=port, user="u", database="d", ssl="require", timeout=30)


async def asyncpg_plain(host, port):
    import asyncpg

    return await asyncpg.connect(host=host, port=port, user="u", database="d", ssl=False, timeout=30)


def smtplib_connect(host, port):
    import smtplib

    return smtplib.SMTP(host, port)


CLIENTS = {
    "redis-py": redis_default,
    "redis-py, protocol 2": redis_resp2,
    "PyMySQL": pymysql_connect,
    "requests": requests_get,
    "httpx": httpx_get,
    "aiohttp": aiohttp_get,
    "asyncpg": asyncpg_connect,
    "asyncpg, ssl=False": asyncpg_plain,
    "smtplib": smtplib_connect,
}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        # Wrong data:
        ("redis-py", "LookupError: [b'GET', b'user:1']"),
        ("redis-py, protocol 2", "LookupError: (True, [b'LPUSH', b'a', b'b'], [b'SMEMBERS', b'c'])"),
        # Errors that mislead:
        ("requests", "BadStatusLine('GET / HTTP/1.1"),
        ("httpx", "illegal status line: bytearray(b'GET / HTTP/1.1')"),
        ("aiohttp", "ClientResponseError: 400"),
        ("asyncpg", "rejected SSL upgrade"),
    ],
)
def test_wrong_data_or_an_error_that_misleads(name, words):
    found = namespace.call_outside(symptom, name, 20, seconds=100)
    assert words in found["error"]
    assert "refused" not in found["error"]
    assert not found["hung"]


@pytest.mark.parametrize("name", ["PyMySQL", "asyncpg, ssl=False", "smtplib"])
def test_hangs(name):
    """Holding the port, so that the server can't start. PyMySQL's connect_timeout of 1 s does not help."""
    found = namespace.call_outside(symptom, name, LIMIT, seconds=100)
    assert found["hung"]
    assert found["to itself"]


def test_psycopg_misleads():
    namespace.require()
    found = namespace.call(dial_with_psycopg, port_range=(40000, 40001))
    assert "received invalid response to SSL negotiation" in found


def dial_with_psycopg():
    import psycopg

    for _ in range(1000):  # each has an even chance
        try:
            psycopg.connect(host=HOST, port=40000, user="u", dbname="d", connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if "refused" not in str(error):
                return str(error)
    return "refused a thousand times"
