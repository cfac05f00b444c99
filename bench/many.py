"""What many dials at once cost: the wall time, and the peak of the memory that Python allocates.

The server's backlog holds all connections, so no time goes into accepting them. For that,
net.core.somaxconn must be 4,096 or more, which is Linux's default. Connections are reset, because
thousands in TIME_WAIT would slow down the next contender's search for a local port.
"""

import asyncio
import concurrent.futures
import contextlib
import resource
import socket
import threading
import time
import tracemalloc

from bench.measure import RESET, drop, in_turn

import safedial

DIALS_PER_THREAD = 20


def in_tasks(open_connection, addr, tasks):
    """Return the seconds until *tasks* have dialed, all at once, and all streams are closed."""

    async def dial_and_close():
        begin = time.perf_counter()
        streams = await asyncio.gather(*(open_connection(*addr) for _ in range(tasks)))
        for _, writer in streams:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in streams))
        return time.perf_counter() - begin

    return asyncio.run(dial_and_close())


def in_threads(connect, addr, threads):
    """Return the seconds until *threads*, which start together, have made all their dials."""
    start = threading.Barrier(threads + 1)

    def dial_and_close():
        start.wait()
        for _ in range(DIALS_PER_THREAD):
            drop(connect(addr, timeout=5))

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(dial_and_close) for _ in range(threads)]
        start.wait()
        begin = time.perf_counter()
        for future in futures:
            future.result()
        return time.perf_counter() - begin


def peak_memory(function, *args):
    """Return the most bytes that were allocated at one time. Tracing is slow, so it is not timed."""
    tracemalloc.start()
    function(*args)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def drained(server, figure):
    """Drop the connections in the backlog of *server* and return *figure*."""
    server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            drop(server.accept()[0])
    return figure


def add_rows(table, server, tasks, rounds):
    """Add the rows for *tasks*, and for a tenth as many threads, to *table*."""
    addr, threads = server.getsockname(), tasks // 10
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, tasks + 100), hard))
    streams = {"`asyncio.open_connection`": asyncio.open_connection, "`open_connection`": safedial.open_connection}
    sockets = {"`socket.create_connection`": socket.create_connection, "`safe_connect`": safedial.safe_connect}
    for title, contenders, run, count in (
        (f"{tasks:,} dials at once in asyncio", streams, in_tasks, tasks),
        (f"{threads} threads, {DIALS_PER_THREAD} dials each", sockets, in_threads, threads),
    ):
        times = in_turn(contenders, rounds, lambda dial: drained(server, run(dial, addr, count)))  # noqa: B023
        table.add(f"{title}: wall time", times, "ms")
        peaks = in_turn(contenders, 3, lambda dial: drained(server, peak_memory(run, dial, addr, count)))  # noqa: B023
        table.add(f"{title}: peak memory", peaks, "MB")
