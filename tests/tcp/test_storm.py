"""Dial loops at full size, in their own network namespace if the system allows it.

300,000 blocking and 100,000 asyncio dials to a dead even port never return a self-connected socket, and
two processes that dial in a tight loop don't keep a server from binding.
"""

import asyncio
import contextlib
import functools
import socket
import sys
import time
from collections import Counter

import pytest

import safedial
from safedial import testing
from safedial._tcp import steering
from tests.support import faults, namespace, storm

pytestmark = pytest.mark.storm

BLOCKING_DIALS = 300_000
ASYNCIO_DIALS = 100_000
STORM_SECONDS = 5.0


def dial_blocking(dials, steer):
    """Dial a dead port *dials* times, and count the outcomes."""
    dialer = safedial.Dialer(steer=steer, policy=None)
    address, counts = ("127.0.0.1", testing.dead_port()), Counter(refused=0, self_connect=0, returned=0)
    for _ in range(dials):
        with counted(counts):
            dialer.dial(address).close()
    return counts


def dial_asyncio(dials, steer):
    """Do as `dial_blocking` does, with `open_connection`."""
    port, counts = testing.dead_port(), Counter(refused=0, self_connect=0, returned=0)

    async def main():
        for _ in range(dials):
            with counted(counts):
                _, writer = await safedial.open_connection("127.0.0.1", port, steer=steer, policy=None)
                writer.close()

    asyncio.run(main())
    return counts


@contextlib.contextmanager
def counted(counts):
    try:
        yield
    except safedial.SelfConnectError:
        counts["self_connect"] += 1
    except ConnectionRefusedError:
        counts["refused"] += 1
    else:
        counts["returned"] += 1


@pytest.mark.parametrize(("dial", "dials"), [(dial_blocking, BLOCKING_DIALS), (dial_asyncio, ASYNCIO_DIALS)])
def test_dead_port_never_connects(dial, dials, steer):
    counts = namespace.call_where_possible(dial, dials, steer)
    assert counts["returned"] == 0
    assert counts["refused"] + counts["self_connect"] == dials
    if steer and faults.kernel_steers():
        assert counts["self_connect"] == 0, "the kernel was steered off the port"


def loops_and_a_server(steer):
    return storm.storm(STORM_SECONDS, functools.partial(safedial.safe_connect, steer=steer, policy=None))


def test_dial_loops_do_not_keep_a_server_from_binding(steer):
    found = namespace.call_where_possible(loops_and_a_server, steer)
    assert found.dials > 1000
    assert found.binds > 100
    assert found.returned == 0
    if sys.platform == "linux":
        assert found.failed == 0
    else:
        assert found.failed * 100 < found.binds


def test_nor_do_self_connects_of_every_tenth_dial():
    """In a range of 20 ports. Each of these self-connects is in the way for the moment that it takes to notice it."""
    namespace.require()
    found = namespace.call(loops_and_a_server, False, port_range=(40000, 40019))
    assert found.binds > 100
    assert found.self_connects * 20 > found.dials
    assert (found.returned, found.failed) == (0, 0)


def test_plain_dials_do_connect_to_themselves():
    """The same loop with the stdlib connects to itself, so the tests above can fail."""
    assert namespace.call_where_possible(dial_plain, 2_000_000, 60.0) > 0


def dial_plain(most, seconds):
    address = ("127.0.0.1", testing.dead_port())
    end = time.monotonic() + seconds
    for turn in range(most):
        try:
            socket.create_connection(address).close()
        except ConnectionRefusedError:
            if not turn % 1000 and time.monotonic() > end:
                break
        else:
            return turn
    return 0 if steering.read_range() else 1
