"""What wrap() and connections() refuse, because nothing would be guarded, and what they warn of."""

import asyncio
import concurrent.futures
import functools
import gc
import inspect
import logging
import socket
import sqlite3
import unittest.mock
import warnings

import aiohttp
import aiomysql
import asyncpg
import grpc
import grpc._channel
import httpx
import pika
import psycopg_pool
import pymongo
import pytest
import redis
import redis.asyncio
import requests
import sqlalchemy
import sqlalchemy.ext.asyncio
import sqlalchemy.orm
import trio
import urllib3
import uvloop
import valkey
import websockets
import zmq

import safedial
from safedial import testing
from safedial._clients import refusals

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it uses an old function of importlib.resources
    import kafka

HOST = "127.0.0.1"
SECRET = "redis://:s3cret@db"


@pytest.fixture(autouse=True)
def warned(monkeypatch, caplog):
    """The lines that wrap() has warned with, in a process that was not warned before."""
    monkeypatch.setattr(refusals, "_warned", {})
    return lambda: [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


def protect(name):
    return rf"use safedial\.adapters\.{name}\.protect\(\.\.\.\)"


def in_a_thread(address):
    """Connect where the guard of a call does not reach, as a client in C does."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(socket.create_connection, address).result()


INSTALL = r"call safedial\.install\(\)"
# What makes a client that dials when it is used, and the line that the message names.
CLIENTS = {
    "redis": (redis.Redis, protect("redis")),
    "redis, by URL": (redis.from_url, protect("redis")),
    "redis, by the class's URL": (redis.Redis.from_url, protect("redis")),
    "redis, partial": (functools.partial(redis.Redis, password="s3cret"), protect("redis")),
    "redis, partial of a partial": (functools.partial(functools.partial(redis.Redis), "db"), protect("redis")),
    "redis, subclass": (type("Subclass", (redis.Redis,), {}), protect("redis")),
    "redis, async": (redis.asyncio.Redis, protect("redis")),
    "redis, pool": (redis.ConnectionPool, protect("redis")),
    "valkey": (valkey.Valkey, protect("valkey")),
    "httpx": (httpx.Client, protect("httpx")),
    "httpx, async": (httpx.AsyncClient, protect("httpx")),
    "requests": (requests.Session, protect("requests")),
    "requests, function": (requests.session, protect("requests")),
    "urllib3": (urllib3.PoolManager, protect("urllib3")),
    "aiohttp": (aiohttp.ClientSession, protect("aiohttp")),
    "SQLAlchemy": (sqlalchemy.create_engine, protect("sqlalchemy")),
    "SQLAlchemy, async": (sqlalchemy.ext.asyncio.create_async_engine, protect("sqlalchemy")),
    "pymongo": (pymongo.MongoClient, INSTALL),
    "kafka-python": (kafka.KafkaProducer, INSTALL),
    "aiomysql's pool": (aiomysql.create_pool, INSTALL),
    "asyncpg's pool": (asyncpg.create_pool, r"connect=safedial\.wrap\(asyncpg\.connect\)"),
    "psycopg_pool": (psycopg_pool.ConnectionPool, r"connection_class=safedial\.wrap\(psycopg\.Connection\)"),
    "grpc": (grpc.insecure_channel, r"safedial\.hold\(\(host, port\)\)"),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_client_that_dials_when_it_is_used_is_refused_at_once(name):
    factory, line = CLIENTS[name]
    with pytest.raises(TypeError, match=rf"^factory: .*dials when it is used.*{line}") as caught:
        safedial.wrap(factory)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(TypeError, match=f"^target: .*{line}"):
        safedial.connections(factory)


class Lazy:
    """A client of the user's own, which dials when it is used."""

    def __init__(self, host, port):
        self.address = host, port
        self.closed = False
        made.append(self)

    def get(self):
        return socket.create_connection(self.address)

    def close(self):
        self.closed = True


made = []


async def lazy_async():
    return redis.asyncio.Redis()


async def aiohttp_unused():
    return aiohttp.ClientSession()


class TestResults:
    """What a function returned that made no connection."""

    @pytest.mark.parametrize(
        ("make", "line"),
        [
            (lambda: redis.Redis(), protect("redis")),
            (lambda: type("Subclass", (redis.Redis,), {})(), protect("redis")),
            (lambda: redis.asyncio.Redis(), protect("redis")),
            (lambda: httpx.Client(), protect("httpx")),
            (lambda: requests.Session(), protect("requests")),
            (lambda: sqlalchemy.create_engine("sqlite://"), protect("sqlalchemy")),
            (lambda: psycopg_pool.ConnectionPool("host=db", open=False), "connection_class="),
        ],
    )
    def test_known_client_is_refused(self, make, line):
        with pytest.raises(TypeError, match=f"^factory: .*<lambda> returned a client.*{line}"):
            safedial.wrap(make)()
        with pytest.raises(TypeError, match=f"^target: .*{line}"):
            next(iter(safedial.connections(make))).__enter__()

    @pytest.mark.parametrize("make", [lazy_async, aiohttp_unused])
    def test_known_client_is_refused_in_asyncio(self, make):
        async def loop():
            async for connection in safedial.connections(make):
                async with connection:
                    pass

        for dial in (safedial.wrap(make), loop):
            with pytest.raises(TypeError, match=r"use safedial\.adapters"):
                asyncio.run(dial())
        gc.collect()  # an unclosed session would warn

    def test_known_client_is_refused_where_nothing_can_be_awaited(self):
        async def main():
            with pytest.raises(TypeError, match=protect("aiohttp")):
                safedial.wrap(lambda: aiohttp.ClientSession())()
            async for connection in safedial.connections(lambda: redis.asyncio.Redis()):
                await connection.__aenter__()

        with pytest.raises(TypeError, match=protect("redis")):
            asyncio.run(main())
        gc.collect()  # as above

    def test_unknown_class_is_refused_and_what_it_made_is_closed(self):
        made.clear()
        with pytest.raises(TypeError, match=rf"^factory: .*Lazy made no connection.*{INSTALL}.*address=") as caught:
            safedial.wrap(Lazy)(HOST, 1)
        assert made[0].closed
        assert not hasattr(caught.value, "__notes__")
        with pytest.raises(TypeError, match="Lazy made no connection"):
            safedial.wrap(functools.partial(Lazy, HOST), policy=safedial.reconnect())(1)

    def test_class_that_connects_only_later_is_refused(self):
        with pytest.raises(TypeError, match="made no connection"):
            safedial.wrap(socket.socket)()

    @pytest.mark.parametrize("make", [lambda: Lazy(HOST, 1), lambda: None, lambda: "an answer", lambda: [1]])
    def test_unknown_result_of_a_function_is_warned_of_once(self, make, warned):
        """It may have used a connection that was open already."""
        for _ in range(2):
            safedial.wrap(make)()
        (line,) = warned()
        assert "<lambda> made no connection that safedial could see, so nothing was guarded" in line
        assert "safedial.install()" in line
        assert "address=(host, port)" in line

    def test_connection_that_was_not_seen_is_warned_of_once(self, warned):
        with testing.Outage() as server:
            for _ in range(2):
                safedial.wrap(in_a_thread)(server.address).close()
        (line,) = warned()
        assert "in_a_thread connected in C, or in a thread or pool of its own, so nothing was guarded" in line
        assert "safedial.wrap(..., address=(host, port))" in line

    def test_dial_of_uvloop_is_warned_of_unless_its_port_is_held(self, warned):
        async def connect():
            return await asyncio.open_connection(*server.address)

        async def main(**options):
            _, writer = await safedial.wrap(connect, **options)()
            writer.close()
            await writer.wait_closed()

        with testing.Outage() as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main(address=server.address))
            assert not warned()
            runner.run(main())
        assert "connect connected in C" in warned()[0]


@pytest.mark.usefixtures("warned")
class TestFalseAlarms:
    @pytest.fixture(autouse=True)
    def _nothing_is_warned_of(self, warned):
        yield
        assert not warned()

    def test_connection_that_a_factory_keeps(self):
        kept = []

        def connect():
            kept[:] = kept or [socket.create_connection(server.address)]
            return kept[0]

        with testing.Outage() as server:
            wrapped = safedial.wrap(connect)
            assert wrapped() is wrapped()
            kept[0].close()

    def test_client_that_was_used_in_the_call(self):
        def connect():
            client = http_client()
            client.get(url)
            return client

        with testing.Outage(answer) as server, httpx.Client(trust_env=False) as client:
            url, http_client = "http://{}:{}".format(*server.address), lambda: client
            assert safedial.wrap(connect)() is client

    def test_own_dials(self):
        async def connect():
            return await safedial.open_connection(*server.address)

        async def main():
            _, writer = await safedial.wrap(connect)()
            writer.close()
            await writer.wait_closed()

        with testing.Outage() as server:
            safedial.wrap(safedial.safe_connect)(server.address).close()
            asyncio.run(main())

    def test_unix_socket(self, tmp_path):
        def connect():
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            return sock

        path = str(tmp_path / "socket")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            safedial.wrap(connect)().close()

    def test_database_in_a_file(self):
        for make in (sqlite3.connect, sqlite3.Connection, lambda: sqlite3.connect(":memory:")):
            safedial.wrap(functools.partial(make, *[":memory:"] * (make.__name__ != "<lambda>")))().close()

    @pytest.mark.parametrize("mock", [unittest.mock.Mock(), unittest.mock.MagicMock()])
    def test_mocks(self, mock):
        assert safedial.wrap(mock)() is mock.return_value
        assert safedial.wrap(lambda: mock)() is mock

    def test_everything_is_guarded_by_install(self):
        safedial.install()
        try:
            assert isinstance(safedial.wrap(Lazy)(HOST, 1), Lazy)
            assert isinstance(safedial.wrap(redis.Redis)(), redis.Redis)
            safedial.wrap(lambda: None)()
        finally:
            safedial.uninstall()

    def test_address_that_is_given(self, dead_port):
        assert isinstance(safedial.wrap(Lazy, address=(HOST, dead_port))(HOST, dead_port), Lazy)

    def test_wrapped_factory_in_a_reconnect_loop(self):
        """The loop sees no connect of a dialer in C whose port wrap() holds."""
        with testing.Outage() as server:
            connect = functools.partial(safedial.wrap(in_a_thread, address=server.address), server.address)
            with next(iter(safedial.connections(connect))):
                pass

    def test_refused_dial(self, refused_port):
        with pytest.raises(ConnectionRefusedError):
            safedial.wrap(socket.create_connection)((HOST, refused_port))

    def test_trio(self):
        async def main():
            async with await safedial.wrap(trio.open_tcp_stream)(*server.address):
                pass

        with testing.Outage() as server:
            trio.run(main)

    def test_protected_engine(self):
        engine = safedial.adapters.sqlalchemy.protect(sqlalchemy.create_engine("sqlite://"))
        with engine.connect():
            pass
        engine.dispose()


def answer(sock):
    sock.recv(1000)
    sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
    sock.recv(1000)


async def coroutine_function():
    pass


def generator_function():
    yield


def wrap_with(*args, **kwds):
    return lambda: safedial.wrap(*args, **kwds)


def connect_to(target):
    return lambda: safedial.connections(target)


CONNECT = socket.create_connection
MISTAKES = {
    "a URL": (wrap_with(SECRET), r"factory must be .*not a str; for a URL write wrap\(connect\)\(url\)"),
    "bytes": (wrap_with(SECRET.encode()), "factory must be .*not a bytes"),
    "arguments": (wrap_with(CONNECT, "db", 5432), r"wrap\(connect\)\(host, port\)"),
    "a policy first": (wrap_with(safedial.reconnect(), CONNECT), r"policy=, address= and on_event= by name"),
    "a policy alone": (wrap_with(safedial.reconnect()), r"write wrap\(connect, policy=\.\.\.\)"),
    "a policy that is a number": (wrap_with(CONNECT, policy=5), r"policy must be .*safedial\.reconnect\(\).*not 5"),
    "a policy that is a word": (wrap_with(CONNECT, policy=SECRET), r"policy must be .*not a str"),
    "a policy that is not called": (
        wrap_with(CONNECT, policy=safedial.reconnect),
        r"policy must be .*such as safedial\.reconnect\(\).*not .*function.*reconnect",
    ),
    "an address in a string": (wrap_with(CONNECT, address="db:5432"), r"address must be a pair, such as .*not a str"),
    "a port": (wrap_with(CONNECT, address=5432), r"address must be a pair, such as .*not 5432"),
    "wrapped twice": (wrap_with(safedial.wrap(CONNECT)), "has a policy already, by wrap.*would multiply"),
    "wrapped twice, a class": (wrap_with(safedial.wrap(pika.BlockingConnection)), "has a policy already"),
    "wrapped twice, in a partial": (wrap_with(functools.partial(safedial.wrap(CONNECT), 1)), "has a policy already"),
    "nothing at all": (wrap_with(), r"write wrap\(connect, policy=\.\.\.\).*@functools\.partial\(safedial\.wrap"),
    "a decorator with arguments": (wrap_with(policy=None), r"@functools\.partial\(safedial\.wrap, policy="),
    "a Dialer": (wrap_with(CONNECT, dialer=safedial.Dialer()), r"not dialer=: .*wrap\(connect, policy=\.\.\.\)"),
    "a time limit": (wrap_with(CONNECT, timeout=5), r"not timeout=: .*wrap\(connect\)\(\.\.\., timeout="),
    "a host": (wrap_with(CONNECT, host="db", port=1), r"not host=: .*address=\(host, port\)"),
    "an argument of the factory": (wrap_with(CONNECT, user="app"), r"not user=: .*wrap\(connect\)\(host, port\)"),
    "a module": (wrap_with(asyncpg), r"not a module: write wrap\(asyncpg\.connect\)"),
    "a module without connect": (wrap_with(asyncio), "not a module$"),
    "an engine": (wrap_with(sqlalchemy.create_engine("sqlite://")), protect("sqlalchemy")),
    "a session": (wrap_with(requests.Session()), protect("requests")),
    "a sessionmaker": (wrap_with(sqlalchemy.orm.sessionmaker()), protect("sqlalchemy")),
    "a protected client": (wrap_with(safedial.adapters.redis.protect(redis.Redis())), "factory must be .*not a Redis"),
    "a blocking cluster": (
        wrap_with(redis.cluster.RedisCluster),
        r"redis\.RedisCluster\.from_url\(url, connection_pool_class=safedial\.adapters\.redis\.SafeConnectionPool\)",
    ),
    "a blocking cluster, by URL": (
        wrap_with(valkey.ValkeyCluster.from_url),
        r"valkey\.ValkeyCluster\.from_url\(url, connection_pool_class=safedial\.adapters\.valkey\.SafeConnectionPool",
    ),
    "a cluster in asyncio": (wrap_with(redis.asyncio.RedisCluster), protect("redis")),
    "a client": (wrap_with(redis.Redis(password="s3cret")), protect("redis")),
    "a call that dials later": (wrap_with(websockets.connect("ws://db")), r"write wrap\(connect\), before"),
    "a generator function": (wrap_with(generator_function), r"is a generator function.*contextlib\.contextmanager"),
    "nothing": (wrap_with(None), "factory must be a function or class that connects, not a NoneType"),
    "connections of a URL": (connect_to(SECRET), r"target must be .*address.*functools\.partial\(connect, url\)"),
    "connections of a client": (connect_to(redis.Redis(password="s3cret")), "^target: .*" + protect("redis")),
    "connections of two arguments": (
        lambda: safedial.connections("db", 5432),
        r'an address is a pair: connections\(\("db", 5432\)\)',
    ),
    "connections of a function and its arguments": (
        lambda: safedial.connections(CONNECT, "db"),
        r"connections\(functools\.partial\(connect, \.\.\.\)\)",
    ),
    "connections of nothing": (safedial.connections, r'connections\(\("db", 5432\)\) or connections\(connect\)'),
    "connections of a number": (connect_to(5432), r"target must be a \(host, port\) address or a function"),
    "connections of a policy": (connect_to(safedial.reconnect()), r"connections\(connect, policy=\.\.\.\)"),
    "connections with two policies": (
        connect_to(safedial.wrap(CONNECT, policy=safedial.reconnect())),
        "^target: .*has a policy already.*would multiply",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_answered_by_the_right_line(name):
    make, words = MISTAKES[name]
    with pytest.raises(TypeError, match=words) as caught:
        make()
    assert "s3cret" not in str(caught.value)


def test_methods_and_callables_that_dial_in_c():
    # Of grpc no real one: its first channel leaves descriptors that last until the process ends.
    method = object.__new__(grpc._channel._UnaryUnaryMultiCallable)
    with zmq.Context() as context, context.socket(zmq.REQ) as sock:
        for dial in (sock.connect, method, method.future):
            for use in (safedial.wrap, safedial.connections):
                with pytest.raises(TypeError, match=r"dials in C.*safedial\.install\(hold=\[\(host, port\)\]\)"):
                    use(dial)


@pytest.mark.parametrize("use", [safedial.wrap, safedial.connections])
def test_coroutine_is_closed(use):
    with pytest.raises(TypeError, match=r"not a coroutine: write .*before the connect is called"):
        use(coroutine_function())
    gc.collect()  # it would warn of a coroutine that was never awaited


@pytest.mark.parametrize("use", [safedial.wrap, safedial.connections])
def test_connection_is_no_factory(use):
    with testing.Outage() as server, socket.create_connection(server.address) as sock:
        with pytest.raises(TypeError, match="not a socket, a connection: wrap the function that makes it"):
            use(sock)
        assert sock.fileno() != -1


@pytest.mark.parametrize("policy", [{}, {"policy": None}])
def test_connections_take_a_wrapped_factory_without_a_policy_of_its_own(policy):
    with testing.Outage() as server:
        connect = functools.partial(safedial.wrap(CONNECT, **policy), server.address)
        with next(iter(safedial.connections(connect))) as sock:
            assert sock.getpeername() == server.address


def test_signature_is_the_documented_one():
    assert list(inspect.signature(safedial.wrap).parameters) == ["factory", "policy", "address", "on_event"]
    assert list(inspect.signature(safedial.connections).parameters) == ["target", "policy", "stable_after", "options"]
