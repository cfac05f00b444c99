"""The matrix: every client dials a dead port that the kernel connects to itself, and is made safe in one line.

``python -m tests.support.matrix`` runs it and writes the table of docs/clients.md.
"""

import asyncio
import contextlib
import dataclasses
import functools
import gc
import re
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safedial
from safedial import testing
from safedial._tcp import steering
from safedial.testing.run import run_client
from tests.support import faults, namespace

DOCUMENT = Path(__file__).parents[2] / "docs" / "clients.md"
HOST = "127.0.0.1"
# Seconds that a client gets. None needs more than two; the rest is for a busy machine.
WITHIN = 6.0
# The kernel draws from this range for C libraries too: half of the dials connect to themselves.
PORT_RANGE = (40000, 40001)
DIALS = 30
# A port outside of that range: every dial is refused.
REFUSED = 50000


@dataclass(frozen=True)
class Row:
    """One client.

    Attributes:
        name: its name in the table.
        factory: makes a connection, or uses one, with small time limits.
        means: the key in MEANS of what makes it safe.
        dials: the function that users give to `safedial.wrap`.
        by_chance: whether no fault reaches it, so that the kernel must draw the port by chance: it dials in
            C, or binds a source port first.
        alone: whether it leaves threads behind, and needs a process of its own.
        lacking: returns the reason why it can't run here, or "".
    """

    name: str
    factory: Callable[[str, int], Any]
    means: str = "guard"
    dials: str = ""
    by_chance: bool = False
    alone: bool = False
    lacking: Callable[[], str] = str

    @property
    def line(self):
        return LINES[self.means].format(dials=self.dials)

    def safe(self):
        """The factory, made safe."""
        return MEANS[self.means](self.factory)


@dataclass(frozen=True)
class Result:
    """The result of a row.

    Attributes:
        error: the name of the type of the error.
        as_refused: whether an unguarded client raises the same for a refused connection.
        hung, to_itself, leaked: as in a `safedial.testing.run.Outcome`.
        triggered: how many connects the fault hit, or would have hit.
    """

    error: str
    as_refused: bool
    hung: bool
    to_itself: bool
    leaked: int
    triggered: int


def plain(factory):
    return factory


def wrapped(factory):
    return functools.partial(factory, wrap=safedial.wrap)


def held(factory):
    def dial(host, port):
        with safedial.hold((host, port)):
            return factory(host, port)

    return dial


def installed(factory):
    def dial(host, port):
        before = set(threading.enumerate())
        safedial.install()
        try:
            return factory(host, port)
        finally:
            for thread in set(threading.enumerate()) - before:
                thread.join(2)  # a thread of a closed client may still be dialing
            safedial.uninstall()

    return dial


MEANS = {"guard": lambda factory: safedial.guard()(factory), "wrap": wrapped, "hold": held, "install": installed}
LINES = {
    "guard": "with safedial.guard(): ...",
    "wrap": "connect = safedial.wrap({dials})",
    "hold": "with safedial.hold((host, port)): ...",
    "install": "safedial.install()",
}


# --- The clients -----------------------------------------------------------------------------------------


def socket_(host, port):
    return socket.create_connection((host, port), 1)


async def asyncio_(host, port):
    return await asyncio.open_connection(host, port)


def uvloop_(host, port):
    import uvloop

    async def dial():
        _, writer = await asyncio.open_connection(host, port)
        writer.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(dial())


def urllib3_(host, port):
    import urllib3

    with urllib3.PoolManager(timeout=1, retries=1) as pool:
        return pool.request("GET", f"http://{host}:{port}/")


def requests_(host, port):
    import requests

    return requests.get(f"http://{host}:{port}/", timeout=1)


def http_client(host, port):
    import http.client

    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=1)) as connection:
        connection.request("GET", "/")
        connection.getresponse()


def smtplib_(host, port):
    import smtplib

    return smtplib.SMTP(host, port, timeout=1)


def ftplib_(host, port):
    import ftplib

    with ftplib.FTP() as client:
        client.connect(host, port, timeout=1)


def httpx_(host, port):
    import httpx

    return httpx.get(f"http://{host}:{port}/", timeout=1, trust_env=False)


async def httpx_async(host, port):
    import httpx

    async with httpx.AsyncClient(timeout=1, trust_env=False) as client:
        await client.get(f"http://{host}:{port}/")


async def aiohttp_(host, port):
    import aiohttp

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(1)) as session:
        await session.get(f"http://{host}:{port}/")


def redis_(host, port):
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    with contextlib.closing(redis.Redis(host, port, socket_timeout=1, retry=Retry(NoBackoff(), 2))) as client:
        return client.get("a")


async def redis_async(host, port):
    import redis.asyncio
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    async with redis.asyncio.Redis(host=host, port=port, socket_timeout=1, retry=Retry(NoBackoff(), 2)) as client:
        return await client.get("a")


def valkey_(host, port):
    import valkey

    with contextlib.closing(valkey.Valkey(host, port, socket_timeout=1)) as client:
        return client.get("a")


async def valkey_async(host, port):
    import valkey.asyncio

    async with valkey.asyncio.Valkey(host=host, port=port, socket_timeout=1) as client:
        return await client.get("a")


def pymysql_(host, port):
    import pymysql

    return pymysql.connect(host=host, port=port, user="u", connect_timeout=1)


def mysql_pure(host, port):
    import mysql.connector

    return mysql.connector.connect(host=host, port=port, user="u", connection_timeout=1, use_pure=True)


def mysql_c(host, port, wrap=plain):
    import mysql.connector

    return wrap(mysql.connector.connect)(host=host, port=port, user="u", connection_timeout=1, use_pure=False)


def mysql_extension():
    import mysql.connector

    return "" if mysql.connector.HAVE_CEXT else "mysql-connector's C extension needs a newer OpenSSL"


async def aiomysql_(host, port):
    import aiomysql

    return await aiomysql.connect(host=host, port=port, user="u", connect_timeout=1)


def psycopg_(host, port, wrap=plain):
    import psycopg

    return wrap(psycopg.connect)(host=host, port=port, user="u", dbname="d", connect_timeout=2)


async def psycopg_async(host, port, wrap=plain):
    import psycopg

    connect = wrap(psycopg.AsyncConnection.connect)
    return await connect(host=host, port=port, user="u", dbname="d", connect_timeout=2)


def psycopg2_(host, port, wrap=plain):
    import psycopg2

    return wrap(psycopg2.connect)(host=host, port=port, user="u", dbname="d", connect_timeout=2)


async def asyncpg_(host, port):
    import asyncpg

    return await asyncpg.connect(host=host, port=port, user="u", database="d", timeout=1)


def pg8000_(host, port):
    import pg8000

    return pg8000.connect("u", host=host, port=port, timeout=1)


def pymongo_(host, port):
    import pymongo

    with pymongo.MongoClient(host, port, serverSelectionTimeoutMS=500, connectTimeoutMS=500) as client:
        return client.admin.command("ping")


def sqlalchemy_(host, port):
    import sqlalchemy

    engine = sqlalchemy.create_engine(f"mysql+pymysql://u@{host}:{port}/d", connect_args={"connect_timeout": 1})
    with contextlib.closing(engine.connect()):
        pass


async def sqlalchemy_async(host, port):
    import sqlalchemy.ext.asyncio

    url = f"postgresql+asyncpg://u@{host}:{port}/d"
    engine = sqlalchemy.ext.asyncio.create_async_engine(url, connect_args={"timeout": 1})
    try:
        async with engine.connect():
            pass
    finally:
        await engine.dispose()


def kafka_(host, port):
    import kafka

    producer = kafka.KafkaProducer(
        bootstrap_servers=f"{host}:{port}", bootstrap_timeout_ms=500, max_block_ms=500, request_timeout_ms=500
    )
    with contextlib.closing(producer):
        return producer.send("a", b"b").get(1)


async def aiokafka_(host, port):
    import aiokafka

    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=f"{host}:{port}", request_timeout_ms=500)
    try:
        await producer.start()
    finally:
        await producer.stop()


def pika_(host, port):
    import pika

    return pika.BlockingConnection(pika.ConnectionParameters(host, port, socket_timeout=1, stack_timeout=1))


async def nats_(host, port):
    import nats

    async def quiet(error):
        pass

    once_more = {"max_reconnect_attempts": 1, "reconnect_time_wait": 0.05}
    return await nats.connect(f"nats://{host}:{port}", connect_timeout=1, error_cb=quiet, **once_more)


def websockets_(host, port):
    import websockets.sync.client

    return websockets.sync.client.connect(f"ws://{host}:{port}/", open_timeout=1, proxy=None)


async def websockets_async(host, port):
    import websockets.asyncio.client

    return await websockets.asyncio.client.connect(f"ws://{host}:{port}/", open_timeout=1, proxy=None)


def paramiko_(host, port):
    import paramiko

    with paramiko.SSHClient() as client:
        client.connect(host, port, timeout=1, banner_timeout=1)


def grpc_(host, port):
    import grpc

    # The connection pool that all channels share would remember the last failure for a second.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"{host}:{port}", options) as channel:
        return channel.unary_unary("/service/method")(b"", timeout=1)


def pymemcache_(host, port):
    import pymemcache

    with contextlib.closing(pymemcache.Client((host, port), connect_timeout=1, timeout=1)) as client:
        return client.set("a", "b")


def ldap3_(host, port):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it uses old names of pyasn1
        import ldap3

    return ldap3.Connection(ldap3.Server(host, port, connect_timeout=1), receive_timeout=1).bind()


def trio_(host, port):
    import trio

    async def dial():
        async with await trio.open_tcp_stream(host, port):
            pass

    trio.run(dial)


def anyio_on(backend):
    def dial(host, port):
        import anyio

        async def connect():
            async with await anyio.connect_tcp(host, port):
                pass

        anyio.run(connect, backend=backend)

    return dial


ROWS = [
    Row("socket", socket_),
    Row("asyncio", asyncio_),
    Row("uvloop", uvloop_, "hold", by_chance=True),
    Row("http.client, urllib.request", http_client),
    Row("smtplib", smtplib_),
    Row("ftplib", ftplib_),
    Row("urllib3", urllib3_),
    Row("requests", requests_),
    Row("httpx", httpx_),
    Row("httpx, async", httpx_async),
    Row("aiohttp", aiohttp_),
    Row("redis", redis_),
    Row("redis, async", redis_async),
    Row("valkey", valkey_),
    Row("valkey, async", valkey_async),
    Row("PyMySQL", pymysql_),
    Row("mysql-connector, use_pure=True", mysql_pure),
    Row("mysql-connector, C", mysql_c, "wrap", "mysql.connector.connect", by_chance=True, lacking=mysql_extension),
    Row("aiomysql", aiomysql_),
    Row("psycopg", psycopg_, "wrap", "psycopg.connect", by_chance=True),
    Row("psycopg, async", psycopg_async, "wrap", "psycopg.AsyncConnection.connect", by_chance=True),
    Row("psycopg2", psycopg2_, "wrap", "psycopg2.connect", by_chance=True),
    Row("asyncpg", asyncpg_),
    Row("pg8000", pg8000_),
    Row("SQLAlchemy", sqlalchemy_),
    Row("SQLAlchemy, async", sqlalchemy_async),
    Row("pymongo", pymongo_, "install", alone=True),
    Row("kafka-python", kafka_, "install", alone=True),
    Row("aiokafka", aiokafka_),
    Row("pika", pika_),
    Row("nats-py", nats_),
    Row("websockets", websockets_),
    Row("websockets, async", websockets_async),
    Row("paramiko", paramiko_),
    Row("grpc", grpc_, "hold", by_chance=True),
    Row("pymemcache", pymemcache_),
    Row("ldap3", ldap3_, by_chance=True),
    Row("trio", trio_),
    Row("anyio", anyio_on("asyncio")),
    Row("anyio on trio", anyio_on("trio")),
]
BY_NAME = {row.name: row for row in ROWS}
# From this row on clients have no adapter, but a recipe in docs/clients.md.
OTHERS_FROM = next(place for place, row in enumerate(ROWS) if row.name == "pymongo")


# --- Running them ----------------------------------------------------------------------------------------


def run(name):
    """Return the result of the row *name*, run in a child process if it needs one."""
    row = BY_NAME[name]
    if row.by_chance:
        return namespace.call(dial_in_two_ports, name, steering._steerable, port_range=PORT_RANGE)
    if row.alone:
        return namespace.call_outside(dial_forced, name, steering._steerable)
    return dial_forced(name)


def dial_forced(name, steerable=None):
    """Dial a port on which a fault makes the kernel connect the client to itself."""
    if steerable is not None:
        steering._steerable = steerable
    row = BY_NAME[name]
    with testing.refused_port() as port:
        refused = run_client(row.factory, HOST, port, 5 * WITHIN)  # this imports the client, too
    port = testing.dead_port()
    with testing.self_connect(port) as fault:
        trial = run_client(row.safe(), HOST, port, WITHIN)
    faults.assert_server_can_bind(HOST, port)
    testing.assert_no_self_connects()
    return judged(trial, refused, fault.triggered)


def dial_in_two_ports(name, steerable):
    """Dial so often that an unguarded client connects to itself almost surely; then check that one does."""
    steering._steerable = steerable
    row = BY_NAME[name]
    refused = run_client(row.factory, HOST, REFUSED, 5 * WITHIN)
    known = words(refused.error)
    gc.freeze()  # each attempt collects garbage; skip the imported modules
    results = set()
    dials = DIALS // 2 * PORT_RANGE  # connect() prefers one port, bind() the other
    for port in dials:
        trial = run_client(row.safe(), HOST, port, WITHIN)
        # Some clients raise one type for every failure. On a held port it can only be a refusal.
        assert row.means == "guard" or words(trial.error) == known, f"{name} was not refused: {trial.error}"
        results.add(judged(trial, refused, 0))
        faults.assert_server_can_bind(HOST, port)
    testing.assert_no_self_connects()
    assert len(results) == 1, f"{name} had different results: {results}"
    triggered = any(words(run_client(row.factory, HOST, port, WITHIN).error) != known for port in dials)
    return dataclasses.replace(results.pop(), triggered=int(triggered))


def words(error):
    """Return the text of *error* without ports and times."""
    return re.sub(r"debug_error_string.*|\d+", "N", str(error))  # the order in grpc's debug_error_string varies


def judged(trial, refused, triggered):
    # ldap3 makes a type of its own for each error.
    alike = isinstance(trial.error, type(refused.error)) or named(trial.error) == named(refused.error)
    return Result(named(trial.error), alike, trial.hung, trial.self_connected, trial.leaked, triggered)


def named(error):
    """Return the name of the type of *error* as users import it: public, from the topmost package."""
    if error is None:
        return "nothing"
    kind = next(each for each in type(error).__mro__ if not each.__name__.startswith("_"))
    if kind.__module__ == "builtins":
        return kind.__name__
    parts = kind.__module__.split(".")
    for depth in range(1, len(parts)):
        package = ".".join(parts[:depth])
        if getattr(sys.modules.get(package), kind.__name__, None) is kind:
            return f"{package}.{kind.__name__}"
    return f"{kind.__module__}.{kind.__name__}"


# --- The table -------------------------------------------------------------------------------------------


TABLE = re.compile(r"^\| Client \|(?:.+\n)+", re.MULTILINE)
# A client's name, and the error that comes out.
ROW = re.compile(r"^\| (.+?) \| `.*` \| `(.+)` \|$", re.MULTILINE)


def table_row(name, error):
    return f"| {name} | `{BY_NAME[name].line}` | `{error}` |"


def table(errors):
    """Return the table of docs/clients.md. *errors* has the name of each row's error."""
    head = ["| Client | Safe in one line | What comes out |", "|---|---|---|"]
    return "".join(f"{line}\n" for line in [*head, *(table_row(name, error) for name, error in errors.items())])


def main():
    if reason := testing.no_namespace():
        sys.exit(reason)
    text = DOCUMENT.read_text()
    before = dict(ROW.findall(text))
    # The row of a client that can't run here stays as it is.
    errors = {row.name: before[row.name] if row.lacking() else run(row.name).error for row in ROWS}
    DOCUMENT.write_text(TABLE.sub(lambda _: table(errors), text, count=1))


if __name__ == "__main__":
    # Under its own name: its functions are pickled for child processes.
    from tests.support import matrix

    matrix.main()
