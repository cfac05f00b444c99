"""What a dial costs when many local ports are in use towards its server, and what one costs that finds none.

    python -m bench.ports [--rounds 40] [--ports 8000] [--shares 0 25 50 75 95 100] [--markdown]

Each figure is a ratio of medians to the standard library's dial, at the same share of ports in use. For
each share there is a network namespace (Linux, without root) with an ephemeral range of so many ports.
The connections in use are in TIME_WAIT, and have the ports that the kernel draws first: the even ones.
Nothing is left of a dial that is timed. A guard replaces methods of `socket.socket`, and CPython must
then specialize code anew. So that this is not measured, each contender dials several times in its turn.
"""

import argparse
import asyncio
import contextlib
import errno
import platform
import random
import socket
import statistics
import time

from bench.measure import drop, in_turn
from tests.support import exhaustion, faults, namespace

import safedial

HOST, LOW = "127.0.0.1", 40000
DIALS_PER_TURN = 10
PLAIN, ASYNCIO = "`socket.create_connection(addr)`", "`asyncio.open_connection(host, port)`"


BLOCKING = {
    PLAIN: socket.create_connection,
    "`safe_connect(addr)`": lambda addr: safedial.safe_connect(addr, policy=None),
    f"{PLAIN} under `guard()`": socket.create_connection,
}
ASYNC = {
    ASYNCIO: lambda addr: asyncio.open_connection(*addr),
    "`open_connection(host, port)`": lambda addr: safedial.open_connection(*addr, policy=None),
    f"{ASYNCIO} under `guard()`": lambda addr: asyncio.open_connection(*addr),
}


def fill(server, ports, share):
    """Put *share* per cent of *ports* into TIME_WAIT towards *server*, which closes last."""
    exhaustion.sysctl("tcp_tw_reuse", 0)
    free = [port for port in ports if port != server.getsockname()[1]]
    random.Random(0).shuffle(free)
    free.sort(key=lambda port: port % 2 != LOW % 2)
    for port in free[: len(free) * share // 100]:
        with socket.socket() as sock:
            sock.setsockopt(*faults.option(port, port))
            sock.connect(server.getsockname())
            with server.accept()[0]:
                sock.close()


def time_dial(server, dial):
    """Return the seconds of one dial, which fails if no port is free."""
    sock = failure = None
    begin = time.perf_counter()
    try:
        sock = dial(server.getsockname())
    except OSError as error:
        failure = error
    taken = time.perf_counter() - begin
    assert failure is None or failure.errno == errno.EADDRNOTAVAIL
    if sock is not None:
        drop(server.accept()[0])
        drop(sock)
    return taken


async def time_dial_async(server, dial):
    """Do the same with a coroutine function."""
    streams = failure = None
    begin = time.perf_counter()
    try:
        streams = await dial(server.getsockname())
    except OSError as error:
        failure = error
    taken = time.perf_counter() - begin
    assert failure is None or failure.errno == errno.EADDRNOTAVAIL
    if streams is not None:
        drop(server.accept()[0])
        streams[1].transport.abort()
        await asyncio.sleep(0)  # the transport closes its socket in the next turn of the loop
    return taken


def measure(port, ports, share, rounds):
    """Return the median seconds of each contender, in this namespace."""
    with faults.listener(HOST, port) as server, asyncio.Runner() as runner:
        fill(server, range(LOW, LOW + ports), share)

        def sample(name):
            with safedial.guard() if "guard" in name else contextlib.nullcontext():
                return statistics.median(time_dial(server, BLOCKING[name]) for _ in range(DIALS_PER_TURN))

        async def sample_async(name):
            with safedial.guard() if "guard" in name else contextlib.nullcontext():
                return statistics.median([await time_dial_async(server, ASYNC[name]) for _ in range(DIALS_PER_TURN)])

        taken = in_turn({name: name for name in BLOCKING}, rounds, sample)
        taken |= in_turn({name: name for name in ASYNC}, rounds, lambda name: runner.run(sample_async(name)))
        return {name: statistics.median(samples) for name, samples in taken.items()}


def show(title, shares, medians, *, markdown):
    """Print a table with a column for each of *shares*."""
    heads = [f"{share} %" if share < 100 else "all: it fails" for share in shares]
    first = [f"{seconds * 1e6:.0f} us" for seconds in (each[PLAIN] for each in medians)]
    rows = [] if markdown else [("the first row's median", first)]
    for contenders, base in ((BLOCKING, PLAIN), (ASYNC, ASYNCIO)):
        rows += [(name, [f"{each[name] / each[base]:.2f}" for each in medians]) for name in contenders]
    growth = [f"{each[PLAIN] / medians[0][PLAIN]:.2f}" for each in medians]
    rows.append((f"{PLAIN}, against itself at {heads[0]}", growth))
    if markdown:
        print(f"| {title} | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
        print(*(f"| {name} | {' | '.join(cells)} |" for name, cells in rows), "", sep="\n")
    else:
        print(title)
        for name, cells in [("", heads), *rows]:
            print(f"  {name.replace('`', ''):58}" + "".join(f"{cell:>14}" for cell in cells))
        print()


def main():
    from bench import ports  # the child process knows this module by its name

    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--ports", type=int, default=8000)
    parser.add_argument("--shares", type=int, nargs="+", default=[0, 25, 50, 75, 95, 100])
    parser.add_argument("--markdown", action="store_true", help="print the tables for the README")
    given = parser.parse_args()
    port_range = LOW, LOW + given.ports - 1
    for where, port in (("outside of the range", 5000), ("in the range", LOW + given.ports // 2)):
        medians = [
            namespace.call(ports.measure, port, given.ports, share, given.rounds, port_range=port_range)
            for share in given.shares
        ]
        title = f"{given.ports:,} local ports, the server's {where}; in use (Python {platform.python_version()})"
        show(title, given.shares, medians, markdown=given.markdown)


if __name__ == "__main__":
    main()
