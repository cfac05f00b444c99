"""SQLAlchemy's adapter: engines, pools and listeners. tests/clients/test_wrap_databases.py dials with engines, too."""

import asyncio
import subprocess
import sys

import pytest
import sqlalchemy
import tenacity
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

import safedial
from safedial.adapters.sqlalchemy import protect
from tests.support import databases
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
