"""What a dead IPv6 address costs: a name with a black hole first and a live IPv4 server second.

    python -m bench.happy_eyeballs [rounds timeout delay]

It runs in a network namespace of its own (Linux, without root). The black hole is a server with a
full backlog: the kernel drops every SYN to it. Each contender dials once a round, with a timeout of
two seconds for an attempt and a delay of a quarter of a second between attempts, if it takes them.
asyncio without a delay is left out: it has no timeout for an attempt, and waits two minutes.
"""

import asyncio
import platform
import socket
import sys
import time

from bench.measure import Table, in_turn
from tests.support import faults, namespace

import safedial
from safedial import testing


def measure(rounds, timeout, delay):
    port = testing.dead_port()
    name = ("db", port)
    socket.getaddrinfo = lambda *args, **kwds: [faults.tcp("::1", port), faults.tcp("127.0.0.1", port)]
    dialer = safedial.Dialer(timeout=timeout, happy_eyeballs_delay=delay)

    async def connect(open_connection):
        _, writer = await open_connection(*name, happy_eyeballs_delay=delay)
        writer.transport.abort()

    def sample(dial):
        begin = time.perf_counter()
        sock = dial()
        taken = time.perf_counter() - begin
        if sock is not None:
            sock.close()
        return taken

    contenders = {
        "socket.create_connection": lambda: socket.create_connection(name, timeout),
        "safe_connect": lambda: safedial.safe_connect(name, timeout, happy_eyeballs_delay=delay),
        "Dialer.dial": lambda: dialer.dial(name),
        "Dialer.dial_async": lambda: asyncio.run(dialer.dial_async(name)),
        "asyncio.open_connection, with a delay": lambda: asyncio.run(connect(asyncio.open_connection)),
        "open_connection, with a delay": lambda: asyncio.run(connect(safedial.open_connection)),
    }
    with faults.listener("127.0.0.1", port), faults.full_listener("::1", port):
        return in_turn(contenders, rounds, sample)


def main():
    from bench import happy_eyeballs  # the child process knows this module by its name

    rounds, timeout, delay = map(float, sys.argv[1:] or (5, 2, 0.25))
    taken = namespace.call(happy_eyeballs.measure, int(rounds), timeout, delay)
    table = Table(
        f"\n{int(rounds)} rounds, timeout {timeout} s, delay {delay} s", f"Python {platform.python_version()}"
    )
    table.add("A dead IPv6 address first", taken, "s")


if __name__ == "__main__":
    main()
