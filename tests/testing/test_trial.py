"""A client on trial: what it leaves behind, and what it can't hide."""

import asyncio
import contextlib
import errno
import socket
import threading

import pytest

from safedial import safe_connect, testing
from safedial.testing import run
from safedial.testing.scan import connections

HOST = "127.0.0.1"


def test_detached_socket_is_seen(force, dead_port):
    """As TLS does: another object has the descriptor, and the one that dialed has none."""
    kept = []

    def connect(host, port):
        with contextlib.closing(socket.create_connection((host, port), 0.3)) as sock:
            kept.append(socket.socket(fileno=sock.detach()))

    try:
        force(dead_port)
        found = run.run_client(connect, HOST, dead_port, 5)
        assert (found.dialed, found.self_connected, found.leaked) == (True, True, 1)
    finally:
        kept.pop().close()


def test_connections_of_others_are_not_the_clients():
    with testing.Outage() as server, socket.create_connection(server.address):
        found = run.run_client(lambda host, port: socket.create_connection((host, port), 1), HOST, server.port, 5)
        assert (found.returned, found.leaked) == (True, 0)


class Closes:
    """What a sync factory may return of an asyncio client: close() is a coroutine."""

    def __init__(self, sock):
        self.sock = sock

    async def aclose(self):
        await asyncio.sleep(0)
        self.sock.close()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_close_that_must_be_awaited_is(asynchronous):
    def connect(host, port):
        return Closes(socket.create_connection((host, port), 1))

    async def connect_async(host, port):
        return connect(host, port)

    with testing.Outage() as server:
        found = run.run_client(connect_async if asynchronous else connect, HOST, server.port, 5)
    assert (found.returned, found.leaked) == (True, 0)


def test_coroutine_that_hangs_without_a_socket_is_ended(refused_port):
    async def connect(host, port):
        with contextlib.suppress(ConnectionRefusedError):
            await asyncio.open_connection(host, port)
        await asyncio.Event().wait()

    before = threading.active_count()
    found = run.run_client(connect, HOST, refused_port, 0.1)
    assert found.hung
    assert threading.active_count() == before


def test_error_that_holds_its_socket_is_no_leak(refused_port):
    """The frames of an error keep what they had, those of its cause too."""

    def connect(host, port):
        sock = socket.socket()
        try:
            sock.connect((host, port))
        except OSError as error:
            sock.close()
            raise LookupError("no server") from error

    found = run.run_client(connect, HOST, refused_port, 5)
    assert found.leaked == 0
    assert [each.__traceback__ for each in run.error_chain(found.error)] == [None, None]


def test_chain_ends_where_errors_have_each_other():
    one, other = ValueError("one"), OSError(errno.ECONNREFUSED, "other")
    one.__context__, other.__context__ = other, one
    assert run.error_chain(one) == [one, other]


def test_chain_finds_members_and_reasons():
    refused, late = ConnectionRefusedError("refused"), TimeoutError("late")
    wrapped = RuntimeError(refused)
    assert set(run.error_chain(ExceptionGroup("all", [wrapped, late]))) >= {refused, late, wrapped}


class TestFindings:
    def test_say_by_which_means(self, means, monkeypatch):
        if means == "bind":
            monkeypatch.setattr("safedial.testing.faults._narrow", lambda *args: False)
        (found,) = testing.assert_resilient(guarded, faults=["self_connect"])
        assert found.means == {"bind": "bind", "option": "IP_LOCAL_PORT_RANGE"}[means]

    def test_name_who_holds_the_port(self):
        kept = []

        def connect(host, port):
            kept.append(socket.create_connection((host, port), 1))
            return

        try:
            with pytest.raises(AssertionError, match=r"is held: ESTABLISHED to itself, of process \d+"):
                testing.assert_resilient(connect, faults=["self_connect"], within=0.3)
        finally:
            kept.pop().close()

    def test_need_a_fault(self):
        with pytest.raises(ValueError, match="faults must be some of"):
            testing.assert_resilient(guarded, faults=[])


def guarded(host, port):
    return safe_connect((host, port), 1)


def test_connections_tell_both_ends():
    with testing.Outage() as server, socket.create_connection(server.address) as sock:
        (found,) = (each for each in connections() if each.descriptor == sock.fileno())
        assert (found.local, found.peer, found.self_connected) == (sock.getsockname(), server.address, False)
        found.shut_down()
        assert sock.recv(1) == b""


class FrozenError(Exception):
    """As a frozen dataclass: nothing of it can be set."""

    def __setattr__(self, name, value):
        raise AttributeError(f"cannot assign to field {name!r}")

    def __str__(self):
        raise LookupError("no words")


class NoGroupError(Exception):
    exceptions = None


@pytest.mark.parametrize("kind", [FrozenError, NoGroupError])
def test_strange_errors_are_errors(kind):
    def connect(host, port):
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), 1).close()
        raise kind

    with pytest.raises(AssertionError, match=f"FAILED  {kind.__name__}"):
        testing.assert_resilient(connect, faults=["outage"], within=2)
    with testing.Outage() as server:
        assert isinstance(run.run_client(connect, HOST, server.port, 5).error, kind)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"faults": 5}, TypeError, "faults"),
        ({"faults": [[]]}, ValueError, "faults"),
        ({"host": 5}, TypeError, "host"),
        ({"host": "localhost"}, ValueError, "host"),
        ({"server": 5, "faults": ["refused_port"]}, TypeError, "server"),
    ],
)
def test_bad_arguments(arguments, error, named):
    with pytest.raises(error, match=named):
        testing.assert_resilient(guarded, **arguments)
