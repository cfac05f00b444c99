"""Cancelling clients that do not end by themselves: nothing stays behind, and the table tells waiting from retrying."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import pytest
import tenacity

import safedial
from safedial import testing
from safedial._retry import loop
from safedial.testing import cancellation, run
from tests.support import faults

HOST = "127.0.0.1"
MINUTE = tenacity.wait_fixed(60)
# Seconds in which a client surely makes its first dials, on a busy machine too.
SOON = 0.5


def ended(connect, port, within=SOON):
    """Run a client that must be ended, and check that its thread has gone."""
    outcome = run.run_client(connect, HOST, port, within)
    assert outcome.hung or outcome.retrying
    assert "client under test" not in {thread.name for thread in threading.enumerate()}
    assert not outcome.leaked
    return outcome


def with_safedial(host, port):
    return safedial.safe_connect((host, port), policy=tenacity.Retrying(wait=MINUTE))


def with_tenacity(host, port):
    return tenacity.Retrying(wait=MINUTE)(socket.create_connection, (host, port))


async def with_safedial_async(host, port):
    return await safedial.open_connection(host, port, policy=tenacity.Retrying(wait=MINUTE))


async def with_tenacity_async(host, port):
    return await tenacity.AsyncRetrying(wait=MINUTE)(asyncio.open_connection, host, port)


@pytest.mark.parametrize(
    "connect",
    [
        with_tenacity,
        with_safedial_async,
        pytest.param(with_safedial, marks=pytest.mark.storm),
        pytest.param(with_tenacity_async, marks=pytest.mark.storm),
    ],
)
def test_wait_of_a_policy_ends_at_once(connect, refused_port):
    outcome = ended(connect, refused_port)
    assert (outcome.retrying, outcome.dials, outcome.last_wait) == (True, 1, 60)
    assert (tenacity.nap.time, loop.time) == (time, time)


def test_a_mock_of_sleep_is_called(refused_port, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    policy = tenacity.Retrying(wait=MINUTE, stop=tenacity.stop_after_attempt(3), reraise=True)
    outcome = run.run_client(lambda *address: policy(socket.create_connection, address), HOST, refused_port, 5)
    assert (slept, outcome.dials, outcome.last_wait) == ([60, 60], 3, 60)
    assert isinstance(outcome.error, ConnectionRefusedError)


def test_several_at_once_are_cancellable():
    with cancellation.cancellable_waits():
        with cancellation.cancellable_waits():
            pass
        assert tenacity.nap.time is not time
        assert loop.time is not time
    assert (tenacity.nap.time, loop.time) == (time, time)


def test_a_module_time_of_somebody_else_stays(monkeypatch):
    mock = types.ModuleType("time")
    monkeypatch.setattr(tenacity.nap, "time", mock)
    with cancellation.cancellable_waits():
        assert tenacity.nap.time is mock
    assert tenacity.nap.time is mock


def test_waits_of_other_threads_are_not_the_clients(refused_port):
    def connect(host, port):
        policy = tenacity.Retrying(wait=tenacity.wait_fixed(0.001), stop=tenacity.stop_after_attempt(2))
        thread = threading.Thread(target=_fails, args=(policy,))
        thread.start()
        thread.join()

    assert run.run_client(connect, HOST, refused_port, 5).last_wait is None


def _fails(policy):
    with contextlib.suppress(tenacity.RetryError):
        policy(int, "no number")


class TestLoopsOfTheirOwn:
    def test_one_that_sleeps(self, refused_port):
        def connect(host, port):
            while True:
                with contextlib.suppress(OSError):
                    return socket.create_connection((host, port))
                time.sleep(0.02)

        outcome = ended(connect, refused_port)
        assert (outcome.retrying, outcome.last_wait) == (True, None)
        assert outcome.dials > 1

    def test_one_that_sleeps_after_its_first_dial(self):
        """It can't be told from one that waits for something else, and the table says so."""

        def connect(host, port):
            with contextlib.suppress(OSError):
                socket.create_connection((host, port))
            time.sleep(SOON + 0.1)

        with pytest.raises(AssertionError, match=r"no dial\s+is under way"):
            testing.assert_resilient(connect, faults=["refused_port"], within=SOON)

    @pytest.mark.storm
    def test_one_that_neither_dials_nor_ends(self, refused_port):
        def connect(host, port):
            while True:
                with contextlib.suppress(Exception):
                    time.sleep(0.01)

        assert ended(connect, refused_port).hung

    def test_one_that_spins(self, refused_port):
        def connect(host, port):
            while True:
                with contextlib.suppress(Exception):
                    return socket.create_connection((host, port))

        assert ended(connect, refused_port).retrying

    def test_one_whose_dials_time_out(self):
        def connect(host, port):
            while True:
                with contextlib.suppress(OSError):
                    return socket.create_connection((host, port), 0.1)

        with faults.full_listener() as silent:
            assert ended(connect, silent.getsockname()[1]).retrying

    @pytest.mark.storm
    def test_one_that_catches_everything(self, refused_port, monkeypatch):
        """Its thread can't be ended, but does not spin on."""
        dialed, over = [], threading.Event()
        monkeypatch.setattr(cancellation, "_never", over)

        def connect(host, port):
            while not over.is_set():
                dialed.append(port)
                with contextlib.suppress(BaseException):
                    socket.create_connection((host, port))

        outcome = run.run_client(connect, HOST, refused_port, 0.2)
        assert (outcome.retrying, outcome.still_running, outcome.leaked) == (True, True, 0)
        before = len(dialed)
        time.sleep(0.1)
        assert len(dialed) == before
        over.set()

    def test_one_that_waits_for_a_greeting_in_the_end(self):
        """Its last dial takes longer than those before: it hangs, and does not retry."""

        def connect(host, port):
            for _ in range(3):
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, port)) as sock:
                    sock.recv(1)

        with testing.Outage() as server:
            server.refuse_for(dials=2)
            outcome = ended(connect, server.port)
        assert (outcome.hung, outcome.retrying, outcome.dials) == (True, False, 3)


class TestLoopsOfAsyncio:
    @pytest.mark.parametrize("library", ["asyncio", pytest.param("uvloop", marks=pytest.mark.storm)])
    def test_one_of_the_clients_own(self, library, refused_port):
        runs = pytest.importorskip(library).run

        async def main(host, port):
            with contextlib.suppress(OSError):
                await asyncio.open_connection(host, port)
            await asyncio.sleep(60)

        assert ended(lambda *address: runs(main(*address)), refused_port).hung


class TestThreadsOfTheClients:
    def client(self, error, threads):
        def dials(host, port):
            while True:
                with contextlib.suppress(OSError):
                    return socket.create_connection((host, port))
                time.sleep(0.01)
                if error is not None:
                    raise error

        def connect(host, port):
            threads.append(threading.Thread(target=dials, args=(host, port)))
            threads[-1].start()
            threads[-1].join()

        return connect

    def test_they_end_without_a_word(self, refused_port, monkeypatch):
        """pytest would warn of an exception that nobody handled."""
        said, threads = [], []
        monkeypatch.setattr(threading, "excepthook", said.append)
        ended(self.client(None, threads), refused_port, 0.2)
        assert [thread.is_alive() for thread in threads] == [False]
        assert not said
        assert threading.excepthook == said.append

    def test_their_own_errors_are_heard_of(self, refused_port, monkeypatch):
        said, threads = [], []
        monkeypatch.setattr(threading, "excepthook", lambda args: said.append(args.exc_type))
        run.run_client(self.client(LookupError(), threads), HOST, refused_port, 5)
        assert said == [LookupError]


class StopError(Exception):
    """As pytest-timeout's, or Ctrl-C."""


@pytest.mark.parametrize("fault", ["refused_port", "frozen", "self_connect"])
def test_an_interrupt_ends_the_client(fault):
    dialed = []

    def connect(host, port):
        while True:
            dialed.append(port)
            if len(dialed) == 2:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
            with contextlib.suppress(OSError):
                socket.create_connection((host, port), 0.05).close()
            time.sleep(0.01)

    def interrupt(*args):
        raise StopError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(StopError):
            testing.assert_resilient(connect, faults=[fault], within=30)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert "client under test" not in {thread.name for thread in threading.enumerate()}


def test_the_table_says_that_a_thread_still_runs(monkeypatch):
    monkeypatch.setattr(run, "_GRACE", 0)
    over = threading.Event()
    try:
        with pytest.raises(AssertionError, match=r"its thread could not be\s+ended, and still runs"):
            testing.assert_resilient(lambda host, port: over.wait(60), faults=["refused_port"], within=0.1)
    finally:
        over.set()


def test_the_table_tells_retrying_from_hanging():
    policy = tenacity.Retrying(wait=tenacity.wait_fixed(30))
    with pytest.raises(AssertionError) as caught:
        testing.assert_resilient(
            lambda host, port: safedial.safe_connect((host, port), 0.2, policy=policy),
            faults=["refused_port"],
            within=SOON,
        )
    assert str(caught.value).splitlines()[1:] == [
        "  refused_port  FAILED  still retrying: 1 dial, last wait 30 s",
        "    - no end within 0.5 s: give the client fewer retries, or",
        "      assert_resilient a longer within",
    ]


TRACED = """
import sys, time
from safedial.testing import run
sys.settrace(lambda *_: None)
outcome = run.run_client(lambda host, port: time.sleep(3600), "127.0.0.1", 9, 0.05)
sys.settrace(None)
assert outcome.hung
"""


@pytest.mark.storm
def test_in_a_traced_program():
    """Python 3.11 would run no further: coverage traces, and so do debuggers."""
    subprocess.run([sys.executable, "-c", TRACED], check=True, timeout=60)
