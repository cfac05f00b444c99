"""The matrix: every client dials a dead port that the kernel connects to itself, and is made safe in one line.

``python -m tests.support.matrix`` runs it and writes the table of docs/clients.md.
"""

import asyncio
import contextlib
import dataclasses
import functools
import gc
import importlib.util
import inspect
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
        factory: makes a connection, or uses one, with small time limits. If *safe* is given, it takes that as an
            argument, and applies it to what the line makes safe.
        line: the line that makes it safe for as long as it lives, as the docs show it.
        safe: what the line calls; None for `safedial.install`.
        by_chance: whether no fault reaches it, so that the kernel must draw the port by chance: it dials in
            C, or binds a source port first.
        held: whether the line holds the port, so that a dial can only be refused.
        alone: whether it leaves threads behind, and needs a process of its own.
        lacking: returns the reason why it can't run here, or "".
    """

    name: str
    factory: Callable[..., Any]
    line: str
    safe: Callable[[Any], Any] | None = None
    by_chance: bool = False
    held: bool = False
    alone: bool = False
    lacking: Callable[[], str] = str

    def made_safe(self):
        """The factory, made safe."""
        if self.safe is not None:
            return functools.partial(self.factory, safe=self.safe)
        return installed(self.factory, hold=self.held)


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


def plain(thing):
    return thing


@contextlib.contextmanager
def installing(hold):
    before = set(threading.enumerate())
    safedial.install(hold=hold)
    try:
        yield
    finally:
        for thread in set(threading.enumerate()) - before:
            thread.join(2)  # a thread of a closed client may still be dialing
        safedial.uninstall()


def installed(factory, *, hold):
    async def dial_async(host, port):
        with installing([(host, port)] if hold else ()):
            return await factory(host, port)

    def dial(host, port):
        with installing([(host, port)] if hold else ()):
            return factory(host, port)

    return dial_async if inspect.iscoroutinefunction(factory) else dial


# --- The clients -----------------------------------------------------------------------------------------


def socket_(host, port, safe=plain):
    return safe(socket.create_connection)((host, port), 1)


async def asyncio_(host, port, safe=plain):
    return await safe(asyncio.open_connection)(host, port)


def uvloop_(host, port, safe=lambda kind: kind()):
    import uvloop

    async def dial():
        _, writer = await asyncio.open_connection(host, port)
        writer.close()

    with asyncio.Runner(loop_factory=lambda: safe(uvloop.Loop)) as runner:
        runner.run(dial())


def urllib3_(host, port, safe=plain):
    import urllib3

    with safe(urllib3.PoolManager(timeout=1, retries=1)) as pool:
        return pool.request("GET", f"http://{host}:{port}/")


def requests_(host, port, safe=plain):
    import requests

    with safe(requests.Session()) as session:
        return session.get(f"http://{host}:{port}/", timeout=1)


def http_client(host, port, safe=plain):
    import http.client

    with contextlib.closing(safe(http.client.HTTPConnection)(host, port, timeout=1)) as connection:
        connection.request("GET", "/")
        connection.getresponse()


def urllib_request(host, port, safe=plain):
    import urllib.request

    return safe(urllib.request.build_opener)().open(f"http://{host}:{port}/", timeout=1)


def smtplib_(host, port, safe=plain):
    import smtplib

    return safe(smtplib.SMTP)(host, port, timeout=1)


def ftplib_(host, port, safe=plain):
    import ftplib

    with safe(ftplib.FTP)() as client:
        client.connect(host, port, timeout=1)


def httpx_(host, port, safe=plain):
    import httpx

    with safe(httpx.Client(timeout=1, trust_env=False)) as client:
        return client.get(f"http://{host}:{port}/")


async def httpx_async(host, port, safe=plain):
    import httpx

    async with safe(httpx.AsyncClient(timeout=1, trust_env=False)) as client:
        await client.get(f"http://{host}:{port}/")


async def aiohttp_(host, port, safe=plain):
    import aiohttp

    async with safe(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(1))) as session:
        await session.get(f"http://{host}:{port}/")


def redis_(host, port, safe=plain):
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    client = redis.Redis(host, port, socket_timeout=1, retry=Retry(NoBackoff(), 2))
    with contextlib.closing(safe(client)):
        return client.get("a")


async def redis_async(host, port, safe=plain):
    import redis.asyncio
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    client = redis.asyncio.Redis(host=host, port=port, socket_timeout=1, retry=Retry(NoBackoff(), 2))
    async with safe(client):
        return await client.get("a")


def valkey_(host, port, safe=plain):
    import valkey

    with contextlib.closing(safe(valkey.Valkey(host, port, socket_timeout=1))) as client:
        return client.get("a")


async def valkey_async(host, port, safe=plain):
    import valkey.asyncio

    async with safe(valkey.asyncio.Valkey(host=host, port=port, socket_timeout=1)) as client:
        return await client.get("a")


def pymysql_(host, port, safe=plain):
    import pymysql

    return safe(pymysql.connect)(host=host, port=port, user="u", connect_timeout=1)


def mysql_pure(host, port, safe=plain):
    import mysql.connector

    return safe(mysql.connector.connect)(host=host, port=port, user="u", connection_timeout=1, use_pure=True)


def mysql_c(host, port, safe=plain):
    import mysql.connector

    return safe(mysql.connector.connect)(host=host, port=port, user="u", connection_timeout=1, use_pure=False)


def mysqlclient_(host, port, safe=plain):
    import MySQLdb

    return safe(MySQLdb.connect)(host=host, port=port, user="u", connect_timeout=1)


def mysqlclient_missing():
    found = importlib.util.find_spec("MySQLdb") is not None
    return "" if found else "mysqlclient is not installed: it needs a compiler, and pip install --group compiled"


def mysql_extension():
    import mysql.connector

    return "" if mysql.connector.HAVE_CEXT else "mysql-connector's C extension needs a newer OpenSSL"


async def aiomysql_(host, port, safe=plain):
    import aiomysql

    return await safe(aiomysql.connect)(host=host, port=port, user="u", connect_timeout=1)


def psycopg_(host, port, safe=plain):
    import psycopg

    return safe(psycopg.connect)(host=host, port=port, user="u", dbname="d", connect_timeout=2)


async def psycopg_async(host, port, safe=plain):
    import psycopg

    connect = safe(psycopg.AsyncConnection.connect)
    return await connect(host=host, port=port, user="u", dbname="d", connect_timeout=2)


def psycopg2_(host, port, safe=plain):
    import psycopg2

    return safe(psycopg2.connect)(host=host, port=port, user="u", dbname="d", connect_timeout=2)


async def asyncpg_(host, port, safe=plain):
    import asyncpg

    return await safe(asyncpg.connect)(host=host, port=port, user="u", database="d", timeout=1)


def pg8000_(host, port, safe=plain):
    import pg8000

    return safe(pg8000.connect)("u", host=host, port=port, timeout=1)


def pymongo_(host, port):
    import pymongo

    with pymongo.MongoClient(host, port, serverSelectionTimeoutMS=500, connectTimeoutMS=500) as client:
        return client.admin.command("ping")


def sqlalchemy_(host, port, safe=plain):
    import sqlalchemy

    engine = sqlalchemy.create_engine(f"mysql+pymysql://u@{host}:{port}/d", connect_args={"connect_timeout": 1})
    with contextlib.closing(safe(engine).connect()):
        pass


async def sqlalchemy_async(host, port, safe=plain):
    import sqlalchemy.ext.asyncio

    url = f"postgresql+asyncpg://u@{host}:{port}/d"
    engine = sqlalchemy.ext.asyncio.create_async_engine(url, connect_args={"timeout": 1})
    try:
        async with safe(engine).connect():
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


def pika_(host, port, safe=plain):
    import pika

    return safe(pika.BlockingConnection)(pika.ConnectionParameters(host, port, socket_timeout=1, stack_timeout=1))


async def nats_(host, port):
    import nats

    async def quiet(error):
        pass

    once_more = {"max_reconnect_attempts": 1, "reconnect_time_wait": 0.05}
    return await nats.connect(f"nats://{host}:{port}", connect_timeout=1, error_cb=quiet, **once_more)


def websockets_(host, port, safe=plain):
    import websockets.sync.client

    return safe(websockets.sync.client.connect)(f"ws://{host}:{port}/", open_timeout=1, proxy=None)


async def websockets_async(host, port, safe=plain):
    import websockets.asyncio.client

    return await safe(websockets.asyncio.client.connect)(f"ws://{host}:{port}/", open_timeout=1, proxy=None)


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


def pymemcache_(host, port, safe=lambda: socket):
    import pymemcache

    client = pymemcache.Client((host, port), connect_timeout=1, timeout=1, socket_module=safe())
    with contextlib.closing(client):
        return client.set("a", "b")


def ldap3_(host, port):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it uses old names of pyasn1
        import ldap3

    return ldap3.Connection(ldap3.Server(host, port, connect_timeout=1), receive_timeout=1).bind()


def trio_(host, port, safe=plain):
    import trio

    async def dial():
        async with await safe(trio.open_tcp_stream)(host, port):
            pass

    trio.run(dial)


def anyio_on(backend):
    def dial(host, port, safe=plain):
        import anyio

        async def connect():
            async with await safe(anyio.connect_tcp)(host, port):
                pass

        anyio.run(connect, backend=backend)

    return dial


def wrapped(name, factory, call, **kwds):
    """A client whose *call* returns a connection."""
    return Row(name, factory, f"connect = safedial.wrap({call})", safedial.wrap, **kwds)


def protected(name, factory, adapter, made):
    """A client that dials when it is used, *made* by this code."""
    variable = {"SQLAlchemy": "engine", "urllib3": "http"}.get(
        name.split(",")[0], "session" if "ession" in made else "client"
    )
    line = f"{variable} = safedial.adapters.{adapter}.protect({made})"
    return Row(name, factory, line, lambda client: getattr(safedial.adapters, adapter).protect(client))


def http_class(name, factory, plain_name, arguments="host, port"):
    """A client of the stdlib with a safe class of its own."""
    line = f"client = safedial.adapters.http.Safe{plain_name}({arguments})"
    return Row(name, factory, line, lambda _: getattr(safedial.adapters.http, f"Safe{plain_name}"))


def whole_program(name, factory, **kwds):
    """A client that dials later, in threads or tasks of its own."""
    return Row(name, factory, "safedial.install()", **kwds)


def new_loop(kind):
    return safedial.adapters.asyncio.new_event_loop(kind)


LOOP = "runner = asyncio.Runner(loop_factory=lambda: safedial.adapters.asyncio.new_event_loop(uvloop.Loop))"
OPENER = "opener = safedial.adapters.http.build_opener()"
MODULE = "client = pymemcache.Client((host, port), socket_module=safedial.adapters.socket)"
HOLD = "safedial.install(hold=[(host, port)])"
ROWS = [
    Row("socket", socket_, "sock = safedial.safe_connect((host, port))", lambda _: safedial.safe_connect),
    Row(
        "asyncio", asyncio_, "streams = await safedial.open_connection(host, port)", lambda _: safedial.open_connection
    ),
    Row("uvloop", uvloop_, LOOP, new_loop),
    http_class("http.client", http_client, "HTTPConnection"),
    Row("urllib.request", urllib_request, OPENER, lambda _: safedial.adapters.http.build_opener),
    http_class("smtplib", smtplib_, "SMTP"),
    http_class("ftplib", ftplib_, "FTP", ""),
    protected("urllib3", urllib3_, "urllib3", "urllib3.PoolManager()"),
    protected("requests", requests_, "requests", "requests.Session()"),
    protected("httpx", httpx_, "httpx", "httpx.Client()"),
    protected("httpx, async", httpx_async, "httpx", "httpx.AsyncClient()"),
    protected("aiohttp", aiohttp_, "aiohttp", "aiohttp.ClientSession()"),
    protected("redis", redis_, "redis", "redis.Redis()"),
    protected("redis, async", redis_async, "redis", "redis.asyncio.Redis()"),
    protected("valkey", valkey_, "valkey", "valkey.Valkey()"),
    protected("valkey, async", valkey_async, "valkey", "valkey.asyncio.Valkey()"),
    wrapped("PyMySQL", pymysql_, "pymysql.connect"),
    wrapped("mysql-connector, use_pure=True", mysql_pure, "mysql.connector.connect"),
    wrapped(
        "mysql-connector, C", mysql_c, "mysql.connector.connect", by_chance=True, held=True, lacking=mysql_extension
    ),
    wrapped("mysqlclient", mysqlclient_, "MySQLdb.connect", by_chance=True, held=True, lacking=mysqlclient_missing),
    wrapped("aiomysql", aiomysql_, "aiomysql.connect"),
    wrapped("psycopg", psycopg_, "psycopg.connect", by_chance=True, held=True),
    wrapped("psycopg, async", psycopg_async, "psycopg.AsyncConnection.connect", by_chance=True, held=True),
    wrapped("psycopg2", psycopg2_, "psycopg2.connect", by_chance=True, held=True),
    wrapped("asyncpg", asyncpg_, "asyncpg.connect"),
    wrapped("pg8000", pg8000_, "pg8000.connect"),
    protected("SQLAlchemy", sqlalchemy_, "sqlalchemy", "sqlalchemy.create_engine(url)"),
    protected("SQLAlchemy, async", sqlalchemy_async, "sqlalchemy", "sqlalchemy.ext.asyncio.create_async_engine(url)"),
    Row("pymemcache", pymemcache_, MODULE, lambda: safedial.adapters.socket),
    whole_program("pymongo", pymongo_, alone=True),
    whole_program("kafka-python", kafka_, alone=True),
    whole_program("aiokafka", aiokafka_),
    wrapped("pika", pika_, "pika.BlockingConnection"),
    whole_program("nats-py", nats_),
    wrapped("websockets", websockets_, "websockets.sync.client.connect"),
    wrapped("websockets, async", websockets_async, "websockets.connect"),
    whole_program("paramiko", paramiko_),
    Row("grpc", grpc_, HOLD, by_chance=True, held=True),
    whole_program("ldap3", ldap3_, by_chance=True),
    wrapped("trio", trio_, "trio.open_tcp_stream"),
    wrapped("anyio", anyio_on("asyncio"), "anyio.connect_tcp"),
    wrapped("anyio on trio", anyio_on("trio"), "anyio.connect_tcp"),
]
BY_NAME = {row.name: row for row in ROWS}
# From this row on clients have no adapter, but a recipe in docs/clients.md.
OTHERS_FROM = next(place for place, row in enumerate(ROWS) if row.name == "pymemcache")


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
        trial = run_client(row.made_safe(), HOST, port, WITHIN)
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
        trial = run_client(row.made_safe(), HOST, port, WITHIN)
        # Some clients raise one type for every failure.
        assert not row.held or words(trial.error) == known, f"{name} was not refused: {trial.error}"
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
    head = ["| Client | One line | What comes out |", "|---|---|---|"]
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
