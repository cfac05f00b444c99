"""wrap(): connections of MySQL's drivers that dial again by a method of their own, while their server is dead."""

import asyncio
import contextlib
import gc
import importlib.util
import pathlib
import weakref

import aiomysql
import mysql.connector
import mysql.connector.aio
import pytest

import safedial
from safedial import testing
from tests.support import databases as servers
from tests.support import namespace

# Fixtures.
_directory, mariadb, mariadb_command = servers._directory, servers.mariadb, servers.mariadb_command
HAS_MYSQLCLIENT = importlib.util.find_spec("MySQLdb") is not None
ROUNDS = 10


def connections(wrap, run, **place):
    """Return the connections by name, each with the function by which it dials again."""
    pure = wrap(mysql.connector.connect)(use_pure=True, connection_timeout=1, **place)
    pooled = wrap(mysql.connector.connect)(use_pure=True, connection_timeout=1, pool_size=1, pool_name="one", **place)
    made = {
        "mysql-connector": (pure, pure.reconnect),
        "mysql-connector, ping": (pure, lambda: pure.ping(reconnect=True)),
        "mysql-connector, pooled": (pooled, pooled.reconnect),
    }
    if mysql.connector.HAVE_CEXT:
        in_c = wrap(mysql.connector.connect)(use_pure=False, connection_timeout=1, **place)
        made["mysql-connector, C"] = in_c, in_c.reconnect
    later = run(wrap(mysql.connector.aio.connect)(connection_timeout=1, use_pure=True, **place))
    made["mysql-connector, async"] = later, lambda: run(later.connect())

    async def connect():
        return await wrap(aiomysql.connect)(connect_timeout=1, **place)

    other = run(connect())
    made["aiomysql"] = other, lambda: run(other.ping(reconnect=True))
    if HAS_MYSQLCLIENT:
        import MySQLdb

        client = wrap(MySQLdb.connect)(connect_timeout=1, **place)
        made["mysqlclient"] = client, lambda: client.ping(True)
    return made


def reconnect(command, wrap):
    """Kill the server, let each connection dial again in a range of two ports; return the errors, and the binds."""
    outcomes = {}
    # Closed ends of the server would shield the port for a minute.
    pathlib.Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text("0")
    with testing.Outage(command, within=20) as server, asyncio.Runner() as runner:
        servers.pymysql.connect(host=servers.HOST, port=server.port, user=servers.USER).close()
        place = {"host": servers.HOST, "port": server.port, "user": servers.USER}
        made = connections(wrap, runner.run, **place)
        server.kill()
        for _, dial in [*made.values()] * 2:
            failure(dial)
            gc.collect()  # closes the old connections, whose other ends would shield the port
            runner.run(asyncio.sleep(0))
        before = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
        namespace.set_port_range(server.port, server.port + 1)
        for name, (_, dial) in made.items():
            raised = [failure(dial) for _ in range(ROUNDS)]
            outcomes[name] = {type(error).__name__ for error in raised if not is_refused(error)}
        namespace.set_port_range(*map(int, before.split()))
        binds = server.start().binds
        answers = {name: again(dial) for name, (_, dial) in made.items()}
        for connection, _ in made.values():
            with contextlib.suppress(Exception):  # another one may be in its place
                closing = connection.close()
                if asyncio.iscoroutine(closing):
                    runner.run(closing)
        del made
        gc.collect()
    return outcomes, binds, answers


def failure(dial):
    try:
        dial()
    except Exception as error:
        return error
    return None


def again(dial):
    return failure(dial) is None


def is_refused(error):
    words = str(error)
    return isinstance(error, ConnectionRefusedError) or any(
        each in words for each in ("refused", "(111)", "(115)", "2003", "self-connect")
    )


@pytest.mark.storm
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_reconnect_meets_itself(mariadb_command):
    namespace.require()
    outcomes, binds, answers = namespace.call(reconnect, mariadb_command, safedial.wrap)
    assert not any(outcomes.values())
    assert binds == 1
    assert answers == dict.fromkeys(outcomes, True)


def test_connection_is_freed_when_it_is_dropped(mariadb):
    connection = safedial.wrap(mysql.connector.connect)(
        host=servers.HOST, port=mariadb.port, user=servers.USER, use_pure=True
    )
    connection.close()
    dropped = weakref.ref(connection)
    gc.disable()
    try:
        del connection
        assert dropped() is None
    finally:
        gc.enable()
