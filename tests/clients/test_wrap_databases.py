"""wrap() over database drivers, and engines over them: a real PostgreSQL and a real MariaDB."""

import asyncio
import contextlib
import functools
import inspect
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
import psycopg
import psycopg2
import psycopg2.extras
import psycopg_pool
import pymongo
import pymysql
import pytest
import uvloop

import safedial
from safedial import testing
from safedial._clients.drivers import FINDERS
from safedial._tcp import procnet
from safedial._tcp.selfconnect import duplicate
from tests.adapters.conftest import _no_name_server  # noqa: F401  # a fixture
from tests.support import databases as servers
from tests.support import faults, holds, matrix, namespace
from tests.support.drivers import (
    ALL,
    LIBPQ,
    MYSQL,
    POSTGRES,
    PYTHON,
    QUESTION,
    C,
    ask,
    behind,
    failure,
    patient,
    plain,
    retrying,
    safe_libpq,
    use,
    use_engine,
)

HOST, USER = servers.HOST, servers.USER
# Fixtures.
_directory, mariadb, mariadb_command = servers._directory, servers.mariadb, servers.mariadb_command
postgres, postgres_command = servers.postgres, servers.postgres_command


class TestSelfConnect:
    @pytest.mark.parametrize("steering", [True, False], ids=["steered", "unsteered"], indirect=True)
    @pytest.mark.parametrize("name", PYTHON)
    def test_raises_the_drivers_own_error_for_refused(self, name, force, steering, dead_port, refused_port):
        fault = force(dead_port)
        met = failure(PYTHON[name], safedial.wrap, HOST, dead_port)
        assert fault.triggered
        faults.assert_server_can_bind(HOST, dead_port)
        testing.assert_no_self_connects()
        refused = failure(PYTHON[name], plain, HOST, refused_port)
        if isinstance(refused, ConnectionRefusedError):
            assert isinstance(met, safedial.SelfConnectError)
        else:
            assert type(met) is type(refused)
        assert any(isinstance(each, safedial.SelfConnectError) for each in behind(met))

    @pytest.mark.storm
    def test_does_not_happen_in_c(self):
        namespace.require()
        met, refused, without = namespace.call(dial_in_c, port_range=(40000, 40001))
        assert met == refused
        assert "SSL negotiation" in without

    def test_ping_reconnects_safely(self, mariadb, force):
        connection = safedial.wrap(pymysql.connect)(host=HOST, port=mariadb.port, user=USER)
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
        place = {"host": HOST, "port": mariadb.port, "user": USER}
        by_class = safedial.wrap(mysql.connector.MySQLConnection)(**place)
        by_function = safedial.wrap(mysql.connector.connect)(use_pure=True, connection_timeout=2, **place)
        mariadb.kill()
        for connection in (by_class, by_function):
            fault = force(mariadb.port)
            with pytest.raises(mysql.connector.Error, match="self-connect"):
                connection.reconnect()
            assert fault.triggered
        mariadb.start()
        for connection in (by_class, by_function):
            connection.reconnect()
            assert ask(connection) == 42

    @pytest.mark.storm
    def test_pymongo_with_install(self, force, dead_port, refused_port):
        assert type(mongo_failure(refused_port)) is pymongo.errors.ServerSelectionTimeoutError
        fault = force(dead_port)
        safedial.install()
        try:
            met = mongo_failure(dead_port)
            for thread in threading.enumerate():  # it may still be dialing
                if thread.name.startswith("pymongo"):
                    thread.join(5)
        finally:
            safedial.uninstall()
        assert fault.triggered
        assert type(met) is pymongo.errors.ServerSelectionTimeoutError
        assert "self-connect" in str(met)
        faults.assert_server_can_bind(HOST, dead_port)


def dial_in_c():
    """Dial in a range of two ports, where an unguarded dial connects to itself in half of the cases."""

    def kinds(dial, port, times):
        raised = [failure(dial, safedial.wrap, HOST, port) for _ in range(times)]
        # The type of the driver's error, and whether its message says that the dial was refused.
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
    @pytest.mark.parametrize("host", [HOST, "localhost"])  # nobody listens on its first address, ::1
    def test_mariadb(self, mariadb, host):
        assert {name: dial(safedial.wrap, host, mariadb.port) for name, dial in MYSQL.items()} == dict.fromkeys(
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
        assert ask(safedial.wrap(psycopg.Connection).connect(dsn)) == 42
        assert ask(safedial.wrap(functools.partial(psycopg.connect, dsn))(autocommit=True)) == 42

    def test_tls(self, postgres, mariadb, _directory):  # noqa: PT019
        authority = {name: str(Path(_directory, name, "ca.crt")) for name in ("postgres", "mariadb")}
        question = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        tls = {"sslmode": "verify-full", "sslrootcert": authority["postgres"], "question": question}
        assert patient(LIBPQ["psycopg"], "localhost", postgres.port, **tls) is True
        dsn = f"postgresql://{USER}@localhost:{postgres.port}/postgres?sslmode=verify-full"

        async def main():
            connection = await safedial.wrap(asyncpg.connect)(f"{dsn}&sslrootcert={authority['postgres']}")
            try:
                return await connection.fetchval(question)
            finally:
                await connection.close()

        assert asyncio.run(main()) is True
        question = "SELECT variable_value <> '' FROM information_schema.session_status WHERE variable_name='ssl_cipher'"
        for name, options in {"PyMySQL": {"ssl_ca": authority["mariadb"]}, "mysql-connector": {}}.items():
            assert MYSQL[name](safedial.wrap, "localhost", mariadb.port, question=question, **options)

    def test_source_address(self, mariadb):
        seen = MYSQL["PyMySQL"](safedial.wrap, HOST, mariadb.port, question="SELECT user()", bind_address="127.0.0.2")
        assert seen == f"{USER}@127.0.0.2"

    def test_pools(self, postgres):
        async def main():
            async with asyncpg.create_pool(
                connect=safedial.wrap(asyncpg.connect),
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
        kind = safedial.wrap(psycopg.Connection)
        with psycopg_pool.ConnectionPool(kwargs=settings, connection_class=kind, min_size=1, max_size=1) as pool:
            with pool.connection() as connection:
                assert type(connection) is kind
                first = connection.info.backend_pid
                assert connection.execute(QUESTION).fetchone() == (42,)
            with pool.connection() as connection:
                assert connection.info.backend_pid == first

        async def main():
            kind = safedial.wrap(psycopg.AsyncConnection)
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
            for wrap in (plain, safedial.wrap)
        }
        assert raised[plain] == raised[safedial.wrap]

    # The drivers whose limit may be less than a second.
    @pytest.mark.parametrize("name", ["PyMySQL", "aiomysql", "asyncpg", "pg8000"])
    def test_time_limits_are_the_drivers(self, name):
        with faults.full_listener() as silent:
            _, port = silent.getsockname()
            types = [type(failure(ALL[name], wrap, HOST, port, timeout=0.1)) for wrap in (plain, safedial.wrap)]
        assert types[0] is types[1]

    @pytest.mark.storm
    @pytest.mark.parametrize("connect", [psycopg.connect, psycopg2.connect])
    def test_time_limit_of_libpq_is_transient(self, connect):
        with faults.full_listener() as silent:
            _, port = silent.getsockname()
            with pytest.raises((psycopg.OperationalError, psycopg2.OperationalError)) as caught:
                safedial.wrap(connect)(host=HOST, port=port, user=USER, connect_timeout=2)
        assert safedial._retry.transient.is_transient(caught.value)


def reuses(number):
    with duplicate(number) as sock:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1


def numbered(connect):
    """Return the function that dials with *connect*, blocking, and returns whether its descriptor has the option."""

    def dial(wrap, place):
        with contextlib.closing(wrap(connect)(**place)) as connection:
            return reuses(connection.fileno())

    return dial


def psycopg2_async(wrap, place):
    with contextlib.closing(wrap(psycopg2.connect)(async_=True, **place)) as connection:
        psycopg2.extras.wait_select(connection)
        return reuses(connection.fileno())


def psycopg_async(wrap, place):
    async def main():
        async with await wrap(psycopg.AsyncConnection.connect)(**place) as connection:
            return reuses(connection.fileno())

    return asyncio.run(main())


def uvloop_(wrap, place):
    async def main():
        address = place["host"], place["port"]
        _, writer = await wrap(asyncio.open_connection, address=address)(*address)
        try:
            return reuses(writer.get_extra_info("socket").fileno())
        finally:
            writer.close()
            await writer.wait_closed()

    return uvloop.run(main())


def psycopg_in_the_way(wrap, place):
    """Return whether a server can start on the port of a connection, alive and in TIME_WAIT."""
    # Without TLS: a server that ends with a farewell unread resets the connection.
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            connection = stack.enter_context(contextlib.closing(wrap(psycopg.connect)(sslmode="disable", **place)))
            sock = stack.enter_context(duplicate(connection.fileno()))
            port = sock.getsockname()[1]
            if len(list(procnet.sockets_on(port))) == 1:  # else another test's connection may be in the way
                break
        alive = holds.can_start(HOST, port, reuse=True)
        assert connection.execute(QUESTION).fetchone() == (42,)
        sock.shutdown(socket.SHUT_WR)  # libpq says good-bye, and the server may then close first
    assert not holds.can_start(HOST, port, reuse=False)  # it is in TIME_WAIT
    return alive, holds.can_start(HOST, port, reuse=True)


LIBPQ_AND_UVLOOP = {
    "psycopg": numbered(psycopg.connect),
    "psycopg, async": psycopg_async,
    "psycopg2": numbered(psycopg2.connect),
    "psycopg2, async": psycopg2_async,
    "uvloop": uvloop_,
}


@pytest.mark.skipif(sys.platform != "linux", reason="the option is set on Linux only")
class TestNeverInAServersWay:
    @pytest.fixture
    def wraps(self):
        """Make a factory safe by wrap(), by install(), and not at all."""

        def install(factory, **_):
            safedial.install()
            return factory

        yield {"plain": plain, "wrap": safedial.wrap, "install": install}
        safedial.uninstall()

    def test_postgres(self, postgres, wraps):
        place = {"host": HOST, "port": postgres.port, "user": USER, "dbname": "postgres"}
        for way, wrap in wraps.items():
            safe = way != "plain"
            found = {name: dial(wrap, place) for name, dial in LIBPQ_AND_UVLOOP.items()}
            assert found == dict.fromkeys(found, safe), way
            assert psycopg_in_the_way(wrap, place) == (safe, safe), way

    def test_mysqlclient(self, mariadb, wraps):
        if reason := matrix.mysqlclient_missing():
            pytest.skip(reason)
        from MySQLdb import connect

        place = {"host": HOST, "port": mariadb.port, "user": USER}
        found = {way: numbered(connect)(wrap, place) for way, wrap in wraps.items()}
        assert found == {"plain": False, "wrap": True, "install": True}


class TestRetries:
    @pytest.mark.parametrize("name", ["PyMySQL", "mysql-connector", "aiomysql", "SQLAlchemy, aiomysql"])
    def test_recover_once_the_server_is_up(self, name, mariadb):
        mariadb.refuse_for(dials=2)
        assert MYSQL[name](functools.partial(safedial.wrap, policy=retrying(5)), HOST, mariadb.port) == 42

    @pytest.mark.parametrize("name", ["psycopg", "psycopg, async", "psycopg2", "SQLAlchemy, psycopg, async"])
    def test_policy_sees_the_kernels_error_behind_libpqs(self, name, postgres):
        postgres.refuse_for(seconds=0.1)
        assert patient(LIBPQ[name], HOST, postgres.port) == 42

    def test_refused_is_not_retried_by_default(self, refused_port):
        error = failure(LIBPQ["psycopg"], safedial.wrap, HOST, refused_port)
        assert safedial._retry.transient.is_transient(error)
        assert not hasattr(error, "__notes__")


# Driver, arguments, keywords, and the addresses found in them.
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
            assert list(FINDERS[driver](*args, **kwds)) == found, (driver, args, kwds)

    @pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
    def test_of_the_environment(self, driver, monkeypatch):
        monkeypatch.setenv("PGHOST", "db")
        monkeypatch.setenv("PGPORT", "6000")
        assert list(FINDERS[driver]()) == [("db", "6000")]

    @pytest.mark.parametrize("address", [lambda port: lambda *a, **k: (HOST, port), lambda port: (HOST, port)])
    def test_given_address_is_held(self, address, dead_port):
        """It is held while psycopg connects, and not afterwards."""
        held = []

        class Connection(psycopg.Connection):
            @classmethod
            def connect(cls, conninfo="", **kwds):
                with socket.socket() as sock, contextlib.suppress(OSError):
                    sock.bind(("0.0.0.0", dead_port))
                    held.append("free")
                raise psycopg.OperationalError("refused")

        Connection.connect.__func__.__module__ = "psycopg.connection"
        with pytest.raises(psycopg.OperationalError):
            safedial.wrap(Connection.connect, address=address(dead_port))("service=app")
        assert not held
        faults.assert_server_can_bind(HOST, dead_port)


class TestWrap:
    @pytest.mark.parametrize(
        ("arguments", "error", "named"),
        [
            ((7,), TypeError, "factory"),
            ((pymongo.MongoClient,), TypeError, "install"),
            ((type("Subclass", (pymongo.MongoClient,), {}),), TypeError, "install"),
            ((asyncpg.create_pool,), TypeError, r"give the pool connect=safedial.wrap\(asyncpg.connect\)"),
            (
                (aiomysql.create_pool,),
                TypeError,
                "dials when it is used, and not only in the call: call safedial.install",
            ),
            ((psycopg_pool.ConnectionPool,), TypeError, r"connection_class=safedial.wrap\(psycopg.Connection\)"),
            ((pymysql.connect, {"policy": 3}), TypeError, "policy"),
            ((psycopg.connect, {"address": ("db", 70000)}), ValueError, "address"),
        ],
    )
    def test_bad_arguments(self, arguments, error, named):
        factory, options = (*arguments, {})[:2]
        with pytest.raises(error, match=named):
            safedial.wrap(factory, **options)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: safedial.wrap(functools.partial(pymongo.MongoClient, password="s3cret")),
            lambda: safedial.wrap(functools.partial(asyncpg.create_pool, "s3cret")),
            lambda: safedial.wrap("redis://:s3cret@db"),
        ],
    )
    def test_error_messages_contain_no_secrets(self, make):
        with pytest.raises(TypeError) as caught:
            make()
        assert "s3cret" not in str(caught.value)

    def test_hosts_of_a_url_have_their_own_ports(self):
        found = FINDERS["asyncpg"]("postgresql://u@h1,h2:5433/db")
        assert list(found) == [("h1", "5432"), ("h2", "5433")]

    def test_bad_address_of_a_function(self):
        with pytest.raises(ValueError, match="address"):
            safedial.wrap(psycopg.connect, address=lambda *_: (HOST, -1))("service=app")

    @pytest.mark.parametrize("factory", [psycopg.connect, pymysql.connect, aiomysql.connect, asyncpg.connect])
    def test_keeps_name_docstring_and_signature(self, factory):
        wrapped = safedial.wrap(factory)
        assert (wrapped.__name__, wrapped.__doc__) == (factory.__name__, factory.__doc__)
        assert inspect.signature(wrapped) == inspect.signature(factory)

    def test_drivers_arguments_are_the_drivers(self):
        for wrap in (plain, safedial.wrap):
            with pytest.raises(psycopg.ProgrammingError):
                wrap(psycopg.connect)("nonsense")
            with pytest.raises(psycopg.OperationalError):
                wrap(psycopg.connect)(host=HOST, port=-1)

    def test_needs_no_driver(self):
        script = """if True:
            import sys
            for name in ("psycopg", "psycopg2", "pymysql", "sqlalchemy", "aiomysql", "asyncpg", "mysql"):
                sys.modules[name] = None
            import safedial
            print(safedial.wrap(lambda: 42)())
        """
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == "42\n"

    def test_pool_of_an_unknown_client_is_not_rejected(self):
        def create_pool():
            return 42

        assert safedial.wrap(create_pool)() == 42

    @pytest.mark.parametrize("kind", [psycopg.Connection, psycopg.AsyncConnection, pymysql.connections.Connection])
    def test_subclass_of_a_drivers_class_becomes_a_safe_class(self, kind):
        own = type("Own", (kind,), {})
        safe = safedial.wrap(own)
        assert issubclass(safe, own)
        assert vars(safe).keys() >= {"connect"}

    def test_class_with_an_address(self, force, dead_port):
        fault = force(dead_port)
        addresses = []

        def address(*args, **kwds):
            addresses.append(kwds)
            return HOST, dead_port

        with pytest.raises(pymysql.OperationalError):
            safedial.wrap(pymysql.connections.Connection, address=address)(host=HOST, port=dead_port, user=USER)
        assert fault.triggered
        assert addresses

    def test_names_are_resolved_outside_of_the_loops_thread(self, monkeypatch, refused_port):
        threads = []
        real = socket.getaddrinfo

        def getaddrinfo(*args, **kwds):
            threads.append(threading.current_thread())
            return real(*args, **kwds)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        for name in ("aiomysql", "asyncpg", "psycopg, async"):
            failure(ALL[name], safedial.wrap, "localhost", refused_port)
            assert threads, name
            assert threading.current_thread() not in threads, name
            threads.clear()


class Loop(threading.Thread):
    """A client that asks for a number again and again, and dials again at once after each failure."""

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
                self.answers.append(self.dial(safedial.wrap, HOST, self.port, question="SELECT number FROM app.kept"))
            except Exception as error:
                self.failures.append(str(error))

    def wait_for(self, kept, more):
        """Wait until *kept*, the answers or the failures, has *more* new ones."""
        enough = len(kept) + more
        end = time.monotonic() + 20
        while len(kept) < enough and self.is_alive() and time.monotonic() < end:
            time.sleep(0.01)
        assert len(kept) >= enough, self.failures[-3:]


# Without ssl_disabled PyMySQL reads all certificates of the system for each dial.
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


# asyncpg, with safedial and without, leaves its socket open if the server dies during the handshake.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
class TestOutage:
    """The server is killed, its clients storm the port, and it binds the port again at the first try."""

    @pytest.mark.parametrize(("database", "name"), OUTAGES, ids=str)
    def test_is_survived(self, database, name, request):
        command = request.getfixturevalue(f"{database}_command")
        with testing.Outage(command, within=20) as server:
            number = random.randrange(2**31)
            keep(database, server.port, number)
            loop = Loop(STORMING[name], server.port)
            try:
                loop.wait_for(loop.answers, 3)
                server.kill()
                # Each dial made in Python connects to itself. libpq dials in C.
                with testing.self_connect(server.port, unused="ignore" if "psycopg" in name else "error"):
                    loop.wait_for(loop.failures, 50)
                if database == "postgres":
                    servers.await_the_end_of_sessions(command)
                assert server.start().binds == 1
                loop.wait_for(loop.answers, 3)
            finally:
                loop.over.set()
                loop.join(20)
                server.stop()
        assert set(loop.answers) == {number}


def keep(database, port, number):
    """Store *number* in the server, so that it survives a kill."""
    if database == "postgres":
        connection = safe_libpq(psycopg.connect)(host=HOST, port=port, user=USER, dbname="postgres")
    else:
        connection = safedial.wrap(pymysql.connect)(host=HOST, port=port, user=USER)
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA IF NOT EXISTS app")
        cursor.execute("DROP TABLE IF EXISTS app.kept")
        cursor.execute("CREATE TABLE app.kept (number INT)")
        cursor.execute("INSERT INTO app.kept VALUES (%s)", [number])
        connection.commit()


@pytest.mark.storm
def test_example():
    example = Path(__file__).parents[2] / "examples" / "database_factory.py"
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "all right: True" in done.stdout or "can't" in done.stdout
