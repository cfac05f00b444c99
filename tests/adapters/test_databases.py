"""Databases made safe by one line: real drivers, a real PostgreSQL and a real MariaDB."""

import asyncio
import contextlib
import functools
import inspect
import itertools
import random
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import aiomysql
import asyncpg
import mysql.connector
import mysql.connector.aio
import pg8000
import psycopg
import psycopg2
import psycopg_pool
import pymongo
import pymysql
import pytest
import sqlalchemy
import tenacity
import uvloop
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

import safedial
from safedial import testing
from safedial._retry import transient
from safedial.adapters import databases
from safedial.adapters._drivers import FINDERS
from safedial.adapters.sqlalchemy import protect
from tests.support import databases as servers
from tests.support import faults, namespace

HOST, USER = servers.HOST, servers.USER
# Fixtures.
_directory, mariadb, mariadb_command = servers._directory, servers.mariadb, servers.mariadb_command
postgres, postgres_command = servers.postgres, servers.postgres_command
QUESTION = "SELECT 6 * 7"


def plain(factory, **_):
    """Stands in for wrap() and protect(), where it is seen what comes without."""
    return factory


def ask(connection, question=QUESTION):
    with contextlib.closing(connection), contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(question)
        return cursor.fetchone()[0]


def use(connect, **arguments):
    """A blocking driver, as ``use(wrap, host, port, **options)``."""
    names = {"user": "user", "timeout": "timeout", **arguments.pop("names", {})}

    def dial(wrap, host, port, *, timeout=None, question=QUESTION, **options):
        limit = {} if timeout is None else {names["timeout"]: timeout}
        return ask(wrap(connect)(host=host, port=port, user=USER, **arguments, **limit, **options), question)

    return dial


def use_psycopg_async(wrap, host, port, *, question=QUESTION, **options):
    async def main():
        connect = wrap(psycopg.AsyncConnection.connect)
        async with await connect(host=host, port=port, user=USER, dbname="postgres", **options) as connection:
            cursor = await connection.execute(question)
            return (await cursor.fetchone())[0]

    return asyncio.run(main())


def use_psycopg_class(wrap, host, port, *, question=QUESTION, **options):
    return ask(
        wrap(psycopg.Connection).connect(host=host, port=port, user=USER, dbname="postgres", **options), question
    )


def use_asyncpg(wrap, host, port, *, question=QUESTION, runner=asyncio.run, **options):
    async def main():
        connection = await wrap(asyncpg.connect)(host=host, port=port, user=USER, database="postgres", **options)
        try:
            return await connection.fetchval(question)
        finally:
            await connection.close()

    return runner(main())


def use_aiomysql(wrap, host, port, *, timeout=None, question=QUESTION, **options):
    async def main():
        connect = wrap(aiomysql.connect)
        async with connect(host=host, port=port, user=USER, connect_timeout=timeout, **options) as connection:
            cursor = await connection.cursor()
            await cursor.execute(question)
            return (await cursor.fetchone())[0]

    return asyncio.run(main())


def use_mysql_async(wrap, host, port, *, timeout=5, question=QUESTION, **options):
    async def main():
        connect = wrap(mysql.connector.aio.connect)
        connection = await connect(host=host, port=port, user=USER, connection_timeout=timeout, **options)
        async with connection, await connection.cursor() as cursor:
            await cursor.execute(question)
            return (await cursor.fetchone())[0]

    return asyncio.run(main())


def use_engine(url, **options):
    def dial(wrap, host, port, *, question=QUESTION):
        safe = plain if wrap is plain else functools.partial(protect, **getattr(wrap, "keywords", {}))
        engine = safe(sqlalchemy.create_engine(url.format(host=host, port=port), **options))
        try:
            with engine.connect() as connection:
                return connection.scalar(sqlalchemy.text(question))
        finally:
            engine.dispose()

    return dial


def use_async_engine(url, **options):
    def dial(wrap, host, port, *, question=QUESTION):
        async def main():
            safe = plain if wrap is plain else functools.partial(protect, **getattr(wrap, "keywords", {}))
            engine = safe(create_async_engine(url.format(host=host, port=port), **options))
            try:
                async with engine.connect() as connection:
                    return await connection.scalar(sqlalchemy.text(question))
            finally:
                await engine.dispose()

        return asyncio.run(main())

    return dial


MYSQL = {
    "PyMySQL": use(pymysql.connect, names={"timeout": "connect_timeout"}),
    "mysql-connector": use(mysql.connector.connect, use_pure=True, names={"timeout": "connection_timeout"}),
    "mysql-connector, C": use(mysql.connector.connect, use_pure=False, names={"timeout": "connection_timeout"}),
    "mysql-connector, async": use_mysql_async,
    "aiomysql": use_aiomysql,
    "SQLAlchemy, PyMySQL": use_engine(f"mysql+pymysql://{USER}@{{host}}:{{port}}/"),
    "SQLAlchemy, mysql-connector": use_engine(f"mysql+mysqlconnector://{USER}@{{host}}:{{port}}/?use_pure=true"),
    "SQLAlchemy, aiomysql": use_async_engine(f"mysql+aiomysql://{USER}@{{host}}:{{port}}/"),
}
POSTGRES = {
    "asyncpg": use_asyncpg,
    "asyncpg, ssl=False": functools.partial(use_asyncpg, ssl=False),
    "pg8000": use(pg8000.connect, database="postgres"),
    "SQLAlchemy, asyncpg": use_async_engine(f"postgresql+asyncpg://{USER}@{{host}}:{{port}}/postgres"),
    "SQLAlchemy, pg8000": use_engine(f"postgresql+pg8000://{USER}@{{host}}:{{port}}/postgres"),
}
# These dial in C.
LIBPQ = {
    "psycopg": use(psycopg.connect, dbname="postgres", names={"timeout": "connect_timeout"}),
    "psycopg, async": use_psycopg_async,
    "psycopg, the class": use_psycopg_class,
    "psycopg2": use(psycopg2.connect, dbname="postgres", names={"timeout": "connect_timeout"}),
    "SQLAlchemy, psycopg": use_engine(f"postgresql+psycopg://{USER}@{{host}}:{{port}}/postgres"),
    "SQLAlchemy, psycopg, async": use_async_engine(f"postgresql+psycopg://{USER}@{{host}}:{{port}}/postgres"),
    "SQLAlchemy, psycopg2": use_engine(f"postgresql+psycopg2://{USER}@{{host}}:{{port}}/postgres"),
    "asyncpg, uvloop": functools.partial(use_asyncpg, runner=uvloop.run),
}
C = {"mysql-connector, C": MYSQL["mysql-connector, C"], **LIBPQ}
PYTHON = {name: use for name, use in (MYSQL | POSTGRES).items() if name not in C}
ALL = PYTHON | C


def failure(dial, wrap, host, port, **options):
    with pytest.raises(Exception) as caught:  # noqa: PT011  # which one, is the question
        dial(wrap, host, port, **options)
    return caught.value


def retrying(times, **options):
    return tenacity.Retrying(
        **{"retry": safedial.retry_if_transient, "wait": tenacity.wait_fixed(0.01)} | options,
        stop=tenacity.stop_after_attempt(times),
    )


class TestSelfConnect:
    @pytest.mark.parametrize("steering", [True, False], ids=["steered", "unsteered"], indirect=True)
    @pytest.mark.parametrize("name", PYTHON)
    def test_is_the_drivers_own_refusal(self, name, force, steering, dead_port, refused_port):
        fault = force(dead_port)
        met = failure(PYTHON[name], databases.wrap, HOST, dead_port)
        assert fault.triggered
        faults.assert_server_can_bind(HOST, dead_port)
        testing.assert_no_self_connects()
        refused = failure(PYTHON[name], plain, HOST, refused_port)
        if isinstance(refused, ConnectionRefusedError):
            assert isinstance(met, safedial.SelfConnectError)
        else:
            assert type(met) is type(refused)
        assert any(isinstance(each, safedial.SelfConnectError) for each in behind(met))

    def test_does_not_happen_in_c(self):
        namespace.require()
        met, refused, without = namespace.call(dial_in_c, port_range=(40000, 40001))
        assert met == refused
        assert "SSL negotiation" in without

    def test_ping_reconnects_safely(self, mariadb, force):
        connection = databases.wrap(pymysql.connect)(host=HOST, port=mariadb.port, user=USER)
        mariadb.kill()
        fault = force(mariadb.port)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # PyMySQL's, of reconnect
            with pytest.raises(pymysql.OperationalError, match="self-connect"):
                connection.ping(reconnect=True)
        assert fault.triggered
        with pytest.raises(pymysql.OperationalError, match="self-connect"):
            connection.connect()
        assert mariadb.start().binds == 1
        connection.connect()
        assert ask(connection) == 42

    def test_mysql_connectors_reconnect(self, mariadb, force):
        connection = databases.wrap(mysql.connector.MySQLConnection)(host=HOST, port=mariadb.port, user=USER)
        mariadb.kill()
        fault = force(mariadb.port)
        with pytest.raises(mysql.connector.Error, match="self-connect"):
            connection.reconnect()
        assert fault.triggered
        mariadb.start()
        connection.reconnect()
        assert ask(connection) == 42

    def test_pymongo_with_install(self, force, dead_port, refused_port):
        assert type(mongo_failure(refused_port)) is pymongo.errors.ServerSelectionTimeoutError
        fault = force(dead_port)
        safedial.install()
        try:
            met = mongo_failure(dead_port)
            for thread in threading.enumerate():  # which may be dialing still
                if thread.name.startswith("pymongo"):
                    thread.join(5)
        finally:
            safedial.uninstall()
        assert fault.triggered
        assert type(met) is pymongo.errors.ServerSelectionTimeoutError
        assert "self-connect" in str(met)
        faults.assert_server_can_bind(HOST, dead_port)


def behind(error):
    """What SQLAlchemy and the drivers keep of the kernel's error, however they link it."""
    known = list(transient.errors_of(error))
    linked = [(each.__context__, getattr(each, "original_exception", None)) for each in known]
    return [*known, *itertools.chain(*linked)]


def dial_in_c():
    """In a range of two ports: each unguarded dial has an even chance to meet itself."""

    def kinds(dial, port, times):
        raised = [failure(dial, databases.wrap, HOST, port) for _ in range(times)]
        # Whatever the driver calls it, it was refused.
        return {(type(error).__name__, "refused" in str(error)) for error in raised}

    met = {name: kinds(dial, 40000, 20) for name, dial in C.items()}
    refused = {name: kinds(dial, 50000, 1) for name, dial in C.items()}
    without = " ".join(str(failure(LIBPQ["psycopg"], plain, HOST, 40000)) for _ in range(20))
    return met, refused, without


def mongo_failure(port):
    with (
        pymongo.MongoClient(HOST, port, serverSelectionTimeoutMS=1000) as client,
        pytest.raises(pymongo.errors.PyMongoError) as caught,
    ):
        client.admin.command("ping")
    return caught.value


class TestUse:
    @pytest.mark.parametrize("host", [HOST, "localhost"])  # whose first address, ::1, is dead
    def test_mariadb(self, mariadb, host):
        assert {name: dial(databases.wrap, host, mariadb.port) for name, dial in MYSQL.items()} == dict.fromkeys(
            MYSQL, 42
        )

    @pytest.mark.parametrize("host", [HOST, "localhost"])
    def test_postgres(self, postgres, host):
        drivers = POSTGRES | LIBPQ
        found = {name: patient(dial, host, postgres.port) for name, dial in drivers.items()}
        assert found == dict.fromkeys(drivers, 42)

    def test_postgres_conninfo(self, postgres):
        dsn = f"postgresql://{USER}@{HOST}:{testing.dead_port()},{HOST}:{postgres.port}/postgres"
        assert ask(safe_libpq(psycopg.connect)(dsn)) == 42
        assert ask(safe_libpq(psycopg2.connect)(dsn)) == 42
        assert ask(databases.wrap(psycopg.Connection).connect(dsn)) == 42
        assert ask(databases.wrap(functools.partial(psycopg.connect, dsn))(autocommit=True)) == 42

    def test_tls(self, postgres, mariadb, _directory):  # noqa: PT019
        authority = {name: str(Path(_directory, name, "ca.crt")) for name in ("postgres", "mariadb")}
        question = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        tls = {"sslmode": "verify-full", "sslrootcert": authority["postgres"], "question": question}
        assert patient(LIBPQ["psycopg"], "localhost", postgres.port, **tls) is True
        dsn = f"postgresql://{USER}@localhost:{postgres.port}/postgres?sslmode=verify-full"

        async def main():
            connection = await databases.wrap(asyncpg.connect)(f"{dsn}&sslrootcert={authority['postgres']}")
            try:
                return await connection.fetchval(question)
            finally:
                await connection.close()

        assert asyncio.run(main()) is True
        question = "SELECT variable_value <> '' FROM information_schema.session_status WHERE variable_name='ssl_cipher'"
        for name, options in {"PyMySQL": {"ssl_ca": authority["mariadb"]}, "mysql-connector": {}}.items():
            assert MYSQL[name](databases.wrap, "localhost", mariadb.port, question=question, **options)

    def test_source_address(self, mariadb):
        seen = MYSQL["PyMySQL"](databases.wrap, HOST, mariadb.port, question="SELECT user()", bind_address="127.0.0.2")
        assert seen == f"{USER}@127.0.0.2"

    def test_pools(self, postgres):
        url = f"postgresql+psycopg://{USER}@{HOST}:{postgres.port}/postgres"
        engine = protect(
            sqlalchemy.create_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.05), policy=until_it_answers()
        )
        pid = sqlalchemy.text("SELECT pg_backend_pid()")
        with engine.connect() as connection:
            first = connection.scalar(pid)
            with pytest.raises(sqlalchemy.exc.TimeoutError):
                engine.connect()
        with engine.connect() as connection:
            assert connection.scalar(pid) == first
        engine.dispose()

        async def main():
            async with asyncpg.create_pool(
                connect=databases.wrap(asyncpg.connect),
                host=HOST,
                port=postgres.port,
                user=USER,
                database="postgres",
                min_size=1,
                max_size=1,
            ) as pool:
                first = await pool.fetchval("SELECT pg_backend_pid()")
                return first == await pool.fetchval("SELECT pg_backend_pid()")

        assert asyncio.run(main())

    def test_pools_of_psycopg(self, postgres):
        settings = {"host": HOST, "port": postgres.port, "user": USER, "dbname": "postgres"}
        kind = databases.wrap(psycopg.Connection)
        with psycopg_pool.ConnectionPool(kwargs=settings, connection_class=kind, min_size=1, max_size=1) as pool:
            with pool.connection() as connection:
                assert type(connection) is kind
                first = connection.info.backend_pid
                assert connection.execute(QUESTION).fetchone() == (42,)
            with pool.connection() as connection:
                assert connection.info.backend_pid == first

        async def main():
            kind = databases.wrap(psycopg.AsyncConnection)
            async with (
                psycopg_pool.AsyncConnectionPool(kwargs=settings, connection_class=kind, open=False) as pool,
                pool.connection() as connection,
            ):
                assert type(connection) is kind
                return await (await connection.execute(QUESTION)).fetchone()

        assert asyncio.run(main()) == (42,)

    def test_pool_of_aiomysql_with_install(self, mariadb, force, dead_port):
        async def main(port):
            async with (
                aiomysql.create_pool(host=HOST, port=port, user=USER, maxsize=1) as pool,
                pool.acquire() as connection,
                connection.cursor() as cursor,
            ):
                await cursor.execute(QUESTION)
                return await cursor.fetchone()

        fault = force(dead_port)
        safedial.install()
        try:
            with pytest.raises(pymysql.OperationalError) as caught:
                asyncio.run(main(dead_port))
            assert asyncio.run(main(mariadb.port)) == (42,)
        finally:
            safedial.uninstall()
        assert fault.triggered
        assert any(isinstance(each, safedial.SelfConnectError) for each in behind(caught.value))
        faults.assert_server_can_bind(HOST, dead_port)

    @pytest.mark.parametrize("host", [HOST, "no-such-name.invalid"])
    def test_errors_are_the_drivers(self, host, refused_port):
        raised = {
            wrap: {name: type(failure(dial, wrap, host, refused_port)) for name, dial in ALL.items()}
            for wrap in (plain, databases.wrap)
        }
        assert raised[plain] == raised[databases.wrap]

    # Those whose limit may be less than a second.
    @pytest.mark.parametrize("name", ["PyMySQL", "aiomysql", "asyncpg", "pg8000"])
    def test_time_limits_are_the_drivers(self, name):
        with faults.full_listener() as silent:
            _, port = silent.getsockname()
            types = [type(failure(ALL[name], wrap, HOST, port, timeout=0.1)) for wrap in (plain, databases.wrap)]
        assert types[0] is types[1]

    @pytest.mark.parametrize("connect", [psycopg.connect, psycopg2.connect])
    def test_time_limit_of_libpq_is_one_for_policies(self, connect):
        with faults.full_listener() as silent:
            _, port = silent.getsockname()
            with pytest.raises((psycopg.OperationalError, psycopg2.OperationalError)) as caught:
                databases.wrap(connect)(host=HOST, port=port, user=USER, connect_timeout=2)
        assert safedial._retry.policies.is_transient(caught.value.__cause__)


def until_it_answers():
    """PostgreSQL listens a moment before it lets anybody in."""
    starting = tenacity.retry_if_exception(servers.is_starting)
    return retrying(500, retry=safedial.retry_if_transient | starting)


def patient(dial, host, port, **options):
    return dial(functools.partial(databases.wrap, policy=until_it_answers()), host, port, **options)


def safe_libpq(connect):
    return databases.wrap(connect, policy=until_it_answers())


class TestRetries:
    @pytest.mark.parametrize("name", ["PyMySQL", "mysql-connector", "aiomysql", "SQLAlchemy, aiomysql"])
    def test_recover_once_the_server_is_up(self, name, mariadb):
        mariadb.refuse_for(attempts=2)
        assert MYSQL[name](functools.partial(databases.wrap, policy=retrying(5)), HOST, mariadb.port) == 42

    @pytest.mark.parametrize("name", ["psycopg", "psycopg, async", "psycopg2", "SQLAlchemy, psycopg, async"])
    def test_see_what_libpq_says(self, name, postgres):
        postgres.refuse_for(seconds=0.1)
        assert patient(LIBPQ[name], HOST, postgres.port) == 42

    def test_none_on_refused_by_default(self, refused_port):
        error = failure(LIBPQ["psycopg"], databases.wrap, HOST, refused_port)
        assert isinstance(error.__cause__, ConnectionRefusedError)
        assert not hasattr(error, "__notes__")

    def test_do_not_block_the_loop(self, refused_port):
        async def main():
            engine = protect(
                create_async_engine(f"mysql+aiomysql://{USER}@{HOST}:{refused_port}/"),
                policy=retrying(3, wait=tenacity.wait_fixed(0.3)),
            )
            task = asyncio.create_task(engine.connect().start())
            turns = 0
            while not task.done():
                await asyncio.sleep(0.001)
                turns += 1
            with pytest.raises(sqlalchemy.exc.OperationalError):
                await task
            await engine.dispose()
            return turns

        assert asyncio.run(main()) > 10


# Driver, arguments, keywords, and what is found in them.
FOUND = [
    ("psycopg", ["host=db port=6000 user=u"], {}, [("db", "6000")]),
    ("psycopg", ["host=db"], {"port": 6000, "autocommit": True}, [("db", "6000")]),
    ("psycopg", [], {"conninfo": "postgresql://u:p%40@db:6000/d"}, [("db", "6000")]),
    ("psycopg", ["postgresql://a:1,[::1]:2/d"], {}, [("a", "1"), ("::1", "2")]),
    ("psycopg", ["host=a,b"], {}, [("a", 5432), ("b", 5432)]),
    ("psycopg", ["host=a,b port=6000"], {}, [("a", "6000"), ("b", "6000")]),
    ("psycopg", ["host=a,/run,b port=1,2,"], {}, [("a", "1"), ("b", 5432)]),
    ("psycopg", ["host=a hostaddr=192.0.2.1"], {}, [("192.0.2.1", 5432)]),
    ("psycopg", ["user=u"], {}, []),
    ("psycopg", ["host=/run/postgresql"], {}, []),
    ("psycopg2", ["host=db"], {"port": 6000, "connection_factory": None}, [("db", "6000")]),
    ("psycopg2", [], {"dsn": "postgresql://db:6000/"}, [("db", "6000")]),
    ("asyncpg", ["postgresql://u:p%40@db:6000/d"], {}, [("db", "6000")]),
    ("asyncpg", ["postgresql://u@a:1,[::1]:2/d"], {}, [("a", "1"), ("::1", "2")]),
    ("asyncpg", ["postgresql://u@db/d"], {"port": 6000}, [("db", "6000")]),
    ("asyncpg", ["postgresql:///d?host=db&port=6000"], {}, [("db", "6000")]),
    ("asyncpg", [], {"host": ["a", "b"], "port": [1, 2]}, [("a", "1"), ("b", "2")]),
    ("asyncpg", [], {}, []),
    ("mysql", [], {"host": "db"}, [("db", 3306)]),
    ("mysql", [], {"unix_socket": "/run/socket"}, []),
    ("mysql", [], {"host": "a", "failover": [{"host": "b", "port": 1}]}, [("a", 3306), ("b", 1)]),
    ("mysqldb", ["db"], {"port": 6000}, [("db", 6000)]),
    ("pymysql", [], {"host": "db"}, []),
]


class TestAddresses:
    def test_are_found(self):
        for driver, args, kwds, found in FOUND:
            assert list(FINDERS[driver](args, kwds)) == found, (driver, args, kwds)

    @pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
    def test_of_the_environment(self, driver, monkeypatch):
        monkeypatch.setenv("PGHOST", "db")
        monkeypatch.setenv("PGPORT", "6000")
        assert list(FINDERS[driver]([], {})) == [("db", "6000")]

    @pytest.mark.parametrize("address", [lambda port: lambda *a, **k: (HOST, port), lambda port: (HOST, port)])
    def test_that_are_given(self, address, dead_port):
        """Held while psycopg makes its connection, and not afterwards."""
        held = []

        class Connection(psycopg.Connection):
            @classmethod
            def connect(cls, conninfo="", **kwds):
                with socket.socket() as sock, contextlib.suppress(OSError):
                    sock.bind((HOST, dead_port))
                    held.append("free")
                raise psycopg.OperationalError("refused")

        Connection.connect.__func__.__module__ = "psycopg.connection"
        with pytest.raises(psycopg.OperationalError):
            databases.wrap(Connection.connect, address=address(dead_port))("service=app")
        assert not held
        faults.assert_server_can_bind(HOST, dead_port)


class TestWrap:
    @pytest.mark.parametrize(
        ("arguments", "error", "named"),
        [
            ((7,), TypeError, "factory"),
            ((socket.create_connection,), TypeError, "factory.*safedial.wrap"),
            ((pymongo.MongoClient,), TypeError, "install"),
            ((asyncpg.create_pool,), TypeError, "a pool, which dials whenever it likes"),
            ((pymysql.connect, {"policy": 3}), TypeError, "policy"),
            ((psycopg.connect, {"address": ("db", 70000)}), ValueError, "address"),
        ],
    )
    def test_bad_arguments(self, arguments, error, named):
        factory, options = (*arguments, {})[:2]
        with pytest.raises(error, match=named):
            databases.wrap(factory, **options)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: databases.wrap(functools.partial(pymongo.MongoClient, password="s3cret")),
            lambda: databases.wrap(functools.partial(socket.create_connection, "s3cret")),
            lambda: protect("mysql+pymysql://app:s3cret@db/app"),
            lambda: safedial.wrap("redis://:s3cret@db"),
        ],
    )
    def test_refusals_tell_no_secrets(self, make):
        with pytest.raises(TypeError) as caught:
            make()
        assert "s3cret" not in str(caught.value)

    def test_hosts_of_a_url_have_their_own_ports(self):
        found = FINDERS["asyncpg"](["postgresql://u@h1,h2:5433/db"], {})
        assert list(found) == [("h1", "5432"), ("h2", "5433")]

    def test_bad_address_of_a_function(self):
        with pytest.raises(ValueError, match="address"):
            databases.wrap(psycopg.connect, address=lambda *_: (HOST, -1))("service=app")

    @pytest.mark.parametrize("factory", [psycopg.connect, pymysql.connect, aiomysql.connect, asyncpg.connect])
    def test_keeps_the_face_of_the_factory(self, factory):
        wrapped = databases.wrap(factory)
        assert (wrapped.__name__, wrapped.__doc__) == (factory.__name__, factory.__doc__)
        assert inspect.signature(wrapped) == inspect.signature(factory)

    def test_drivers_arguments_are_the_drivers(self):
        for wrap in (plain, databases.wrap):
            with pytest.raises(psycopg.ProgrammingError):
                wrap(psycopg.connect)("nonsense")
            with pytest.raises(psycopg.OperationalError):
                wrap(psycopg.connect)(host=HOST, port=-1)

    def test_needs_no_driver(self):
        script = """if True:
            import sys
            for name in ("psycopg", "pymysql", "sqlalchemy", "aiomysql", "asyncpg"):
                sys.modules[name] = None
            import safedial.adapters.databases
            try:
                import safedial.adapters.sqlalchemy
            except ImportError as error:
                print(error)
        """
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert "sqlalchemy: pip install 'safedial[sqlalchemy]'" in done.stdout


class TestProtect:
    def test_bad_arguments(self):
        with pytest.raises(TypeError, match="engine"):
            protect("postgresql://")
        with pytest.raises(TypeError, match="policy"):
            protect(sqlalchemy.create_engine("sqlite://"), policy=3)

    def test_what_dials_nothing(self):
        engine = protect(sqlalchemy.create_engine("sqlite://"))
        with engine.connect() as connection:
            assert connection.scalar(sqlalchemy.text("SELECT 42")) == 42
        engine.dispose()

    def test_listeners_before_it_set_arguments(self, mariadb):
        engine = sqlalchemy.create_engine(f"mysql+pymysql://nobody@{HOST}:{mariadb.port}/")

        @event.listens_for(engine, "do_connect")
        def give_user(dialect, record, cargs, cparams):
            cparams["user"] = USER

        with protect(engine).connect() as connection:
            assert connection.scalar(sqlalchemy.text("SELECT user()")).startswith(USER)
        engine.dispose()


class Loop(threading.Thread):
    """A client that asks for one number again and again, and dials anew, at once, whenever that fails."""

    def __init__(self, dial, port):
        super().__init__(daemon=True)
        self.dial, self.port = dial, port
        self.answers, self.failures = [], []
        self.over = threading.Event()
        self.start()

    def run(self):
        for _ in range(20_000):
            if self.over.is_set():
                break
            try:
                self.answers.append(self.dial(databases.wrap, HOST, self.port, question="SELECT number FROM app.kept"))
            except Exception as error:
                self.failures.append(str(error))

    def wait_for(self, what, more):
        """Wait until *what*, answers or failures, has that many *more*."""
        enough = len(what) + more
        end = time.monotonic() + 20
        while len(what) < enough and self.is_alive() and time.monotonic() < end:
            time.sleep(0.01)
        assert len(what) >= enough, self.failures[-3:]


# PyMySQL reads all certificates of the system for each dial, unless told that there is no TLS.
STORMING = ALL | {
    "PyMySQL": use(pymysql.connect, ssl_disabled=True),
    "SQLAlchemy, PyMySQL": use_engine(f"mysql+pymysql://{USER}@{{host}}:{{port}}/?ssl_disabled=true"),
}
OUTAGES = [
    ("mariadb", "PyMySQL"),
    ("mariadb", "SQLAlchemy, PyMySQL"),
    ("postgres", "psycopg"),
    ("postgres", "asyncpg"),
    ("postgres", "SQLAlchemy, psycopg"),
    ("postgres", "SQLAlchemy, asyncpg"),
]


# asyncpg, with safedial and without, drops its socket where the server dies during the handshake.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
class TestOutage:
    """The server is killed, its clients storm the port, and it comes back there at the first try."""

    @pytest.mark.parametrize(("database", "name"), OUTAGES, ids=str)
    def test_is_survived(self, database, name, request):
        with testing.Outage(request.getfixturevalue(f"{database}_command"), within=20) as server:
            number = random.randrange(2**31)
            keep(database, server.port, number)
            loop = Loop(STORMING[name], server.port)
            try:
                loop.wait_for(loop.answers, 3)
                server.kill()
                with testing.self_connect(server.port):  # each dial that Python makes meets itself
                    loop.wait_for(loop.failures, 50)
                assert server.start().binds == 1
                loop.wait_for(loop.answers, 3)
            finally:
                loop.over.set()
                loop.join(20)
                server.stop()
        assert set(loop.answers) == {number}


def keep(database, port, number):
    """Have the server keep *number*, and survive a kill with it."""
    if database == "postgres":
        connection = safe_libpq(psycopg.connect)(host=HOST, port=port, user=USER, dbname="postgres")
    else:
        connection = databases.wrap(pymysql.connect)(host=HOST, port=port, user=USER)
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA IF NOT EXISTS app")
        cursor.execute("DROP TABLE IF EXISTS app.kept")
        cursor.execute("CREATE TABLE app.kept (number INT)")
        cursor.execute("INSERT INTO app.kept VALUES (%s)", [number])
        connection.commit()


def test_example():
    example = Path(__file__).parents[2] / "examples" / "database_factory.py"
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "all right: True" in done.stdout or "can't" in done.stdout
