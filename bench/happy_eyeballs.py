"""What a dead IPv6 address costs: a name with a black hole first and a live IPv4 server second.

    python -m bench.happy_eyeballs [rounds]

In a network namespace of its own (Linux, without root). The black hole is a server with a full
backlog, where the kernel drops every SYN. Each contender dials once a round, with a timeout of two
seconds where it has one and a delay of a quarter of a second where it races. asyncio without
a delay is left out: it has no timeout for an attempt, and waits for two minutes.
"""

import asyncio
import platform
import socket
import statistics
import sys
import time

from tests.support import faults, namespace

import safedial
from safedial import testing

TIMEOUT, DELAY = 2, 0.25


def measure(rounds):
    port = testing.dead_port()
    name = ("db", port)
    socket.getaddrinfo = lambda *args, **kwds: [faults.tcp("::1", port), faults.tcp("127.0.0.1", port)]
    dialer = safedial.Dialer(timeout=TIMEOUT)
    contenders = {
        "socket.create_connection": lambda: socket.create_connection(name, TIMEOUT),
        "safe_connect": lambda: safedial.safe_connect(name, TIMEOUT),
        "Dialer().dial": lambda: dialer.dial(name),
        "Dialer().dial_async": lambda: asyncio.run(dialer.dial_async(name)),
        "asyncio, with a delay": lambda: asyncio.run(connect(asyncio.open_connection, name)),
        "open_connection, with a delay": lambda: asyncio.run(connect(safedial.open_connection, name)),
    }
    taken = {contender: [] for contender in contenders}
    with faults.listener("127.0.0.1", port), faults.full_listener("::1", port):
        for _ in range(rounds):
            for contender, dial in contenders.items():
                begin = time.perf_counter()
                sock = dial()
                taken[contender].append(time.perf_counter() - begin)
                if sock is not None:
                    sock.close()
    return taken


async def connect(open_connection, name):
    _, writer = await open_connection(*name, happy_eyeballs_delay=DELAY)
    writer.transport.abort()


def main():
    from bench import happy_eyeballs  # the child process knows this module by its name

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    taken = namespace.call(happy_eyeballs.measure, rounds)
    print(
        f"\nPython {platform.python_version()}, dead IPv6 first, timeout {TIMEOUT} s, delay {DELAY} s, {rounds} rounds"
    )
    for contender, times in taken.items():
        median = statistics.median(times)
        print(f"  {contender:30} {median:6.3f} s   {median / TIMEOUT:5.2f} timeouts   {median / DELAY:5.2f} delays")


if __name__ == "__main__":
    main()
