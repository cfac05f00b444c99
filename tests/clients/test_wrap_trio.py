"""`wrap` under trio: rounds, waits and threads are those of the library that runs."""

import socket
import time

import pytest
import tenacity
import trio
import trio.testing

import safedial
from safedial import testing
from tests.support.policies import retrying

HOST = "127.0.0.1"


def dial(connect, *address):
    """Dial once in trio, and return what came of it: the peer's port, or the error."""

    async def main():
        async with await connect(*address) as stream:
            return stream.socket.getpeername()[1]

    return trio.run(main)


@pytest.mark.parametrize("kind", [tenacity.Retrying, tenacity.AsyncRetrying])
def test_dials_until_the_server_is_up(kind):
    with testing.Outage() as server:
        server.refuse_for(dials=2)
        policy = retrying(5, 0.01, kind)
        assert dial(safedial.wrap(trio.open_tcp_stream, policy=policy), HOST, server.port) == server.port


def test_self_connect_comes_out_as_trios_error(force, dead_port):
    fault = force(dead_port)
    with pytest.raises(OSError, match="all attempts to connect") as caught:
        dial(safedial.wrap(trio.open_tcp_stream), HOST, dead_port)
    assert fault.triggered == 3, "the default policy dials again"
    assert isinstance(caught.value.__cause__, safedial.SelfConnectError | ExceptionGroup)
    socket.create_server((HOST, dead_port)).close()


def test_address_is_resolved_and_held_beside_the_event_loop(dead_port):
    async def connect(host, port):
        with socket.socket() as sock:
            sock.bind(("0.0.0.0", port))  # fails: the port is held

    with pytest.raises(OSError, match="in use"):
        dial(safedial.wrap(connect, address=("localhost", dead_port)), "localhost", dead_port)


def test_blocking_sleep_of_a_policy_runs_in_a_thread(dead_port):
    turns = []

    async def main():
        async def count():
            while True:
                turns.append(len(slept))
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            with pytest.raises(OSError, match="all attempts"):
                await connect(HOST, dead_port)
            nursery.cancel_scope.cancel()

    slept = []

    def sleep(seconds):
        time.sleep(0.1)
        slept.append(seconds)

    connect = safedial.wrap(trio.open_tcp_stream, policy=retrying(2, 0.1, sleep=sleep))
    trio.run(main)
    assert slept == [0.1]
    assert turns.count(0) > 1, "trio ran on meanwhile"


def test_wait_can_be_cancelled(dead_port):
    async def main():
        with trio.move_on_after(0.05) as scope:
            await safedial.wrap(trio.open_tcp_stream, policy=retrying(wait=3600))(HOST, dead_port)
        return scope.cancelled_caught

    assert trio.run(main)


def test_clock_and_sleep_are_trios(dead_port):
    """trio's own test clock jumps over each wait."""
    events = []

    async def main():
        await safedial.wrap(trio.open_tcp_stream, policy=safedial.reconnect(3600), on_event=events.append)(
            HOST, dead_port
        )

    with pytest.raises(OSError, match="all attempts"):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert events[-1].elapsed >= 3600
    assert 3600 / 5 < events[-1].round < 3600 / 2.5 + 20
