"""Running a client: what it leaves open, and what it can't hide."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import threading
import time
import weakref

import pytest
import tenacity
import trio

from safedial import testing
from safedial.testing import logged, raised, run

HOST = "127.0.0.1"


def test_detached_socket_is_seen(force, dead_port):
    """TLS does this: another object takes the descriptor from the socket that dialed."""
    kept = []

    def connect(host, port):
        with contextlib.closing(socket.create_connection((host, port), 0.3)) as sock:
            kept.append(socket.socket(fileno=sock.detach()))

    try:
        force(dead_port)
        found = run.run_client(connect, HOST, dead_port, 5)
        assert (found.dials, found.self_connected, found.leaked) == (1, True, 1)
    finally:
        kept.pop().close()


def test_connections_of_others_are_no_leaks():
    with testing.Outage() as server, socket.create_connection(server.address):
        found = run.run_client(lambda host, port: socket.create_connection((host, port), 1), HOST, server.port, 5)
        assert (found.returned, found.leaked) == (True, 0)


class Closes:
    """Like an asyncio client that a sync factory returns: closing it needs an await."""

    def __init__(self, sock):
        self.sock = sock

    async def aclose(self):
        await asyncio.sleep(0)
        self.sock.close()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_awaitable_close_is_awaited(asynchronous):
    def connect(host, port):
        return Closes(socket.create_connection((host, port), 1))

    async def connect_async(host, port):
        return connect(host, port)

    with testing.Outage() as server:
        found = run.run_client(connect_async if asynchronous else connect, HOST, server.port, 5)
    assert (found.returned, found.leaked) == (True, 0)


def test_stream_of_trio_is_closed_by_trio():
    def connect(host, port):
        return trio.run(trio.open_tcp_stream, host, port)

    with testing.Outage() as server:
        found = run.run_client(connect, HOST, server.port, 5)
    assert (found.error, found.leaked) == (None, 0)


def test_coroutine_that_hangs_without_a_socket_is_ended(refused_port):
    async def connect(host, port):
        with contextlib.suppress(ConnectionRefusedError):
            await asyncio.open_connection(host, port)
        await asyncio.Event().wait()

    before = threading.active_count()
    found = run.run_client(connect, HOST, refused_port, 0.1)
    assert found.hung
    assert threading.active_count() == before


def test_socket_that_only_a_traceback_holds_is_no_leak(refused_port):
    """The frames of an error keep their variables alive, and so do the frames of its cause."""

    def connect(host, port):
        sock = socket.socket()
        try:
            sock.connect((host, port))
        except OSError as error:
            sock.close()
            raise LookupError("no server") from error

    found = run.run_client(connect, HOST, refused_port, 5)
    assert found.leaked == 0
    assert [each.__traceback__ for each in raised.error_chain(found.error)] == [None, None]


class Pool:
    """Like urllib3's, which logs each error that it retries after. It closes its sockets once it is garbage."""

    def __init__(self, way):
        self.way = way

    def get(self, host, port):
        log = logging.getLogger("pool")
        try:
            self._dial(host, port)
        except LookupError as error:
            if self.way == "exc_info":
                log.warning("again", exc_info=True)
            else:
                log.warning(*{"argument": ("%r", error), "mapping": ("%(it)r", {"it": error})}[self.way])

    def _dial(self, host, port):
        self.idle = socket.create_connection((host, port))
        weakref.finalize(self, self.idle.close)
        raise LookupError("it retries")


@pytest.mark.parametrize("way", ["argument", "mapping", "exc_info"])
def test_socket_that_only_a_log_record_holds_is_no_leak(way, caplog):
    """pytest keeps the records of a test, and so the frames of their errors, and those that called them."""

    def connect(host, port):
        pool = Pool(way)
        pool.get(host, port)

    with testing.Outage() as server:
        assert run.run_client(connect, HOST, server.port, 5).leaked == 0
    (record,) = caplog.records
    (error,) = logged._errors(record)
    assert raised.place_of(error), "its lines stay"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # it is what the test is about
def test_socket_in_a_cycle_is_no_leak(refused_port):
    def connect(host, port):
        cycle = [socket.socket()]
        cycle.append(cycle)
        cycle[0].connect((host, port))

    assert run.run_client(connect, HOST, refused_port, 5).leaked == 0


def test_socket_that_connects_twice_is_one_dial(refused_port):
    def connect(host, port):
        for _ in range(2):
            with socket.socket() as sock:
                sock.connect_ex((host, port))
                sock.connect_ex((host, port))

    assert run.run_client(connect, HOST, refused_port, 5).dials == 2


def test_chain_of_errors_that_refer_to_each_other_ends():
    one, other = ValueError("one"), OSError(errno.ECONNREFUSED, "other")
    one.__context__, other.__context__ = other, one
    assert raised.error_chain(one) == [one, other]


def test_chain_has_members_of_groups_and_arguments():
    refused, late = ConnectionRefusedError("refused"), TimeoutError("late")
    wrapped = RuntimeError(refused)
    assert set(raised.error_chain(ExceptionGroup("all", [wrapped, late]))) >= {refused, late, wrapped}


class TestEnd:
    """What is known of a client whose time is over."""

    def test_one_that_hangs_after_a_wait(self):
        """It waits for a greeting, and no longer for its next round."""

        def connect(host, port):
            with socket.create_connection((host, port)) as sock:
                sock.recv(1)

        policy = tenacity.Retrying(wait=tenacity.wait_fixed(0.01))
        with testing.Outage() as server:
            server.refuse_for(dials=1)
            outcome = run.run_client(policy.wraps(connect), HOST, server.port, 0.3)
        assert (outcome.hung, outcome.dials, outcome.last_wait) == (True, 2, 0.01)

    def test_one_whose_last_dial_takes_a_few_times_longer(self):
        def connect(host, port):
            for _ in range(2):
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, port)) as sock:
                    sock.recv(1)
                time.sleep(0.05)

        with testing.Outage() as server:
            server.refuse_for(dials=1)
            assert run.run_client(connect, HOST, server.port, 0.4).hung

    def test_one_that_is_connected_to_itself(self, force, dead_port):
        """Another object has taken the descriptor from the socket that dialed, as TLS does, and C code waits on it."""

        def connect(host, port):
            number = socket.create_connection((host, port), 1).detach()
            os.set_blocking(number, True)
            os.read(number, 1)
            os.close(number)

        force(dead_port)
        outcome = run.run_client(connect, HOST, dead_port, 0.1)
        assert (outcome.hung, outcome.self_connected, outcome.still_running, outcome.leaked) == (True, True, False, 0)
