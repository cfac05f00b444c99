"""Cancelling clients that do not end by themselves: nothing stays behind, and the table tells waiting from retrying."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest
import tenacity

import safedial
from safedial import testing
from safedial._retry import loop
from safedial.testing import run
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

    def test_one_that_sleeps_after_its_first_dial(self, refused_port):
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
