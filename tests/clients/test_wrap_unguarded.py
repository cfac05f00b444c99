"""What wrap() and connections() say of dials that they can't reach: later ones of a client, and failed ones in C."""

import asyncio
import contextlib
import functools
import logging
import socket

import aiohttp
import asyncpg
import httpx
import nats
import psycopg
import psycopg2
import pymemcache
import pytest
import redis
import redis.asyncio
import requests
import sqlalchemy
import sqlalchemy.orm
import urllib3
import valkey
from paho.mqtt import client as paho

import safedial
from safedial import testing
from safedial._clients import refusals
from tests.support import databases as servers
from tests.support import redis_server

HOST, USER = servers.HOST, servers.USER
ADAPTERS = safedial.adapters
# Fixtures.
_directory, postgres, postgres_command = servers._directory, servers.postgres, servers.postgres_command


@pytest.fixture(autouse=True)
def warned(monkeypatch, caplog):
    """The lines that wrap() has warned with, in a process that was not warned before."""
    monkeypatch.setattr(refusals, "_warned", {})
    return lambda: [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


def answer_http(sock):
    while sock.recv(1000):
        sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


def answer_resp(sock):
    while words := sock.recv(1000).count(b"*"):
        sock.sendall(b"+PONG\r\n" * words)


def same(client, **_):
    return client


# --- clients that dial again by themselves ---------------------------------------------------------------


def use_redis(kind, protect):
    def make(port):
        client = protect(kind(host=HOST, port=port, protocol=2))
        client.ping()
        return client

    return make


def use_requests(protect):
    def make(port):
        session = protect(requests.Session())
        session.trust_env = False
        session.get(f"http://{HOST}:{port}")
        return session

    return make


def use_httpx(protect):
    def make(port):
        client = protect(httpx.Client(trust_env=False))
        client.get(f"http://{HOST}:{port}")
        return client

    return make


def use_urllib3(protect):
    def make(port):
        manager = protect(urllib3.PoolManager())
        manager.request("GET", f"http://{HOST}:{port}")
        manager.close = manager.clear
        return manager

    return make


BLOCKING = {
    "redis": (answer_resp, functools.partial(use_redis, redis.Redis)),
    "valkey": (answer_resp, functools.partial(use_redis, valkey.Valkey)),
    "requests": (answer_http, use_requests),
    "httpx": (answer_http, use_httpx),
    "urllib3": (answer_http, use_urllib3),
}


@pytest.mark.parametrize("name", BLOCKING)
class TestClientThatDialsAgain:
    def test_is_warned_of_once(self, name, warned):
        handler, use = BLOCKING[name]
        with testing.Outage(handler) as server:
            for _ in range(2):
                safedial.wrap(use(same))(server.port).close()
        (line,) = warned()
        assert "which dials again by itself later, unguarded: " in line
        assert f"use safedial.adapters.{name}.protect(...), inside this function" in line

    def test_may_be_protected(self, name, warned):
        handler, use = BLOCKING[name]
        with testing.Outage(handler) as server:
            safedial.wrap(use(getattr(ADAPTERS, name).protect))(server.port).close()
        assert not warned()

    def test_is_no_matter_under_install(self, name, warned):
        handler, use = BLOCKING[name]
        safedial.install(hold=[])
        try:
            with testing.Outage(handler) as server:
                safedial.wrap(use(same))(server.port).close()
        finally:
            safedial.uninstall()
        assert not warned()


def test_such_a_client_in_a_reconnect_loop(warned):
    with testing.Outage(answer_resp) as server:
        for connection in safedial.connections(functools.partial(use_redis(redis.Redis, same), server.port)):
            with connection as client:
                assert client
            break
    (line,) = warned()
    assert "safedial.adapters.redis.protect(...)" in line


def redis_pool(port):
    pool = redis.ConnectionPool(host=HOST, port=port, protocol=2, connection_class=ADAPTERS.redis.SafeConnection)
    client = redis.Redis(connection_pool=pool)
    client.ping()
    return client


def requests_adapters(port):
    session = requests.Session()
    for prefix in ("http://", "https://"):
        session.mount(prefix, ADAPTERS.requests.SafeHTTPAdapter())
    session.trust_env = False
    session.get(f"http://{HOST}:{port}")
    return session


def httpx_transport(port):
    client = httpx.Client(transport=ADAPTERS.httpx.SafeHTTPTransport())
    client.get(f"http://{HOST}:{port}")
    return client


@pytest.mark.parametrize(
    ("handler", "use"),
    [(answer_resp, redis_pool), (answer_http, requests_adapters), (answer_http, httpx_transport)],
)
def test_client_of_a_safe_class_is_protected(handler, use, warned):
    with testing.Outage(handler) as server:
        safedial.wrap(use)(server.port).close()
    assert not warned()


@pytest.mark.parametrize("protect", [same, ADAPTERS.aiohttp.protect])
def test_aiohttp(protect, warned):
    async def make(port):
        session = protect(aiohttp.ClientSession())
        async with session.get(f"http://{HOST}:{port}"):
            return session

    async def main():
        await (await safedial.wrap(make)(server.port)).close()

    with testing.Outage(answer_http) as server:
        asyncio.run(main())
    assert bool(warned()) is (protect is same)


@pytest.mark.parametrize("protect", [same, ADAPTERS.redis.protect])
def test_redis_in_asyncio(protect, warned):
    async def make(port):
        client = protect(redis.asyncio.Redis(host=HOST, port=port, protocol=2))
        await client.ping()
        return client

    async def main():
        await (await safedial.wrap(make)(server.port)).aclose()

    with testing.Outage(answer_resp) as server:
        asyncio.run(main())
    assert bool(warned()) is (protect is same)


@pytest.mark.parametrize("module", [socket, ADAPTERS.socket])
def test_pymemcache(module, warned):
    def make(port):
        client = pymemcache.Client((HOST, port), socket_module=module)
        client.version()
        return client

    with testing.Outage(lambda sock: sock.recv(100) and sock.sendall(b"VERSION 1\r\n")) as server:
        safedial.wrap(make)(server.port).close()
    assert ["socket_module=safedial.adapters.socket" in each for each in warned()] == [True] * (module is socket)


def test_protected_client_that_has_not_dialed(warned):
    def make():
        return ADAPTERS.redis.protect(redis.Redis())

    assert isinstance(safedial.wrap(make)(), redis.Redis)
    assert not warned()


@pytest.mark.parametrize("protect", [same, ADAPTERS.sqlalchemy.protect])
def test_engine_and_session(postgres, protect, warned):
    url = f"postgresql+pg8000://{USER}@{HOST}:{postgres.port}/postgres"

    def make():
        engine = protect(sqlalchemy.create_engine(url))
        with engine.connect():
            return engine

    def make_session():
        session = sqlalchemy.orm.Session(engine)
        session.execute(sqlalchemy.text("SELECT 1"))
        session.rollback()
        return session

    engine = safedial.wrap(make)()
    assert ["safedial.adapters.sqlalchemy.protect" in each for each in warned()] == [True] * (protect is same)
    engine.dispose()
    with safedial.wrap(make_session)():
        pass
    assert len(warned()) == 2 * (protect is same)
    engine.dispose()


@pytest.mark.parametrize("wrapped", [same, safedial.wrap])
def test_asyncpgs_pool(postgres, wrapped, warned):
    async def make():
        place = {"host": HOST, "port": postgres.port, "user": USER, "database": "postgres"}
        return await asyncpg.create_pool(connect=wrapped(asyncpg.connect), min_size=1, max_size=1, **place)

    async def main():
        await (await safedial.wrap(make)()).close()

    asyncio.run(main())
    assert ["connect=safedial.wrap(asyncpg.connect)" in each for each in warned()] == [True] * (wrapped is same)


def test_redis_over_a_unix_socket(tmp_path, warned):
    def make():
        client = redis.Redis(unix_socket_path=path)
        client.ping()
        return client

    path = str(tmp_path / "socket")
    with redis_server.server(tmp_path, "--port", "{port}", "--unixsocket", path):
        safedial.wrap(make)().close()
    assert not warned()


# --- clients that connect again in tasks or threads of their own -----------------------------------------


def answer_nats(sock):
    sock.sendall(b'INFO {"server_id":"1","version":"2","go":"1","host":"h","port":1,"max_payload":100}\r\n')
    while words := sock.recv(1000):
        sock.sendall(b"PONG\r\n" * words.count(b"PING"))


def test_nats(warned):
    async def main():
        client = await safedial.wrap(nats.connect)(f"nats://{HOST}:{server.port}")
        await client.close()

    with testing.Outage(answer_nats) as server:
        asyncio.run(main())
    (line,) = warned()
    assert "nats.connect returned nats.aio.client.Client, which dials again by itself later" in line
    assert "safedial.install()" in line


def test_method_of_such_a_client(warned):
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    with testing.Outage() as server:
        safedial.wrap(client.connect)(HOST, server.port)
        client._sock_close()
    (line,) = warned()
    assert "is a method of paho.mqtt.client.Client, which dials again by itself later" in line
    assert "safedial.install()" in line


@pytest.mark.parametrize("name", ["pymongo.MongoClient", "aiokafka.AIOKafkaProducer"])
def test_clients_of_many_servers_have_lines(name):
    package, _, kind = name.partition(".")
    module = pytest.importorskip(package, reason=f"{package} has no wheel for this Python")
    with pytest.raises(TypeError, match=r"call safedial\.install\(\)"):
        safedial.wrap(getattr(module, kind))


# --- calls that failed, and were not guarded -------------------------------------------------------------


def factories(port):
    dsn = f"host={HOST} port={port} user={USER} connect_timeout=2"
    engine = sqlalchemy.create_engine(f"postgresql+psycopg2://{USER}@{HOST}:{port}/postgres")
    return {
        "psycopg": (lambda: psycopg.connect(dsn), "address="),
        "psycopg2": (lambda: psycopg2.connect(dsn), "address="),
        "an engine": (engine.connect, "safedial.adapters.sqlalchemy.protect"),
    }


@pytest.mark.parametrize("name", factories(1))
class TestFailedDialInC:
    def test_is_warned_of_once(self, name, refused_port, warned):
        connect, words = factories(refused_port)[name]
        for _ in range(2):
            with pytest.raises(Exception, match="refused"):
                safedial.wrap(connect)()
        (line,) = warned()
        assert "failed, and safedial saw it make no connection, so nothing was guarded" in line
        assert words in line

    def test_is_warned_of_in_a_reconnect_loop(self, name, refused_port, warned):
        connect, words = factories(refused_port)[name]
        with contextlib.suppress(psycopg.Error, psycopg2.Error, sqlalchemy.exc.OperationalError):
            next(iter(safedial.connections(connect, policy=safedial.redial()))).__enter__()
        assert words in warned()[0]

    def test_is_no_matter_if_it_is_guarded(self, name, refused_port, warned):
        connect, _ = factories(refused_port)[name]
        with pytest.raises(Exception, match="refused"):
            safedial.wrap(connect, address=(HOST, refused_port))()
        safedial.install(hold=[])
        try:
            with pytest.raises(Exception, match="refused"):
                safedial.wrap(connect)()
        finally:
            safedial.uninstall()
        assert not warned()


def mistaken():
    raise TypeError("a mistake of the program")


def unresolved():
    raise socket.gaierror(socket.EAI_AGAIN, "no answer")


def refused(port):
    return socket.create_connection((HOST, port))


def test_other_failures_are_not_warned_of(refused_port, warned):
    known = functools.partial(psycopg.connect, host=HOST, port=refused_port)
    for connect in (mistaken, unresolved, functools.partial(refused, refused_port), known):
        with pytest.raises((TypeError, OSError, psycopg.Error)):
            safedial.wrap(connect)()
    assert not warned()
