"""What a self-connect looks like in clients that are not guarded: the reason for safedial.

Real client libraries, each in a process of its own, with a time limit. The fault comes from
`safedial.testing`. It does not reach psycopg, which dials in C: there the kernel draws the port by
chance, in a namespace of two ports.
"""

import contextlib

import pytest

from safedial.testing import dead_port, refused_port, self_connect
from safedial.testing.run import run_client
from tests.support import namespace

HOST = "127.0.0.1"
LIMIT = 2.0  # seconds for clients that hang; their own timeout is 1 s


def symptom(name, limit):
    """Return what the client did when it was connected to itself; runs in a child process."""
    with refused_port() as port:
        run_client(CLIENTS[name], HOST, port, 30)  # this imports the client
    port = dead_port()
    with self_connect(port) as fault:
        trial = run_client(CLIENTS[name], HOST, port, limit)
    assert fault.triggered, "the fault did not reach the client"
    return {
        "hung": trial.hung,
        "error": f"{type(trial.error).__name__}: {trial.error}",
        "to itself": trial.self_connected,
    }


def said(value):
    """Raise *value*, which a client returned, as an error."""
    raise LookupError(repr(value))


def redis_default(host, port):
    import redis

    with contextlib.closing(redis.Redis(host, port, socket_timeout=1, retry=None)) as client:
        with contextlib.suppress(AttributeError):  # the first call fails on the greeting
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
        pytest.param(
            "redis-py, protocol 2",
            "LookupError: (True, [b'LPUSH', b'a', b'b'], [b'SMEMBERS', b'c'])",
            marks=pytest.mark.storm,
        ),
        # Misleading errors:
        ("requests", "BadStatusLine('GET / HTTP/1.1"),
        ("httpx", "illegal status line: bytearray(b'GET / HTTP/1.1')"),
        ("aiohttp", "ClientResponseError: 400"),
        ("asyncpg", "rejected SSL upgrade"),
    ],
)
def test_wrong_data_or_a_misleading_error(name, words):
    found = namespace.call_outside(symptom, name, 20, seconds=100)
    assert words in found["error"]
    assert "refused" not in found["error"]
    assert not found["hung"]


@pytest.mark.storm  # each hangs for seconds
@pytest.mark.parametrize("name", ["PyMySQL", "asyncpg, ssl=False", "smtplib"])
def test_hangs(name):
    """The client keeps the port, so the server can't start. PyMySQL's connect_timeout of 1 s does not help."""
    found = namespace.call_outside(symptom, name, LIMIT, seconds=100)
    assert found["hung"]
    assert found["to itself"]


def test_psycopg_gives_a_misleading_error():
    namespace.require()
    found = namespace.call(dial_with_psycopg, port_range=(40000, 40001))
    assert "received invalid response to SSL negotiation" in found


def dial_with_psycopg():
    import psycopg

    for _ in range(1000):  # half of them connect to themselves
        try:
            psycopg.connect(host=HOST, port=40000, user="u", dbname="d", connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if "refused" not in str(error):
                return str(error)
    return "refused a thousand times"
