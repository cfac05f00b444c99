"""What a safe dial costs beside the stdlib's: ratios of medians, all contenders in turn.

    python bench/dial.py [rounds]

The server listens on a port inside the ephemeral range, so that steering is at work. In each round
each contender dials once, in an order that rotates. Only the dial is timed: the server's backlog
holds the connection, which is accepted and dropped, without TIME_WAIT, before the next one, so that
no other process has to be woken meanwhile. Times differ from machine to machine, and a bare socket
shows what is left to save, so read the ratios. Where aiohappyeyeballs, anyio or uvloop are
installed, they take part.
"""

import asyncio
import contextlib
import importlib
import platform
import socket
import statistics
import struct
import sys
import time

import safedial
from safedial._tcp import steering

DROP = struct.pack("ii", 1, 0)


def listen():
    """Listen on an even port inside the ephemeral range, the kind that the kernel likes to draw."""
    found = steering.read_range() or steering.PortRange(0, 0)
    start = (found.low + (found.high - found.low) // 3) & ~1
    for port in range(start, start + 2000, 2):
        with contextlib.suppress(OSError):
            return socket.create_server(("127.0.0.1", port), backlog=4096)
    raise SystemExit("no free port")


def drop(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, DROP)
    sock.close()


def bare(port):
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.connect(("127.0.0.1", port))
    return sock


def blocking_contenders(port):
    dialer = safedial.Dialer()
    numeric, name = ("127.0.0.1", port), ("localhost", port)
    return {
        "numeric": {
            "socket.create_connection": lambda: socket.create_connection(numeric),
            "safe_connect": lambda: safedial.safe_connect(numeric),
            "safe_connect, steer=False": lambda: safedial.safe_connect(numeric, steer=False),
            "Dialer().dial": lambda: dialer.dial(numeric),
            "bare socket": lambda: bare(port),
        },
        "by name": {
            "socket.create_connection": lambda: socket.create_connection(name),
            "safe_connect": lambda: safedial.safe_connect(name),
        },
    }


def asyncio_contenders(port):
    async def aiohappyeyeballs():
        infos = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        sock = await importlib.import_module("aiohappyeyeballs").start_connection(infos)
        return await asyncio.open_connection(sock=sock)

    async def anyio():
        stream = await importlib.import_module("anyio").connect_tcp("127.0.0.1", port)
        return None, stream._transport

    contenders = {
        "asyncio.open_connection": lambda: asyncio.open_connection("127.0.0.1", port),
        "open_connection": lambda: safedial.open_connection("127.0.0.1", port),
    }
    for other in (aiohappyeyeballs, anyio):
        with contextlib.suppress(ImportError):
            importlib.import_module(other.__name__)
            contenders[other.__name__] = other
    return contenders


def turns(contenders, rounds):
    names = list(contenders)
    for turn in range(rounds):
        shift = turn % len(names)
        yield from names[shift:] + names[:shift]


def time_blocking(server, contenders, rounds):
    taken = {name: [] for name in contenders}
    clock = time.perf_counter
    for name in turns(contenders, rounds):
        dial = contenders[name]
        begin = clock()
        sock = dial()
        taken[name].append(clock() - begin)
        drop(server.accept()[0])
        drop(sock)
    return taken


async def time_asyncio(server, contenders, rounds):
    taken = {name: [] for name in contenders}
    clock = time.perf_counter
    for name in turns(contenders, rounds):
        dial = contenders[name]
        begin = clock()
        _, writer = await dial()
        taken[name].append(clock() - begin)
        drop(server.accept()[0])
        getattr(writer, "transport", writer).abort()
        await asyncio.sleep(0)
    return taken


def report(title, taken):
    medians = {name: statistics.median(times) for name, times in taken.items()}
    base = next(iter(medians.values()))
    print(f"\n{title}")
    for name, median in medians.items():
        print(f"  {name:28} {median * 1e6:8.1f} us   {median / base:5.2f} x")


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 6000
    with listen() as server:
        port = server.getsockname()[1]
        print(
            f"Python {platform.python_version()}, {platform.system()} {platform.release()}, port {port}, "
            f"{steering.read_range()}, {rounds} rounds"
        )
        for title, contenders in blocking_contenders(port).items():
            report(title, time_blocking(server, contenders, rounds))
        contenders = asyncio_contenders(port)
        report("asyncio, numeric", asyncio.run(time_asyncio(server, contenders, rounds)))
        with contextlib.suppress(ImportError):
            uvloop = importlib.import_module("uvloop")
            two = {name: contenders[name] for name in ("asyncio.open_connection", "open_connection")}
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                report("uvloop, numeric", runner.run(time_asyncio(server, two, rounds)))


if __name__ == "__main__":
    main()
