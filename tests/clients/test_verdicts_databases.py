"""The verdict on what real databases answer: starting, stopping, full, a failed login, an unknown database."""

import contextlib
import functools
import os
import signal
import socket
import ssl
import tempfile
import time
from pathlib import Path

import aiomysql
import asyncpg
import mysql.connector
import mysql.connector.aio
import pg8000
import psycopg
import psycopg2
import pymemcache
import pymysql
import pytest
import redis
import redis.asyncio
import sqlalchemy
import trustme
import valkey
import valkey.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy.ext.asyncio import create_async_engine

import safedial
from safedial.testing import Outage
from tests.support import databases, redis_server
from tests.support.policies import retrying
from tests.support.verdicts import judged

# Some drivers leave the socket of a failed login to the collector.
pytestmark = [pytest.mark.storm, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]

HOST = "127.0.0.1"
DENIED = {("PERMANENT", "authentication_error")}
NO_DATABASE = {("PERMANENT", "unknown_database")}
CERTIFICATE = {("PERMANENT", "certificate_error")}
FULL = {("TRANSIENT", "too_many_connections")}
UNAVAILABLE = {("TRANSIENT", "server_unavailable")}


def use(connect, **names):
    """Return a function that dials with *connect*, and closes what it returns; *names* are its own for arguments."""

    def dial(**arguments):
        with contextlib.closing(connect(**{names.get(name, name): value for name, value in arguments.items()})):
            pass

    return dial


def use_async(connect, **names):
    async def dial(**arguments):
        await connect(**{names.get(name, name): value for name, value in arguments.items()})

    return dial


def use_engine(driver, **query):
    def dial(**arguments):
        engine = sqlalchemy.create_engine(url(driver, **arguments), poolclass=sqlalchemy.NullPool, connect_args=query)
        with engine.connect():
            pass

    return dial


def use_async_engine(driver):
    async def dial(**arguments):
        async with create_async_engine(url(driver, **arguments), poolclass=sqlalchemy.NullPool).connect():
            pass

    return dial


def url(driver, host, port, user, password, database):
    return f"{driver}://{user}:{password}@{host}:{port}/{database}"


def all_judged(clients, **arguments):
    return {name: judged(lambda dial=dial: dial(host=HOST, **arguments)) for name, dial in clients.items()}


POSTGRES = {
    "psycopg": use(psycopg.connect, database="dbname"),
    "psycopg, async": use_async(psycopg.AsyncConnection.connect, database="dbname"),
    "psycopg2": use(psycopg2.connect, database="dbname"),
    "asyncpg": use_async(asyncpg.connect),
    "pg8000": use(pg8000.connect),
    "SQLAlchemy, psycopg": use_engine("postgresql+psycopg"),
    "SQLAlchemy, psycopg2": use_engine("postgresql+psycopg2"),
    "SQLAlchemy, pg8000": use_engine("postgresql+pg8000"),
    "SQLAlchemy, asyncpg": use_async_engine("postgresql+asyncpg"),
}
ACCESS = """
host all locked 127.0.0.1/32 scram-sha-256
host all nobody 127.0.0.1/32 reject
host all all 127.0.0.1/32 trust
"""
ROLES = [
    "CREATE ROLE locked LOGIN PASSWORD 'right'",
    "CREATE ROLE nobody LOGIN",
    "CREATE ROLE limited LOGIN CONNECTION LIMIT 0",
    "CREATE ROLE plain LOGIN",
    "CREATE ROLE group1 NOLOGIN",
]


@pytest.fixture(scope="module")
def data():
    # pytest's own directory is closed to other users, and PostgreSQL runs as another user.
    with tempfile.TemporaryDirectory(prefix="safedial-verdicts-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.fixture(scope="module")
def postgres(data):
    """A PostgreSQL for five sessions."""
    command = databases.make_postgres(data)
    (data / "postgres" / "pg_hba.conf").write_text(ACCESS)
    with Outage([*command, "-c", "max_connections=5", "-c", "superuser_reserved_connections=1"], within=20) as server:
        databases.postgres_answers(server.port)
        with psycopg.connect(host=HOST, port=server.port, user="app", dbname="postgres", autocommit=True) as session:
            for statement in ROLES:
                session.execute(statement)
        yield server


@pytest.fixture
def postgres_of_its_own():
    with tempfile.TemporaryDirectory(prefix="safedial-verdicts-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)
        with Outage(databases.make_postgres(directory), within=20) as server:
            databases.postgres_answers(server.port)
            yield server, Path(directory, "postgres")


class TestPostgres:
    @pytest.mark.parametrize(
        ("user", "database", "expected"),
        [
            ("locked", "postgres", DENIED),
            ("nobody", "postgres", DENIED),
            ("unknown", "postgres", DENIED),
            ("group1", "postgres", DENIED),
            ("plain", "unknown", NO_DATABASE),
            ("limited", "postgres", FULL),
        ],
    )
    def test_login(self, postgres, user, database, expected):
        found = all_judged(POSTGRES, port=postgres.port, user=user, password="wrong", database=database)
        assert set(found.values()) == expected, found

    @pytest.mark.parametrize(("user", "database"), [("nobody", "postgres"), ("plain", "unknown")])
    def test_login_is_tried_once(self, postgres, user, database):
        dials = []
        for connect in (psycopg.connect, psycopg2.connect):
            policy = retrying(3, 0, before=dials.append)
            with pytest.raises((psycopg.Error, psycopg2.Error)):
                safedial.wrap(connect, policy=policy)(host=HOST, port=postgres.port, user=user, dbname=database)
        assert len(dials) == 2

    def test_full(self, postgres):
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    session = psycopg.connect(host=HOST, port=postgres.port, user="app", dbname="postgres")
                    stack.enter_context(contextlib.closing(session))
            found = all_judged(POSTGRES, port=postgres.port, user="plain", password="", database="postgres")
        assert set(found.values()) == FULL, found

    def test_stopping_then_starting(self, postgres_of_its_own):
        server, data = postgres_of_its_own
        settings = {"host": HOST, "port": server.port, "user": "app", "dbname": "postgres"}
        arguments = {"port": server.port, "user": "app", "password": "", "database": "postgres"}
        process = int((data / "postmaster.pid").read_text().split()[0])
        with contextlib.closing(psycopg.connect(**settings)):
            os.kill(process, signal.SIGTERM)  # it waits for this session's end
            while "shutting" not in message(settings):
                time.sleep(0.01)
            found = all_judged(POSTGRES, **arguments)
            assert set(found.values()) == UNAVAILABLE, found
        server.kill()
        (data / "recovery.signal").touch()
        (gate := data / "gate").touch()
        with (data / "postgresql.auto.conf").open("a") as more:
            more.write(f"restore_command = 'while test -e {gate}; do sleep 0.05; done; false'\n")  # recovery waits
        server.start()
        while "starting" not in message(settings):
            time.sleep(0.01)
        found = all_judged(POSTGRES, **arguments)
        gate.unlink()
        assert set(found.values()) == UNAVAILABLE, found

    def test_one_server_refuses_and_the_next_denies(self, postgres, refused_port):
        for connect in (psycopg.connect, psycopg2.connect):
            found = judged(
                lambda connect=connect: connect(
                    host=f"{HOST},{HOST}", port=f"{refused_port},{postgres.port}", user="nobody", dbname="postgres"
                )
            )
            assert found in DENIED

    def test_certificate(self, postgres, tmp_path):
        trustme.CA().cert_pem.write_to_path(str(root := tmp_path / "another.pem"))
        for connect in (psycopg.connect, psycopg2.connect):
            tls = {"sslmode": "verify-full", "sslrootcert": str(root)}
            found = judged(
                lambda connect=connect, tls=tls: connect(host=HOST, port=postgres.port, user="app", dbname="app", **tls)
            )
            assert found in CERTIFICATE
        context = ssl.create_default_context()
        for call in (
            lambda: asyncpg.connect(host=HOST, port=postgres.port, user="app", database="postgres", ssl=context),
            lambda: pg8000.connect("app", host=HOST, port=postgres.port, database="postgres", ssl_context=context),
        ):
            assert judged(call) in CERTIFICATE


def message(settings):
    try:
        psycopg.connect(**settings).close()
    except psycopg.OperationalError as error:
        return str(error)
    return ""


MYSQL = {
    "PyMySQL": use(pymysql.connect),
    "mysql-connector": use(functools.partial(mysql.connector.connect, use_pure=True)),
    "mysql-connector, C": use(functools.partial(mysql.connector.connect, use_pure=False)),
    "mysql-connector, async": use_async(mysql.connector.aio.connect),
    "aiomysql": use_async(aiomysql.connect, database="db"),
    "SQLAlchemy, PyMySQL": use_engine("mysql+pymysql"),
    "SQLAlchemy, mysql-connector": use_engine("mysql+mysqlconnector", use_pure=True),
    "SQLAlchemy, aiomysql": use_async_engine("mysql+aiomysql"),
}
if not mysql.connector.HAVE_CEXT:
    del MYSQL["mysql-connector, C"]
USERS = [
    "CREATE USER plain@'%' IDENTIFIED BY 'right'",
    "GRANT SELECT ON *.* TO plain@'%'",
    "CREATE USER poor@'%' IDENTIFIED BY 'right'",
    "CREATE USER limited@'%' IDENTIFIED BY 'right' WITH MAX_USER_CONNECTIONS 1",
    "CREATE USER locked@'%' IDENTIFIED BY 'right' ACCOUNT LOCK",
]


@pytest.fixture(scope="module")
def mariadb(data):
    """A MariaDB for ten sessions, its least."""
    command = databases.make_mariadb(data)
    with Outage([*command, "--max-connections=10"], within=20) as server:
        root = pymysql.connect(unix_socket=str(data / "mariadb" / "socket"), user="root")
        with contextlib.closing(root), root.cursor() as cursor:
            for statement in USERS:
                cursor.execute(statement)
        yield server


class TestMariaDB:
    @pytest.mark.parametrize(
        ("user", "password", "database", "expected"),
        [
            ("plain", "wrong", "app", DENIED),
            ("locked", "right", "app", DENIED),
            ("poor", "right", "app", DENIED),
            ("plain", "right", "unknown", NO_DATABASE),
        ],
    )
    def test_login(self, mariadb, user, password, database, expected):
        found = all_judged(MYSQL, port=mariadb.port, user=user, password=password, database=database)
        assert set(found.values()) == expected, found

    @pytest.mark.parametrize("user", ["limited", "plain"])
    def test_full(self, mariadb, user):
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(pymysql.Error):
                while True:
                    session = pymysql.connect(host=HOST, port=mariadb.port, user=user, password="right")
                    stack.enter_context(contextlib.closing(session))
            found = all_judged(MYSQL, port=mariadb.port, user=user, password="right", database="mysql")
        assert set(found.values()) == FULL, found

    def test_certificate(self, mariadb, tmp_path):
        trustme.CA().cert_pem.write_to_path(str(root := tmp_path / "another.pem"))
        context = ssl.create_default_context()
        calls = {
            "PyMySQL": lambda: pymysql.connect(host=HOST, port=mariadb.port, user="plain", ssl=context),
            "aiomysql": lambda: aiomysql.connect(host=HOST, port=mariadb.port, user="plain", ssl=context),
        }
        for name, pure in {"mysql-connector": True, "mysql-connector, C": False}.items():
            calls[name] = lambda pure=pure: mysql.connector.connect(
                host=HOST, port=mariadb.port, user="plain", ssl_ca=str(root), ssl_verify_cert=True, use_pure=pure
            )
        found = {name: judged(call) for name, call in calls.items() if name in MYSQL}
        assert set(found.values()) == CERTIFICATE, found


def use_redis(kind, **once):
    def dial(**arguments):
        with contextlib.closing(kind(**arguments, **once)) as client:
            client.ping()

    return dial


def use_redis_async(kind, **once):
    async def dial(**arguments):
        async with kind(**arguments, **once) as client:
            await client.ping()

    return dial


REDIS = {
    "redis": use_redis(redis.Redis, retry=Retry(NoBackoff(), 0)),
    "redis, async": use_redis_async(redis.asyncio.Redis, retry=redis.asyncio.retry.Retry(NoBackoff(), 0)),
    "valkey": use_redis(valkey.Valkey),
    "valkey, async": use_redis_async(valkey.asyncio.Valkey),
}


class TestRedis:
    @pytest.mark.parametrize("protocol", [2, 3])
    def test_login(self, tmp_path, protocol):
        with redis_server.server(tmp_path, "--port", "{port}", "--requirepass", "right") as server:
            for password in ({}, {"password": "wrong"}):
                found = all_judged(REDIS, port=server.port, protocol=protocol, **password)
                assert set(found.values()) == DENIED, found

    @pytest.mark.parametrize("protocol", [2, 3])
    def test_full(self, tmp_path, protocol):
        with redis_server.server(tmp_path, "--port", "{port}", "--maxclients", "1") as server, only_client(server):
            found = all_judged(REDIS, port=server.port, protocol=protocol)
        assert set(found.values()) <= FULL | {("TRANSIENT", "connection_reset"), ("TRANSIENT", "broken_pipe")}, found
        assert set(found.values()) >= FULL

    def test_master_of_a_replica_is_down(self, tmp_path, refused_port):
        replica = ["--replicaof", HOST, str(refused_port), "--replica-serve-stale-data", "no"]
        with redis_server.server(tmp_path, "--port", "{port}", *replica) as server:
            found = all_judged(REDIS, port=server.port)
        assert set(found.values()) == UNAVAILABLE, found

    def test_loading(self, tmp_path):
        with redis_server.server(tmp_path, "--port", "{port}") as server, redis.Redis(port=server.port) as client:
            client.mset({str(number): "x" * 10_000 for number in range(60)})
            client.config_set("rdbcompression", "no")
            client.save()
        # It answers between two keys: 60 times in 3 s.
        slowly = ["--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024"]
        with redis_server.server(tmp_path, "--port", "{port}", *slowly) as server:
            found = all_judged(REDIS, port=server.port)
        assert set(found.values()) == UNAVAILABLE, found


@contextlib.contextmanager
def only_client(server):
    """Be the only client of a redis-server that takes one."""
    answer = b""
    while not answer.startswith(b"+PONG"):  # the server may not yet have seen the last one go
        sock = socket.create_connection(server.address)
        sock.sendall(b"PING\r\n")
        if not (answer := sock.recv(100)).startswith(b"+PONG"):
            sock.close()
    with sock:
        yield


def test_memcached_is_full():
    # With fewer connections it can't open /etc/passwd to find the user.
    command = ["memcached", "-u", "nobody", "-l", "{host}", "-p", "{port}", "-c", "32", "-t", "1"]
    with Outage(command) as server, contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(server.address))

        def get():
            with contextlib.closing(pymemcache.Client(server.address, timeout=1)) as client:
                client.get("a")

        assert judged(get) in FULL
