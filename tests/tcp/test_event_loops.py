"""Nothing reads a file in an event loop: tried with blockbuster, which forbids it."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time

import pytest

import safedial
from safedial._tcp import steering
from tests.support import faults, namespace

blockbuster = pytest.importorskip("blockbuster")


@contextlib.contextmanager
def nothing_may_block():
    try:
        with blockbuster.blockbuster_ctx():
            yield
    finally:
        for name in ("connect", "connect_ex"):
            if name in vars(socket.socket):  # blockbuster puts back in the class what the class inherits
                delattr(socket.socket, name)


def run(main):
    """Run a coroutine function twice: with the range just read, and after it is out of date."""
    with nothing_may_block():
        asyncio.run(main())
        steering._believed = (0.0, steering._believed[1])
        asyncio.run(main())


def close(writer):
    writer.transport.abort()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_open_connection(server, host):
    async def main():
        close((await safedial.open_connection(host, server.getsockname()[1], family=socket.AF_INET))[1])

    run(main)


def test_refused(dead_port):
    async def main():
        with contextlib.suppress(ConnectionRefusedError):
            await safedial.open_connection("127.0.0.1", dead_port)

    run(main)


def test_dial_async(server):
    async def main():
        (await safedial.Dialer().dial_async(server.getsockname())).close()

    run(main)


def test_policy(server, dead_port):
    async def main():
        with contextlib.suppress(ConnectionRefusedError):
            await safedial.open_connection("127.0.0.1", dead_port, policy=safedial.reconnect(within=0.01, first=0.001))

    run(main)


def test_exhausted(server):
    port = server.getsockname()[1]

    async def main():
        with pytest.raises(safedial.PortsExhaustedError):
            await safedial.open_connection("127.0.0.1", port, policy=None, socket_options=[faults.option(port, port)])

    run(main)


def test_exhausted_under_the_guard(server):
    address = server.getsockname()

    async def main():
        with socket.socket() as sock, safedial.guard():
            sock.setblocking(False)
            sock.setsockopt(*faults.option(address[1], address[1]))
            with pytest.raises(safedial.PortsExhaustedError):
                await asyncio.get_running_loop().sock_connect(sock, address)

    run(main)


def test_guard(server):
    async def main():
        with safedial.guard():
            close((await asyncio.open_connection(*server.getsockname()))[1])

    run(main)


def test_connections(server):
    async def main():
        async for connection in safedial.connections(server.getsockname()):
            async with connection as (_, writer):
                close(writer)
                break

    run(main)


def test_wrap(server):
    connect = safedial.wrap(asyncio.open_connection)

    async def main():
        close((await connect(*server.getsockname()))[1])

    run(main)


def test_first_dial_of_a_process(server):
    code = f"""
import asyncio, blockbuster, safedial
async def main():
    (await safedial.Dialer().dial_async({server.getsockname()})).close()
with blockbuster.blockbuster_ctx():
    asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_self_connect_under_the_default_policy(dead_port, force):
    force(dead_port, 1)

    async def main():
        with contextlib.suppress(ConnectionRefusedError):
            await safedial.open_connection("127.0.0.1", dead_port)

    run(main)


def waited_for(true):
    """Wait until *true* returns a true value; return whether it does, within a generous time."""
    end = time.monotonic() + 30
    while not true() and time.monotonic() < end:
        time.sleep(0.001)
    return bool(true())


def test_range_that_is_out_of_date_is_read_by_a_thread(dead_port):
    old = steering.PortRange(1024, 1025)
    steering._believed = (0.0, old)

    async def main():
        steering.side_options(dead_port)  # as the old range says, unless the thread is done already

    threads = threading.active_count()
    asyncio.run(main())
    assert waited_for(lambda: steering._believed[1] == steering.read_range())
    assert threading.active_count() == threads


def test_range_is_read_once_by_many_dials(monkeypatch, dead_port):
    started = []
    monkeypatch.setattr(steering._thread, "start_new_thread", lambda *args: started.append(args))
    steering._believed = (0.0, steering.read_range())

    async def main():
        for _ in range(10):
            steering.side_options(dead_port)

    asyncio.run(main())
    assert len(started) == 1


def test_no_thread_can_be_started(monkeypatch, dead_port):
    def fail(*args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(steering._thread, "start_new_thread", fail)
    steering._believed = (0.0, steering.read_range())

    async def main():
        return steering.side_options(dead_port)

    assert asyncio.run(main()) == steering._side_options(dead_port, steering.read_range())


@pytest.mark.parametrize("name", ["open_connection", "guard"])
def test_asynchronous_program_notices_a_changed_range(name):
    """A dial soon after the change may meet itself, and is released. Once a thread has read the range, none does."""
    namespace.require()
    faults.require_option()
    assert namespace.call(dials_after_a_change, name, port_range=(50000, 50009)) == 0


def dials_after_a_change(name):
    async def dial(port):
        if name == "open_connection":
            await safedial.open_connection("127.0.0.1", port, policy=None)
        else:
            with safedial.guard():
                await asyncio.open_connection("127.0.0.1", port)

    async def self_connects(port, times):
        found = 0
        for _ in range(times):
            try:
                await dial(port)
            except safedial.SelfConnectError:
                found += 1
            except ConnectionRefusedError:
                pass
            await asyncio.sleep(0.001)
        return found

    async def main():
        await self_connects(50001, 1)
        namespace.set_port_range(1024, 1025)
        steering._believed = (0.0, steering._believed[1])  # a second later
        for _ in range(1000):
            await self_connects(1024, 1)
            if steering._believed[1] == (1024, 1025):
                return await self_connects(1024, 100)
        raise AssertionError("nobody read the range again")

    return asyncio.run(main())
