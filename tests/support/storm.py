"""Two processes dial a dead port in a tight loop, while a server tries to bind it."""

import logging
import multiprocessing
import socket
import time
from dataclasses import dataclass

import safedial
from safedial import testing

DIALERS = 2


@dataclass(frozen=True)
class Counts:
    dials: int
    self_connects: int
    returned: int  # of the self-connects: their sockets
    binds: int
    failed: int  # of the binds


def storm(seconds, dial):
    """Let two processes call *dial* with the address of a dead port, and a server bind it every 10 ms."""
    address = ("127.0.0.1", testing.dead_port())
    context = multiprocessing.get_context("spawn")
    counts = context.Queue()
    end = time.monotonic() + seconds + 1  # all processes share the clock
    dialers = [context.Process(target=_dial_until, args=(end, address, dial, counts)) for _ in range(DIALERS)]
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
    made = [sum(each) for each in zip(*(counts.get(timeout=60) for _ in dialers), strict=True)]
    for process in dialers:
        process.join()
    return Counts(*made, binds, failed)


def _dial_until(end, address, dial, counts):
    logging.getLogger("safedial").setLevel(logging.ERROR)  # it warns of each self-connect
    dials = released = returned = 0
    while time.monotonic() < end:
        dials += 1
        try:
            with dial(address) as sock:
                returned += sock.getsockname() == sock.getpeername()
        except safedial.SelfConnectError:
            released += 1
        except OSError:
            continue
    counts.put((dials, released + returned, returned))
