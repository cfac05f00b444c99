"""Dial loops at full size, in their own network namespace if the system allows it.

300,000 blocking and 100,000 asyncio dials to a dead even port never return a self-connected socket, and
two processes that dial in a tight loop don't keep a server from binding.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import socket
import sys
import time
from collections import Counter

import pytest

import safedial
from safedial import testing
from safedial._tcp import steering
from tests.support import faults, namespace

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


def dial_until(end, address, steer, counts):
    logging.getLogger("safedial").setLevel(logging.ERROR)  # it warns of each self-connect
    dialer = safedial.Dialer(steer=steer)
    made = lost = 0
    while time.monotonic() < end:
        made += 1
        try:
            with dialer.dial(address) as sock:
                lost += sock.getsockname() == sock.getpeername()
        except OSError:
            continue
    counts.put((made, lost))


def storm(seconds, steer):
    """Two processes dial a dead port while a server tries to bind it every 10 ms."""
    address = ("127.0.0.1", testing.dead_port())
    context = multiprocessing.get_context("spawn")
    counts = context.Queue()
    end = time.monotonic() + seconds + 1  # all processes share the clock
    dialers = [context.Process(target=dial_until, args=(end, address, steer, counts)) for _ in range(2)]
    for process in dialers:
        process.start()
    binds = failed = 0
    while time.monotonic() < end:
        binds += 1
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                server.bind(address)
            except OSError:
                failed += 1
        time.sleep(0.01)
    made, lost = zip(*(counts.get(timeout=60) for _ in dialers), strict=True)
    for process in dialers:
        process.join()
    return {"dials": sum(made), "self-connected": sum(lost), "binds": binds, "failed": failed}


def test_dial_loops_do_not_keep_a_server_from_binding(steer):
    found = namespace.call_where_possible(storm, STORM_SECONDS, steer)
    assert found["dials"] > 1000
    assert found["binds"] > 100
    assert found["self-connected"] == 0
    if sys.platform == "linux":
        assert found["failed"] == 0
    else:
        assert found["failed"] * 100 < found["binds"]


def test_nor_do_self_connects_of_every_tenth_dial():
    """In a range of 20 ports. Each of these self-connects is in the way for the moment that it takes to notice it."""
    namespace.require()
    found = namespace.call(storm, STORM_SECONDS, False, port_range=(40000, 40019))
    assert found["binds"] > 100
    assert (found["self-connected"], found["failed"]) == (0, 0)


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
