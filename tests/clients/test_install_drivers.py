"""install() and clients that dial in C, on the real kernel: each dials a dead port in a range of two ports."""

import asyncio
import concurrent.futures
import contextlib
import ctypes.util
import faulthandler
import importlib.util
import multiprocessing
import os
import tempfile
import threading

import pytest

import safedial
from safedial._tcp import procnet, steering
from tests.support import faults, namespace

HOST = "127.0.0.1"
RANGE = (40000, 40001)


def dial_psycopg(port):
    import psycopg

    psycopg.connect(host=HOST, port=port, user="app", connect_timeout=2)


def dial_psycopg_name(port):
    import psycopg

    psycopg.Connection.connect(f"postgresql://app@localhost:{port}/app?connect_timeout=2")


def dial_psycopg_async(port):
    import psycopg

    asyncio.run(psycopg.AsyncConnection.connect(host=HOST, port=port, user="app", connect_timeout=2))


def dial_psycopg_pool(port):
    import psycopg_pool

    conninfo = f"host={HOST} port={port} user=app connect_timeout=2"
    with psycopg_pool.ConnectionPool(conninfo, min_size=1, open=False, reconnect_timeout=0.1) as pool:
        pool.wait(0.05)


def dial_psycopg2(port):
    import psycopg2

    psycopg2.connect(f"host={HOST} port={port} user=app connect_timeout=2")


def dial_psycopg2_async(port):
    import psycopg2
    import psycopg2.extras

    # libpq dials ::1 at once, 127.0.0.1 in poll().
    connection = psycopg2.connect(f"host=localhost port={port} user=app", async_=True)
    psycopg2.extras.wait_select(connection)


def dial_mysqldb(port):
    import MySQLdb

    MySQLdb.connect(host=HOST, port=port, user="app", connect_timeout=1)


def dial_mysqldb_positional(port):
    import MySQLdb.connections

    MySQLdb.connections.Connection(HOST, "app", "", "app", port, connect_timeout=1)


def dial_mysql_connector(port):
    import mysql.connector

    mysql.connector.connect(host=HOST, port=port, user="app", connection_timeout=1, use_pure=False)


def dial_psycopg_service(port):
    import psycopg

    with option_file("PGSERVICEFILE", f"[app]\nhost={HOST}\nport={port}\nuser=app\n"):
        psycopg.connect("service=app connect_timeout=2")


def dial_psycopg2_service(port):
    import psycopg2

    with option_file("PGSERVICEFILE", f"[app]\nhost={HOST}\nport={port}\nuser=app\n"):
        psycopg2.connect(service="app", connect_timeout=2)


def dial_mysqldb_option_file(port):
    import MySQLdb

    with option_file("MY_CNF", f"[client]\nhost = {HOST}\nport = {port}\nuser = app\n") as path:
        MySQLdb.connect(read_default_file=path, connect_timeout=1)


@contextlib.contextmanager
def option_file(variable, text):
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        os.environ[variable] = file.name
        yield file.name


def dial_uvloop(port):
    import uvloop

    async def main():
        _, writer = await asyncio.open_connection("localhost", port)
        writer.close()

    uvloop.run(main())


def _is_here(name):
    """Return whether the dialing function *name* can run: two drivers have to be compiled, or want a new OpenSSL."""
    module = "MySQLdb" if "mysqldb" in name else "_mysql_connector" if "mysql" in name else "psycopg"
    return importlib.util.find_spec(module) is not None


DRIVERS = {
    name.removeprefix("dial_"): dial
    for name, dial in list(globals().items())
    if name.startswith("dial_") and _is_here(name)
}
# Without install() they wait for a second for the server's greeting, which is for make storm.
SLOW = ("mysqldb", "mysqldb_positional", "mysqldb_option_file", "mysql_connector", "psycopg_pool")
FAST = [name for name in DRIVERS if name not in SLOW]


def met_themselves(names, dials, installed, environment=(), early=()):
    """Dial with each driver until it meets itself, *dials* times at most; return the names of those that did.

    The kernel may draw two ports, so half of the dials of an unguarded client connect to themselves.
    """
    os.environ.update(environment)
    for module in early:
        importlib.import_module(module)
    if installed:
        safedial.install()
    return [name for place, name in enumerate(names) if met_itself(DRIVERS[name], 40000 + 2 * place, dials)]


def met_itself(dial, port, dials):
    namespace.set_port_range(port, port + 1)
    steering._believed = (0.0, None)  # read it again
    for _ in range(dials):
        with contextlib.suppress(Exception):
            dial(port)
        if any(row.local == row.peer for row in procnet.sockets_on(port)):
            return True
    return False


def call(*args):
    namespace.require()
    return namespace.call(met_themselves, *args)


def test_no_driver_meets_itself_under_install():
    assert call([name for name in DRIVERS if name != "psycopg_pool"], 12, True) == []


@pytest.mark.storm
def test_nor_if_it_was_imported_before():
    early = ("psycopg", "psycopg2", "uvloop", *(["MySQLdb.connections"] if "mysqldb" in DRIVERS else []))
    names = [name for name in DRIVERS if name not in ("psycopg_pool", "psycopg_name")]
    assert call(names, 12, True, (), early) == []


def test_drivers_meet_themselves_without_install():
    assert call(FAST, 30, False) == FAST


@pytest.mark.storm
@pytest.mark.parametrize("name", DRIVERS)
def test_storm(name):
    assert call([name], 60, True) == []
    assert call([name], 30, False) == [name]


@pytest.mark.storm
@pytest.mark.parametrize("installed", [True, False])
def test_psycopg_in_python(installed):
    """Its implementation that reaches libpq by ctypes."""
    if ctypes.util.find_library("pq") is None:
        pytest.skip("libpq is missing: apt-get install libpq5")
    names = ["psycopg"]
    assert call(names, 12, installed, {"PSYCOPG_IMPL": "python"}) == ([] if installed else names)


def met_itself_in_poll():
    """Let psycopg2 fail at its first address only later, so that it dials the next one in poll()."""
    import psycopg2
    import psycopg2.extras

    safedial.install()
    with faults.full_listener() as listener:
        dsn = f"host={HOST},{HOST} port={listener.getsockname()[1]},{RANGE[0]} user=app"
        connections = [psycopg2.connect(dsn, async_=True) for _ in range(20)]
    namespace.set_port_range(*RANGE)
    for connection in connections:
        with contextlib.suppress(psycopg2.OperationalError):
            psycopg2.extras.wait_select(connection)
    return any(row.local == row.peer for row in procnet.sockets_on(RANGE[0]))


@pytest.mark.storm
def test_psycopg2_dials_on_in_poll():
    namespace.require()
    assert not namespace.call(met_itself_in_poll, port_range=(30000, 50000))


# --- processes -------------------------------------------------------------------------------------------


def met_themselves_in_children(method):
    """Dial in child processes that are started by *method*."""
    context = multiprocessing.get_context(method)
    initializer = None if method == "fork" else safedial.install
    safedial.install()
    names = ["psycopg2"]
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context, initializer=initializer) as pool:
        return pool.submit(met_themselves, names, 12, False).result(30)


@pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(each, marks=pytest.mark.storm) for each in ("spawn", "forkserver"))]
)
def test_child_processes(method):
    namespace.require()
    assert namespace.call(met_themselves_in_children, method, port_range=RANGE) == []


def children_that_hang(times):
    """Fork while threads install and uninstall; each child installs, and dials."""
    import psycopg

    safedial.install(hold=[(HOST, 50005)])  # loads everything
    done, hung = threading.Event(), 0

    def churn():
        while not done.is_set():
            safedial.install(hold=[(HOST, 50005)])
            safedial.uninstall()

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(times):
        if not (child := os.fork()):
            faulthandler.dump_traceback_later(20, exit=True)
            safedial.install()
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(host=HOST, port=50001, user="app")
            safedial.uninstall()
            os._exit(0)
        hung += os.waitpid(child, 0)[1] != 0
    done.set()
    for thread in threads:
        thread.join()
    return hung


@pytest.mark.storm
def test_no_child_hangs():
    namespace.require()
    assert namespace.call(children_that_hang, 100) == 0
