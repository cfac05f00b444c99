"""install(): what it replaces, and puts back."""

import asyncio
import contextlib
import functools
import inspect
import pickle
import socket
import sys
import threading

import mysql.connector
import psycopg
import psycopg.generators
import psycopg2
import pytest
import uvloop

import safedial
from safedial import testing
from safedial._clients import c_drivers, patch
from tests.support import faults


def replaced():
    """Return the attributes that install() replaces in the modules imported here."""
    found = {}
    for name, places in c_drivers.DRIVERS.items():
        for place in places:
            if name in sys.modules:
                *parents, attribute = place.path.split(".")
                owner = functools.reduce(getattr, parents, sys.modules[name])
                found[f"{name}.{place.path}"] = vars(owner).get(attribute)
    return found


PUBLIC = {
    "psycopg.connect": psycopg.connect,
    "psycopg.Connection": psycopg.Connection,
    "psycopg.AsyncConnection": psycopg.AsyncConnection,
    "psycopg2.connect": psycopg2.connect,
    "mysql.connector.connect": mysql.connector.connect,
    "uvloop.Loop": uvloop.Loop,
}
with contextlib.suppress(ImportError):
    from mysql.connector import CMySQLConnection

    PUBLIC["mysql.connector.CMySQLConnection"] = CMySQLConnection
with contextlib.suppress(ImportError):
    import MySQLdb.connections

    PUBLIC["MySQLdb.connect"] = MySQLdb.connect
    PUBLIC["MySQLdb.connections.Connection"] = MySQLdb.connections.Connection


@pytest.fixture(autouse=True)
def _uninstalled():
    before, finders, connect = replaced(), list(sys.meta_path), socket.socket.connect
    yield
    safedial.uninstall()
    assert replaced() == before
    assert sys.meta_path == finders
    assert socket.socket.connect is connect
    assert not patch._layers


def test_replaces_below_all_drivers():
    before = replaced()
    assert len(before) >= 3
    safedial.install()
    after = replaced()
    assert not [name for name in before if after[name] is before[name]]
    safedial.install()
    assert replaced() == after


def signature_of(function):
    try:
        return inspect.signature(function)
    except ValueError:  # of a builtin
        return None


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_stay_what_they_are(name):
    signature = signature_of(PUBLIC[name])
    safedial.install()
    module, _, attribute = name.rpartition(".")
    assert getattr(sys.modules[module], attribute) is PUBLIC[name]
    assert pickle.loads(pickle.dumps(PUBLIC[name])) == PUBLIC[name]
    assert signature_of(PUBLIC[name]) == signature


def test_replacements_look_like_what_they_replace():
    before = replaced()
    safedial.install()
    for name, after in replaced().items():
        plain = before[name]
        if plain is not None:  # uvloop.Loop inherits it
            assert after.__name__ == plain.__name__
            assert after.__module__ == plain.__module__
            assert after.__wrapped__ is plain


@pytest.fixture
def generators():
    before = psycopg.generators.connect
    yield psycopg.generators
    psycopg.generators.connect = before


def test_patch_on_top_stays(generators):
    safedial.install()
    ours = generators.connect

    @functools.wraps(ours)
    def on_top(*args, **kwds):
        return ours(*args, **kwds)

    generators.connect = on_top
    safedial.uninstall()
    assert generators.connect is on_top
    safedial.install()
    assert generators.connect.__wrapped__ is on_top
    safedial.uninstall()
    assert generators.connect is on_top


def test_hook_that_outlives_install_does_nothing(generators, dead_port, monkeypatch):
    safedial.install()
    ours = generators.connect
    safedial.uninstall()
    generators.connect = ours
    monkeypatch.setattr(c_drivers, "holding", None)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(host="127.0.0.1", port=dead_port, user="app", connect_timeout=5)


def test_old_hook_that_was_put_back_is_taken_over(generators):
    plain = generators.connect
    safedial.install()
    old = generators.connect
    safedial.uninstall()
    generators.connect = old
    safedial.install()
    assert generators.connect.__wrapped__ is plain


def test_hook_that_was_undone_by_others_is_renewed(generators):
    plain = generators.connect
    safedial.install()
    generators.connect = plain
    safedial.install()
    assert generators.connect is not plain


def test_unknown_version_is_said(generators, caplog):
    del generators.connect
    safedial.install()
    assert "does not reach this version of psycopg" in caplog.text


def test_uninstall_without_install():
    safedial.uninstall()


def test_two_threads_may_install():
    before = replaced()
    for _ in range(20):
        threads = [threading.Thread(target=safedial.install) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        safedial.uninstall()
        assert replaced() == before


def test_wrapped_driver_works(dead_port):
    safedial.install()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        safedial.wrap(psycopg.connect, policy=None)(host="127.0.0.1", port=dead_port, user="app")


def test_dial_is_told_once_after_a_second_install_on_top_of_another_patch(monkeypatch, dead_port):
    events = []
    safedial.install(on_event=events.append)
    ours = psycopg2._connect

    @functools.wraps(ours)
    def traced(*args, **kwds):
        return ours(*args, **kwds)

    monkeypatch.setattr(psycopg2, "_connect", traced)
    safedial.uninstall()
    safedial.install(on_event=events.append)
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(f"host=127.0.0.1 port={dead_port} user=app")
    safedial.uninstall()
    monkeypatch.undo()
    psycopg2._connect = ours.__wrapped__
    assert [event.kind for event in events] == ["failed"]


# --- psycopg2's asynchronous connections ----------------------------------------------------------------


@pytest.fixture
def dialing(monkeypatch):
    """A connection that dials a server which never answers, and a list with what let go of its port."""
    ended = []

    @contextlib.contextmanager
    def holding(_):
        yield
        ended.append("held")

    monkeypatch.setattr(c_drivers, "holding", holding)
    safedial.install()
    with faults.full_listener() as server:
        connections = [psycopg2.connect(f"host=127.0.0.1 port={server.getsockname()[1]} user=app", async_=True)]
        yield connections, ended
        connections.clear()


def test_port_is_held_until_the_connection_is_collected(dialing):
    connections, ended = dialing
    assert not ended
    connections.clear()
    assert ended


def test_port_is_held_until_another_dial_if_the_connection_is_closed(dialing, dead_port):
    connections, ended = dialing
    connections[0].close()
    assert not ended
    with contextlib.suppress(psycopg2.OperationalError):
        connections.append(psycopg2.connect(f"host=127.0.0.1 port={dead_port} user=app", async_=True))
    assert ended


def test_port_is_held_until_uninstall(dialing):
    _, ended = dialing
    safedial.uninstall()
    assert ended


def test_connection_of_a_class_without_weak_references(dialing, dead_port):
    _, ended = dialing

    class Connection(tuple):
        __slots__ = ()

    psycopg2.connect("host=127.0.0.1 user=app", connection_factory=lambda *args, **kwds: Connection(), async_=True)
    assert ended


# --- events ----------------------------------------------------------------------------------------------


def dial_psycopg_async(**arguments):
    return asyncio.run(psycopg.AsyncConnection.connect(**arguments))


def dial_uvloop(host, port, **_):
    async def main():
        _, writer = await asyncio.open_connection(host, port)
        writer.close()
        await writer.wait_closed()

    uvloop.run(main())


DIALS = {
    "psycopg": [psycopg.connect, dial_psycopg_async],
    "psycopg2": [psycopg2.connect],
    "MySQLdb": [PUBLIC["MySQLdb.connect"]] if "MySQLdb.connect" in PUBLIC else [],
    "uvloop": [dial_uvloop],
}


@pytest.mark.parametrize(("driver", "dial"), [(driver, dial) for driver in DIALS for dial in DIALS[driver]])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_hook_is_told_of_a_dial_in_c(driver, dial, host, dead_port, events):
    safedial.install(on_event=events.append)
    with pytest.raises(Exception, match=r"refused|Can't connect|Connect call failed|111") as caught:
        dial(host=host, port=dead_port, user="app")
    event = events[-1]
    assert (event.kind, event.client, event.host, int(event.port)) == ("failed", driver, event.host, dead_port)
    assert event.host in (host, "127.0.0.1", "::1")  # psycopg tells each address
    assert event.error is caught.value or driver == "psycopg"
    assert {each.client for each in events} == {driver}


def test_hook_is_told_of_a_connection(events):
    safedial.install(on_event=events.append)
    with testing.Outage() as server:
        dial_uvloop(*server.address)
    assert [(each.kind, each.client, each.address) for each in events[-1:]] == [("connected", "uvloop", server.address)]


def test_hook_is_told_nothing_while_psycopg2_dials_on(events):
    safedial.install(on_event=events.append)
    with faults.full_listener() as server:
        psycopg2.connect(f"host=127.0.0.1 port={server.getsockname()[1]} user=app", async_=True)
    assert not events
