"""What a factory returned is guarded when it dials: in ``with``, in ``async for``, by ``await``."""

import asyncio
import contextlib
import functools
import inspect
import socket

import pytest
import websockets

import safedial
from safedial import testing
from tests.clients.test_wrap import MADE_SAFE, past_the_hooks, retrying
from tests.support import faults

HOST = "127.0.0.1"


@contextlib.contextmanager
def connected(host, port):
    sock = socket.create_connection((host, port))
    try:
        yield sock
    finally:
        sock.close()


@contextlib.asynccontextmanager
async def connected_async(host, port):
    _, writer = await asyncio.open_connection(host, port)
    try:
        yield writer
    finally:
        writer.close()
        await writer.wait_closed()


class OnlyEntered:
    """Dials in ``__enter__``, and has no other method."""

    def __init__(self, host, port):
        self.address = host, port

    def __enter__(self):
        self.sock = socket.create_connection(self.address)
        return self.sock

    def __exit__(self, *raised):
        self.sock.close()


class TestContextManagers:
    @pytest.mark.parametrize("manager", [connected, OnlyEntered])
    @pytest.mark.parametrize("safe", MADE_SAFE)
    def test_is_guarded_when_it_is_entered(self, safe, manager, force, dead_port):
        fault = force(dead_port)
        with pytest.raises(ConnectionRefusedError), MADE_SAFE[safe](manager)(HOST, dead_port):
            pass
        assert fault.triggered == (3 if safe == "wrap" else 1), "the default policy dials again"
        faults.assert_server_can_bind(HOST, dead_port)

    @pytest.mark.parametrize("safe", MADE_SAFE)
    def test_is_guarded_when_it_is_entered_in_asyncio(self, safe, force, dead_port):
        fault = force(dead_port)

        async def main():
            async with MADE_SAFE[safe](connected_async)(HOST, dead_port):
                pass

        with pytest.raises(ConnectionRefusedError):
            asyncio.run(main())
        assert fault.triggered
        faults.assert_server_can_bind(HOST, dead_port)

    @pytest.mark.parametrize("manager", [connected, OnlyEntered])
    @pytest.mark.parametrize("safe", MADE_SAFE)
    def test_is_entered_and_left(self, safe, manager):
        with testing.Outage() as server:
            with MADE_SAFE[safe](manager)(*server.address) as sock:
                assert sock.getpeername() == server.address
                assert safedial.is_guarded() is None, "the guard ends with __enter__"
            assert sock.fileno() == -1

    @pytest.mark.parametrize("manager", [connected, OnlyEntered])
    def test_error_of_the_block_goes_to_it(self, manager):
        with testing.Outage() as server:
            with pytest.raises(LookupError), safedial.wrap(manager)(*server.address) as sock:
                raise LookupError
            assert sock.fileno() == -1

    @pytest.mark.parametrize("manager", [connected, OnlyEntered])
    def test_is_dialed_again_by_the_policy(self, manager, events):
        with testing.Outage() as server:
            server.refuse_for(dials=2)
            with safedial.wrap(manager, policy=retrying(5), on_event=events.append)(*server.address):
                pass
        assert [event.kind for event in events] == ["failed", "retry", "failed", "retry", "connected"]

    def test_policy_dials_again_in_asyncio(self):
        async def main(server):
            server.refuse_for(dials=2)
            async with safedial.wrap(connected_async, policy=retrying(5))(*server.address) as writer:
                assert not writer.is_closing()

        with testing.Outage() as server:
            asyncio.run(main(server))

    def test_is_entered_in_a_reconnect_loop(self):
        with testing.Outage() as server:
            for connection in safedial.connections(functools.partial(connected, *server.address)):
                with connection as sock:
                    assert sock.getpeername() == server.address
                    break
            assert sock.fileno() == -1

    def test_self_connect_past_the_guard_is_closed(self, dead_port):
        @contextlib.contextmanager
        def dials_in_c():
            yield past_the_hooks(HOST, dead_port, lambda sock: sock)

        with pytest.raises(safedial.SelfConnectError), safedial.wrap(dials_in_c, policy=None)():
            pass
        faults.assert_server_can_bind(HOST, dead_port)

    @pytest.mark.parametrize("kind", [contextlib.nullcontext, contextlib.ExitStack])
    def test_manager_with_other_uses_stays_what_it_is(self, kind):
        manager = kind()
        assert safedial.wrap(lambda: manager)() is manager

    def test_passes_for_the_manager(self):
        manager = safedial.wrap(connected)(HOST, 1)
        assert isinstance(manager, contextlib.AbstractContextManager)
        assert isinstance(safedial.wrap(OnlyEntered)(HOST, 1), OnlyEntered)


async def echo(connection):
    async for message in connection:
        await connection.send(message)


class TestAsyncFor:
    """A client's own reconnect loop."""

    def test_websockets(self, events):
        async def main():
            safe = safedial.wrap(websockets.connect, on_event=events.append)
            async with websockets.serve(echo, HOST, 0) as server:
                uri = "ws://{}:{}".format(*server.sockets[0].getsockname()[:2])
                seen = []
                async for connection in safe(uri, proxy=None):
                    seen.append(connection)
                    await connection.send("hello")
                    assert await connection.recv() == "hello"
                    if len(seen) == 2:
                        break
                    await connection.close()
                assert isinstance(safe(uri), websockets.connect)
                async with safe(uri, proxy=None) as connection:
                    await connection.send("hello")
                connection = await safe(uri, proxy=None)
                await connection.close()

        asyncio.run(main())
        assert [event.kind for event in events] == ["connected"] * 2, "of async with and await"

    def test_each_step_is_guarded_and_the_clients_own_policy_rules(self, force, dead_port):
        class Client:
            def __init__(self, port):
                self.port = port

            async def __aiter__(self):
                for _ in range(4):
                    guarded.append(safedial.is_guarded())
                    with contextlib.suppress(ConnectionRefusedError):
                        await asyncio.open_connection(HOST, self.port)
                    yield len(guarded)

            async def __aenter__(self):
                raise AssertionError("nobody enters it")

            async def __aexit__(self, *raised):
                pass

        async def main():
            clients = safedial.wrap(Client, policy=retrying(9))(dead_port)
            guarded.extend([safedial.is_guarded() async for _ in clients])

        guarded = []
        fault = force(dead_port)
        asyncio.run(main())
        assert guarded == ["guard"] * 4 + [None] * 4
        assert fault.triggered == 4
        faults.assert_server_can_bind(HOST, dead_port)

    def test_address_is_held_in_each_step(self, dead_port):
        async def main():
            steps = safedial.wrap(Iterated, address=(HOST, dead_port))(functools.partial(can_bind, dead_port))
            return [(in_step, can_bind(dead_port)) async for in_step in steps]

        assert asyncio.run(main()) == [(False, True)] * 2

    def test_break_closes_the_iterator(self):
        class Kept(Iterated):
            def __aiter__(self):
                kept.append(super().__aiter__())
                return kept[0]

        async def main():
            async for _ in safedial.wrap(Kept)(lambda: None, closed.append):
                break
            await asyncio.sleep(0)  # the loop closes a generator that nobody has any more
            await asyncio.sleep(0)
            assert closed == ["closed"]

        kept, closed = [], []
        asyncio.run(main())

    def test_error_of_the_client_ends_it(self):
        async def main():
            async for _ in safedial.wrap(Iterated, policy=retrying(9))(calls.pop):
                pass

        calls = [1]
        with pytest.raises(IndexError):
            asyncio.run(main())

    def test_self_connect_past_the_guard_ends_it(self, dead_port):
        async def main():
            dial = functools.partial(past_the_hooks, HOST, dead_port, lambda sock: sock)
            async for _ in safedial.wrap(Iterated)(dial):
                pass

        with pytest.raises(safedial.SelfConnectError):
            asyncio.run(main())
        faults.assert_server_can_bind(HOST, dead_port)


def can_bind(port):
    with socket.socket() as sock:
        try:
            sock.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True


class Iterated:
    """Yields twice what *make* returns; can be entered, too, as websockets' class."""

    def __init__(self, make, closed=lambda word: None):
        self.make, self.closed = make, closed

    async def __aiter__(self):
        try:
            for _ in range(2):
                yield self.make()
        finally:
            self.closed("closed")

    async def __aenter__(self):
        return self.make()

    async def __aexit__(self, *raised):
        pass


class TestCoroutineFunctions:
    def test_stay_what_they_are(self):
        async def connect(host, port):
            """Connect."""

        wrapped = safedial.wrap(connect)
        assert inspect.iscoroutinefunction(wrapped)
        assert wrapped.__wrapped__ is connect
        assert inspect.signature(wrapped) == inspect.signature(connect)

    def test_missing_await_is_warned_of_by_the_name_of_the_factory(self):
        async def connect():
            pass

        with pytest.warns(RuntimeWarning, match=r"'.*connect' was never awaited"):
            safedial.wrap(connect)()
