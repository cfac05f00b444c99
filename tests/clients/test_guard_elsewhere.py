"""The warning about a dial that is not guarded while a guard is entered in another thread or task."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import socket
import threading

import pytest

import safedial
from safedial import testing
from safedial._clients import elsewhere, guard
from safedial._tcp import steering
from tests.support import faults, namespace

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def _nobody_was_told(monkeypatch):
    monkeypatch.setattr(elsewhere, "_told", {None})
    yield
    assert not elsewhere._entered


def dial(port, host=HOST):
    with socket.create_connection((host, port)):
        pass


@pytest.fixture
def server():
    """A server on a port that the kernel may draw."""
    with faults.listener(port=testing.dead_port()) as sock:
        yield sock.getsockname()[1]


@contextlib.contextmanager
def entered_elsewhere(**options):
    """Enter a guard in a context of its own."""
    context, stack = contextvars.Context(), contextlib.ExitStack()
    context.run(stack.enter_context, safedial.guard(**options))
    try:
        yield
    finally:
        context.run(stack.close)


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if "not guarded" in record.getMessage()]


class TestTasksAndThreads:
    def test_guard_around_the_lifespan_of_an_application(self, server, caplog):
        async def lifespan(started, over):
            with safedial.guard():
                started.set()
                await over.wait()

        async def handler():
            _, writer = await asyncio.open_connection(HOST, server)
            writer.close()
            await writer.wait_closed()

        async def main():
            started, over = asyncio.Event(), asyncio.Event()
            living = asyncio.create_task(lifespan(started, over))
            await started.wait()
            for _ in range(3):
                await asyncio.create_task(handler())
            over.set()
            await living

        asyncio.run(main())
        (said,) = warnings_in(caplog)
        assert f"{HOST} port {server}" in said
        assert f"{__file__}:" in said
        assert "install()" in said

    def test_generator_dependency_in_a_thread_pool(self, server, caplog):
        """FastAPI runs each step of a sync dependency in a thread, with a copy of the context."""

        def dependency():
            with safedial.guard():
                yield

        async def main():
            generator = dependency()
            await asyncio.to_thread(next, generator)
            await asyncio.to_thread(dial, server)
            await asyncio.to_thread(generator.close)

        asyncio.run(main())
        assert len(warnings_in(caplog)) == 1

    def test_thread_that_a_client_starts_for_itself(self, server, caplog):
        with safedial.guard():
            # A context of its own, also where threads inherit it.
            thread = threading.Thread(target=contextvars.Context().run, args=[dial, server])
            thread.start()
            thread.join()
        assert len(warnings_in(caplog)) == 1

    def test_refused_dial(self, dead_port, caplog):
        with entered_elsewhere(), pytest.raises(ConnectionRefusedError):
            dial(dead_port)
        assert len(warnings_in(caplog)) == 1

    def test_connect_ex_and_non_blocking(self, server, caplog):
        with entered_elsewhere(), socket.socket() as sock:
            sock.setblocking(False)
            sock.connect_ex((HOST, server))
        assert len(warnings_in(caplog)) == 1

    def test_many_guards_of_one_line(self, server, caplog):
        for _ in range(3):
            with entered_elsewhere():
                dial(server)
        assert len(warnings_in(caplog)) == 1

    def test_names_each_line_once(self, server, caplog):
        with contextlib.ExitStack() as stack:
            for one in (safedial.guard(), safedial.guard()):
                contextvars.Context().run(stack.enter_context, one)
            dial(server)
            dial(server)
        (said,) = warnings_in(caplog)
        assert said.count(__file__) == 1  # both were made in one line


class TestNothingIsSaid:
    @pytest.fixture(autouse=True)
    def _silence(self, caplog):
        yield
        assert not warnings_in(caplog)

    def test_of_a_guarded_dial(self, server):
        with entered_elsewhere(), safedial.guard():
            dial(server)

    def test_of_a_dial_of_ours(self, server):
        async def main():
            _, writer = await safedial.open_connection(HOST, server)
            writer.close()
            await writer.wait_closed()

        with entered_elsewhere():
            safedial.safe_connect((HOST, server)).close()
            safedial.safe_connect((HOST, server), steer=False).close()
            safedial.wrap(dial)(server)
            asyncio.run(main())

    def test_under_install(self, server):
        safedial.install()
        try:
            with entered_elsewhere():
                dial(server)
        finally:
            safedial.uninstall()

    def test_of_our_own_entries(self, server):
        with contextlib.ExitStack() as stack:
            contextvars.Context().run(stack.enter_context, guard.inside())
            dial(server)

    def test_of_a_port_that_is_never_drawn(self):
        port = faults.port_never_drawn()
        with entered_elsewhere(), faults.listener(port=port):
            dial(port)

    def test_of_another_host(self):
        with entered_elsewhere(), socket.socket() as sock:
            sock.setblocking(False)
            sock.connect_ex(("192.0.2.1", 40000))

    def test_after_the_guard(self, server):
        with entered_elsewhere():
            pass
        dial(server)

    def test_of_a_fake(self):
        class Fake:
            type, family = socket.SOCK_STREAM, socket.AF_INET
            getsockname = getpeername = getsockopt = setsockopt = close = lambda *args: None

        with entered_elsewhere():
            elsewhere.connect(Fake(), ("db", 40000), lambda *args: None)


def warned_ports(readable):
    """Return the ports that a warning is about, of three that are dialed. The kernel draws 40000 and 40001."""
    if not readable:
        steering._RANGE_FILE = "/nonexistent"
    warned = []
    elsewhere.warn = lambda template, *values: warned.append(values[0])

    async def dial_in_loop(port):
        dial_once(port)

    def dial_once(port):
        with entered_elsewhere(), socket.socket() as sock:
            sock.setblocking(False)
            sock.connect_ex((HOST, port))
        elsewhere._told = {None}

    steering.read_anew()
    for port in (40001, 53000, 20000):
        dial_once(port)
        asyncio.run(dial_in_loop(port))
    return warned


@pytest.mark.parametrize(("readable", "drawn"), [(True, [40001]), (False, [40001, 53000])])
def test_only_ports_of_the_range_are_warned_of_if_it_is_known(readable, drawn):
    namespace.require()
    found = namespace.call(warned_ports, readable, port_range=(40000, 40001))
    assert found == [f"{HOST} port {port}" for port in drawn for _ in range(2)]


def test_unguarded_dials_stay_what_they_are(dead_port, caplog):
    with entered_elsewhere(), socket.socket() as sock, pytest.raises(OSError, match="Address family") as caught:
        sock.connect(("::1", dead_port))
    assert caught.value.args[0]


def test_in_threads_at_once(server, caplog):
    with entered_elsewhere(), concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(dial, [server] * 40))
    assert len(warnings_in(caplog)) == 1


class TestConnectionThatOutlivesTheBlock:
    """If its client connects again, as redis-py does, nobody guards that."""

    def test_is_warned_of_once(self, server, caplog):
        for _ in range(2):
            with safedial.guard():
                sock = socket.create_connection((HOST, server))
            sock.close()
        (said,) = warnings_in(caplog)
        assert f"{HOST} port {server} outlives the guard() at {__file__}:" in said
        assert "safedial.install()" in said

    def test_of_a_client(self, caplog):
        redis = pytest.importorskip("redis")
        with testing.Outage(answer_pings) as server:
            with safedial.guard():
                client = redis.Redis(*server.address, protocol=2)
                client.ping()
            client.close()
        assert len(warnings_in(caplog)) == 1

    def test_in_asyncio(self, server, caplog):
        async def main():
            async with safedial.guard():
                _, writer = await asyncio.open_connection(HOST, server)
            writer.close()

        asyncio.run(main())
        assert len(warnings_in(caplog)) == 1

    def test_of_several_entries_of_one_guard(self, server, caplog):
        one = safedial.guard()
        with one:
            dial(server)
            with one:
                sock = socket.create_connection((HOST, server))
        sock.close()
        assert len(warnings_in(caplog)) == 1

    def test_not_if_it_is_closed(self, server, caplog):
        with safedial.guard():
            dial(server)
        assert warnings_in(caplog) == []

    def test_not_if_a_decorated_function_returns_it(self, server, caplog):
        safedial.guard(socket.create_connection)((HOST, server)).close()
        assert warnings_in(caplog) == []

    def test_not_if_the_block_fails(self, server, caplog):
        with pytest.raises(LookupError), safedial.guard():  # noqa: PT012  # the connection is made before
            sock = socket.create_connection((HOST, server))
            raise LookupError
        sock.close()
        assert warnings_in(caplog) == []

    def test_not_under_install(self, server, caplog):
        safedial.install()
        try:
            with safedial.guard():
                sock = socket.create_connection((HOST, server))
            sock.close()
        finally:
            safedial.uninstall()
        assert warnings_in(caplog) == []

    def test_not_if_the_kernel_never_draws_the_port(self, caplog):
        with faults.listener(port=faults.port_never_drawn()) as listening:
            with safedial.guard():
                sock = socket.create_connection(listening.getsockname())
            sock.close()
        assert warnings_in(caplog) == []

    def test_not_in_our_own_guards(self, server, caplog):
        safedial.wrap(socket.create_connection)((HOST, server)).close()
        assert warnings_in(caplog) == []


def answer_pings(connection):
    while connection.recv(1000):
        connection.sendall(b"+PONG\r\n")
