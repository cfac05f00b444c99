"""SQLAlchemy's adapter: engines, pools and listeners. tests/clients/test_wrap_databases.py dials with engines, too."""

import asyncio
import subprocess
import sys

import pymysql
import pytest
import sqlalchemy
import tenacity
from sqlalchemy import event, pool
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.ext.asyncio import create_async_engine

import safedial
from safedial import testing
from safedial.adapters.sqlalchemy import protect
from tests.support import databases, faults
from tests.support.databases import HOST, USER
from tests.support.drivers import retrying, until_it_answers

# Fixtures.
_directory, mariadb, mariadb_command = databases._directory, databases.mariadb, databases.mariadb_command
postgres, postgres_command = databases.postgres, databases.postgres_command


class TestProtect:
    def test_bad_arguments(self):
        with pytest.raises(TypeError, match="engine"):
            protect("postgresql://")
        with pytest.raises(TypeError, match="policy"):
            protect(sqlalchemy.create_engine("sqlite://"), policy=3)
        with pytest.raises(TypeError, match="on_event"):
            protect(sqlalchemy.create_engine("sqlite://"), on_event=3)

    def test_dialer_is_rejected(self):
        engine = sqlalchemy.create_engine("sqlite://")
        with pytest.raises(
            TypeError, match=r"takes policy=, not dialer=: the client dials and shakes hands in one call"
        ):
            protect(engine, dialer=safedial.Dialer())
        assert protect(engine, dialer=None) is engine

    def test_error_message_contains_no_secrets(self):
        with pytest.raises(TypeError) as caught:
            protect("mysql+pymysql://app:s3cret@db/app")
        assert "s3cret" not in str(caught.value)

    def test_import_without_sqlalchemy_says_what_to_install(self):
        script = """if True:
            import sys
            sys.modules["sqlalchemy"] = None
            try:
                import safedial.adapters.sqlalchemy
            except ImportError as error:
                print(error)
        """
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert "sqlalchemy: pip install 'safedial[sqlalchemy]'" in done.stdout

    def test_engine_that_dials_nothing(self):
        engine = protect(sqlalchemy.create_engine("sqlite://"))
        with engine.connect() as connection:
            assert connection.scalar(sqlalchemy.text("SELECT 42")) == 42
        engine.dispose()

    def test_events(self, mariadb, refused_port, events):
        def make(port, scheme="mysql+pymysql", make=sqlalchemy.create_engine):
            return protect(make(f"{scheme}://{USER}@{HOST}:{port}/"), on_event=events.append, policy=retrying(2))

        async def connect_async(port):
            engine = make(port, "mysql+aiomysql", create_async_engine)
            try:
                async with engine.connect():
                    pass
            finally:
                await engine.dispose()

        def connect(port):
            engine = make(port)
            try:
                engine.connect().close()
            finally:
                engine.dispose()

        for dial in (connect, lambda port: asyncio.run(connect_async(port))):
            dial(mariadb.port)
            with pytest.raises(sqlalchemy.exc.OperationalError):
                dial(refused_port)
            assert [event.kind for event in events] == ["connected", "failed", "retry", "failed", "gave_up"]
            events.clear()

    def test_driver_turns_to_the_next_host_without_a_wait(self, postgres, refused_port, events):
        hosts = f"host={HOST}:{refused_port}&host={HOST}:{postgres.port}"

        async def connect_async():
            engine = create_async_engine(f"postgresql+asyncpg://{USER}@/postgres?{hosts}")
            async with protect(engine, on_event=events.append, policy=retrying(2)).connect():
                pass
            await engine.dispose()

        engine = sqlalchemy.create_engine(f"postgresql+psycopg://{USER}@/postgres?{hosts}")
        protect(engine, on_event=events.append, policy=retrying(2)).connect().close()
        engine.dispose()
        asyncio.run(connect_async())
        assert [event.kind for event in events] == ["connected", "connected"]

    def test_failover_of_mysql_connector_without_a_wait(self, mariadb, refused_port, events):
        servers = [{"host": HOST, "port": port, "user": USER} for port in (refused_port, mariadb.port)]
        engine = sqlalchemy.create_engine(
            "mysql+mysqlconnector://", connect_args={"failover": servers, "use_pure": True}
        )
        protect(engine, on_event=events.append, policy=retrying(2)).connect().close()
        engine.dispose()
        assert [event.kind for event in events] == ["connected"]

    def test_earlier_listeners_set_arguments(self, mariadb):
        engine = sqlalchemy.create_engine(f"mysql+pymysql://nobody@{HOST}:{mariadb.port}/")

        @event.listens_for(engine, "do_connect")
        def give_user(dialect, record, cargs, cparams):
            cparams["user"] = USER

        with protect(engine).connect() as connection:
            assert connection.scalar(sqlalchemy.text("SELECT user()")).startswith(USER)
        engine.dispose()

    def test_pool(self, postgres):
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

    def test_retries_do_not_block_the_loop(self, refused_port):
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


def refused(engine, port):
    """Dial *port*, which the kernel is made to draw: the engine must say that nobody listens."""
    with testing.self_connect(port) as fault, pytest.raises(sqlalchemy.exc.OperationalError, match="refused"):
        engine.connect()
    assert fault.triggered
    faults.assert_server_can_bind(HOST, port)


def mysql(port, **given):
    return sqlalchemy.create_engine(f"mysql+pymysql://{USER}@{HOST}:{port}/", **given)


def connected(engine):
    with engine.connect() as connection:
        return connection.scalar(sqlalchemy.text("SELECT 42"))


class NoDriver(SQLiteDialect_pysqlite):
    """A dialect of somebody who did not name his driver."""

    supports_statement_cache = True

    @property
    def driver(self):
        raise AttributeError("driver")


registry.register("safedial.nodriver", __name__, "NoDriver")


class TestListeners:
    """Listeners of do_connect, the recipe for tokens that expire."""

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_may_change_the_arguments(self, tmp_path, when):
        def use_file(dialect, record, cargs, cparams):
            cargs[0] = str(tmp_path / "there.db")

        engine = sqlalchemy.create_engine("sqlite:///nowhere.db")
        if when == "before":
            event.listen(engine, "do_connect", use_file)
        protect(engine)
        if when == "after":
            event.listen(engine, "do_connect", use_file)
        assert connected(engine) == 42
        assert (tmp_path / "there.db").exists()
        engine.dispose()

    def test_port_is_guarded_whoever_gave_it(self, dead_port):
        engine = protect(mysql(1))

        @event.listens_for(engine, "do_connect")
        def give_port(dialect, record, cargs, cparams):
            cparams["port"] = dead_port

        refused(engine, dead_port)

    def test_connection_of_a_listener_is_guarded(self, dead_port):
        engine = protect(mysql(1))

        @event.listens_for(engine, "do_connect")
        def dial(dialect, record, cargs, cparams):
            return pymysql.connect(host=HOST, port=dead_port, user=USER)

        refused(engine, dead_port)

    def test_connection_of_a_listener_is_guarded_in_asyncio(self, dead_port):
        async def main():
            engine = protect(create_async_engine(f"mysql+aiomysql://{USER}@{HOST}:1/"))

            @event.listens_for(engine.sync_engine, "do_connect")
            def dial(dialect, record, cargs, cparams):
                return dialect.loaded_dbapi.connect(host=HOST, port=dead_port, user=USER)

            with (
                testing.self_connect(dead_port) as fault,
                pytest.raises(sqlalchemy.exc.OperationalError, match=r"refused|connect"),
            ):
                await engine.connect()
            assert fault.triggered
            await engine.dispose()

        asyncio.run(main())
        faults.assert_server_can_bind(HOST, dead_port)

    def test_are_called_once_for_each_connection(self, refused_port):
        calls = []
        engine = protect(mysql(refused_port), policy=retrying(3))
        event.listen(engine, "do_connect", lambda *args: calls.append(args))
        with pytest.raises(sqlalchemy.exc.OperationalError):
            engine.connect()
        assert len(calls) == 1


class TestEngines:
    def test_creator_is_refused(self):
        def connect():
            raise AssertionError

        engines = [
            sqlalchemy.create_engine("mysql+pymysql://", creator=connect),
            sqlalchemy.create_engine("mysql+pymysql://", creator=safedial.wrap(connect)),
            sqlalchemy.create_engine("mysql+pymysql://", pool=pool.QueuePool(connect)),
            create_async_engine("mysql+aiomysql://", creator=connect),
        ]
        for engine in engines:
            with pytest.raises(TypeError, match=r"has a creator.*leave out protect\(\).*creator=safedial\.wrap"):
                protect(engine)

    def test_async_creator_is_refused(self):
        async def connect():
            raise AssertionError

        with pytest.raises(TypeError, match=r"has a creator.*async_creator=safedial\.wrap"):
            protect(create_async_engine("mysql+aiomysql://", async_creator=connect))

    def test_wrapped_creator_is_safe_by_itself(self, dead_port):
        creator = safedial.wrap(lambda: pymysql.connect(host=HOST, port=dead_port, user=USER))
        refused(sqlalchemy.create_engine("mysql+pymysql://", creator=creator), dead_port)

    @pytest.mark.parametrize("kind", [pool.NullPool, pool.QueuePool, pool.SingletonThreadPool, pool.AssertionPool])
    def test_pools(self, kind, dead_port):
        engine = protect(mysql(dead_port, poolclass=kind))
        refused(engine, dead_port)
        engine.dispose()
        refused(engine, dead_port)
        refused(engine.execution_options(isolation_level="AUTOCOMMIT"), dead_port)

    def test_static_pool(self):
        engine = protect(sqlalchemy.create_engine("sqlite://", poolclass=pool.StaticPool))
        for _ in range(2):
            assert connected(engine) == 42
            engine.dispose()

    def test_pool_that_was_made_before(self, dead_port):
        url = f"mysql+pymysql://{USER}@{HOST}:{dead_port}/"
        engine = sqlalchemy.create_engine("mysql+pymysql://", pool=sqlalchemy.create_pool_from_url(url))
        refused(protect(engine), dead_port)
        engine.dispose()
        refused(engine, dead_port)

    def test_pool_that_is_made_anew(self, dead_port):
        made = protect(mysql(dead_port)).pool.recreate()
        with testing.self_connect(dead_port), pytest.raises(pymysql.OperationalError, match="refused"):
            made.connect()
        faults.assert_server_can_bind(HOST, dead_port)

    def test_copy_with_options(self, dead_port):
        engine = mysql(dead_port)
        copy = protect(engine.execution_options(isolation_level="AUTOCOMMIT"))
        for each in (copy, engine):
            refused(each, dead_port)

    def test_the_last_protect_counts(self, refused_port):
        first, last = [], []
        engine = mysql(refused_port)
        for events in (first, last):
            assert protect(engine, policy=retrying(2), on_event=events.append) is engine
        with pytest.raises(sqlalchemy.exc.OperationalError):
            engine.connect()
        assert first == []
        assert [each.kind for each in last] == ["failed", "retry", "failed", "gave_up"]

    def test_engine_in_use(self, events):
        engine = sqlalchemy.create_engine("sqlite:///:memory:", poolclass=pool.QueuePool)
        assert connected(engine) == 42
        protect(engine, on_event=events.append)
        assert connected(engine) == 42
        assert not events
        engine.dispose()
        assert connected(engine) == 42
        assert [each.kind for each in events] == ["connected"]
        engine.dispose()

    def test_dialect_without_driver(self):
        engine = protect(sqlalchemy.create_engine("safedial+nodriver://"))
        assert connected(engine) == 42
        engine.dispose()

    def test_connect_that_somebody_replaced_is_called(self, monkeypatch):
        engine, calls = protect(sqlalchemy.create_engine("sqlite://")), []

        def count(*args, **kwds):
            calls.append(args)
            return real(engine.dialect, *args, **kwds)

        real = SQLiteDialect_pysqlite.connect
        with monkeypatch.context() as patched:
            patched.setattr(SQLiteDialect_pysqlite, "connect", lambda self, *args, **kwds: count(*args, **kwds))
            assert connected(engine) == 42
            assert len(calls) == 1
        engine.dispose()
        engine = sqlalchemy.create_engine("sqlite://")
        engine.dialect.connect = count
        for _ in range(2):
            protect(engine)
        assert connected(engine) == 42
        assert len(calls) == 2
        engine.dispose()
