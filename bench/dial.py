"""What a safe dial costs, as a ratio of medians to the standard library's.

    python -m bench.dial [--rounds 6000] [--at-once 2000] [--markdown]

The ports lie inside the ephemeral range, so that steering is at work. In each round each contender
dials once. Only the dial is timed: the server's backlog holds the connection, so that no other
process has to be woken, and both ends are closed before the next dial. Times differ from machine to
machine, so read the ratios, and run it while nothing else runs: on a busy machine they move, too.
aiohappyeyeballs, anyio and uvloop take part if they are installed.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import importlib
import logging
import platform
import socket
import statistics
import struct
import time
from functools import partial

from bench import many
from bench.measure import Table, drop, in_turn

from safedial import Dialer, guard, install, open_connection, reconnect, safe_connect, testing, uninstall
from safedial._tcp import steering

HOST = "127.0.0.1"
IP_LOCAL_PORT_RANGE = 51  # linux/in.h; Python has no name for it

# A guard replaces methods of `socket.socket`, and CPython must then specialize anew the code that
# uses the class. So that this is not measured, each contender makes this many dials in its turn.
DIALS_PER_GUARD = 20


def bare(addr, side=None):
    """Dial with a bare socket, the least that Python can do; with *side* of the range, guard it, too."""
    host, port = addr
    if host == "localhost":
        host = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
    sock = socket.socket(socket.AF_INET if ":" not in host else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        sock.settimeout(5)
        if side is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, side)
        sock.connect((host, port))
        assert side is None or sock.getsockname()[1] != port
    except OSError:
        sock.close()
        raise
    return sock


def larger_side(port):
    """Return IP_LOCAL_PORT_RANGE for the larger part of the ephemeral range beside *port*."""
    ports = steering.read_range()
    low, high = (ports.low, port - 1) if port - ports.low > ports.high - port else (port + 1, ports.high)
    return struct.unpack("=i", struct.pack("=I", high << 16 | low))[0]


PLAIN = "`socket.create_connection(addr, timeout=5)`"


def plain(addr):
    dialer, side = Dialer(timeout=5), larger_side(addr[1])
    return {
        PLAIN: lambda: socket.create_connection(addr, timeout=5),
        "`safe_connect(addr, timeout=5)`": lambda: safe_connect(addr, timeout=5),
        "`Dialer(timeout=5).dial(addr)`": lambda: dialer.dial(addr),
        "bare socket": lambda: bare(addr),
        "the floor: a bare socket, with the same system calls": lambda: bare(addr, side),
    }


def with_options(addr):
    policy, nodelay = reconnect(), [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    dialer = Dialer(timeout=5, total_timeout=20, policy=policy)
    return {
        PLAIN: lambda: socket.create_connection(addr, timeout=5),
        "`safe_connect(addr, timeout=5.0)`": lambda: safe_connect(addr, timeout=5.0),
        "`safe_connect(addr, 5)`": lambda: safe_connect(addr, 5),
        "`safe_connect`, with a shared `policy=reconnect()`": lambda: safe_connect(addr, timeout=5, policy=policy),
        "`safe_connect`, with `total_timeout=20`": lambda: safe_connect(addr, timeout=5, total_timeout=20),
        "`Dialer.dial`, with both": lambda: dialer.dial(addr),
        "`safe_connect`, with `socket_options`": lambda: safe_connect(addr, timeout=5, socket_options=nodelay),
        "`safe_connect`, with `steer=False`": lambda: safe_connect(addr, timeout=5, steer=False),
    }


def installed(sample):
    install()
    try:
        return sample()
    finally:
        uninstall()


def beside_a_guard(sample):
    logging.getLogger("safedial").setLevel(logging.ERROR)  # the first dial warns that it is not guarded
    with guard(), concurrent.futures.ThreadPoolExecutor(1) as other_thread:
        return other_thread.submit(sample).result()


GUARDS = {
    "no guard": lambda sample: sample(),
    "under `install()`": installed,
    "under `guard()`": lambda sample: guard()(sample)(),
    "not guarded, while another thread is inside a guard": beside_a_guard,
}


def streams(port):
    async def bounded():
        async with asyncio.timeout(5):
            return await asyncio.open_connection(HOST, port)

    return {
        "`asyncio.open_connection(host, port)`": lambda: asyncio.open_connection(HOST, port),
        "`open_connection(host, port)`": lambda: open_connection(HOST, port),
        "`asyncio.open_connection`, inside `asyncio.timeout(5)`": bounded,
        "`open_connection`, with `timeout=5`": lambda: open_connection(HOST, port, timeout=5),
    }


def other_libraries(port):
    async def dialed_before():
        return await asyncio.open_connection(sock=bare((HOST, port), larger_side(port)))

    found = {"the floor: a bare socket, with the same system calls, with asyncio's streams": dialed_before}
    with contextlib.suppress(ImportError):
        start_connection = importlib.import_module("aiohappyeyeballs").start_connection
        infos = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (HOST, port))]

        async def happy():
            return await asyncio.open_connection(sock=await start_connection(infos))

        found["`aiohappyeyeballs.start_connection`, with asyncio's streams"] = happy
    with contextlib.suppress(ImportError):
        connect_tcp = importlib.import_module("anyio").connect_tcp
        found["`anyio.connect_tcp(host, port)`"] = lambda: connect_tcp(HOST, port)
    return found


def time_dial(server, dial):
    """Return the seconds that *dial* takes to reach *server*, or to be refused if *server* is None."""
    sock = None
    begin = time.perf_counter()
    try:  # noqa: SIM105  # suppress() would cost more
        sock = dial()
    except ConnectionRefusedError:
        pass
    taken = time.perf_counter() - begin
    assert (sock is None) == (server is None)
    if server:
        drop(server.accept()[0])
        drop(sock)
    return taken


async def time_dial_async(server, dial):
    """Do the same with a coroutine function."""
    stream = None
    begin = time.perf_counter()
    try:  # noqa: SIM105  # as above
        stream = await dial()
    except ConnectionRefusedError:
        pass
    taken = time.perf_counter() - begin
    assert (stream is None) == (server is None)
    if server:
        drop(server.accept()[0])
        if isinstance(stream, tuple):
            stream[1].transport.abort()
            await asyncio.sleep(0)  # the transport closes its socket in the next turn of the loop
        else:
            await stream.aclose()
    return taken


def run_loop(contenders, rounds, server, loop_factory=None):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return in_turn(contenders, rounds, lambda dial: runner.run(time_dial_async(server, dial)))


def run_guards(addr, rounds, server):
    def sample(guarded):
        return guarded(lambda: statistics.median(time_dial(server, dial) for _ in range(DIALS_PER_GUARD)))

    dial = partial(socket.create_connection, addr, timeout=5)
    return in_turn(GUARDS, -(-rounds // DIALS_PER_GUARD), sample)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=6000)
    parser.add_argument("--at-once", type=int, default=2000)
    parser.add_argument("--markdown", action="store_true", help="print the table for the README")
    given = parser.parse_args()
    rounds = given.rounds
    heading = f"`make bench`: ratio of medians, {rounds:,} dials each, in turn"
    table = Table(heading, f"Python {platform.python_version()}", markdown=given.markdown)
    with (
        socket.create_server((HOST, testing.dead_port()), backlog=4096) as server,
        testing.refused_port() as dead_port,
    ):
        port = server.getsockname()[1]
        addr, name, dead_addr = (HOST, port), ("localhost", port), (HOST, dead_port)
        localhost = " and ".join(dict.fromkeys(info[4][0] for info in socket.getaddrinfo(*name)))
        reached, refused = partial(time_dial, server), partial(time_dial, None)
        table.add("Blocking, numeric address", in_turn(plain(addr), rounds, reached))
        table.add("The same with options", in_turn(with_options(addr), rounds, reached))
        table.add(f"By name: localhost, which is {localhost}", in_turn(plain(name), rounds, reached))
        table.add("Refused", in_turn(plain(dead_addr), rounds, refused))
        table.add("`socket.create_connection(addr, timeout=5)`", run_guards(addr, rounds, server))
        table.add("`socket.create_connection(addr, timeout=5)`, refused", run_guards(dead_addr, rounds, None))
        table.add("asyncio", run_loop(streams(port) | other_libraries(port), rounds, server))
        table.add("asyncio, refused", run_loop(streams(dead_port), rounds, None))
        with contextlib.suppress(ImportError):
            uvloop = importlib.import_module("uvloop")
            contenders = dict(list((streams(port) | other_libraries(port)).items())[:5])
            table.add("uvloop", run_loop(contenders, rounds, server, uvloop.new_event_loop))
        many.add_rows(table, server, given.at_once, -(-rounds // 500))


if __name__ == "__main__":
    main()
