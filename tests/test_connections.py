"""`connections`, the reconnect loop: in blocking code, asyncio and trio, over addresses and factories."""

import asyncio
import contextlib
import errno
import functools
import gc
import logging
import socket
import threading
import time

import pytest
import redis
import tenacity
import trio

import safedial
from safedial import _connections, testing
from tests.support import dials
from tests.support.late import DialsWhenEntered
from tests.support.policies import retrying

HOST = "127.0.0.1"
MAX_LOOPS = 1000


def hang_up(sock):
    """A server that flaps: it accepts, and closes at once."""


def patient(waits=None, **options):
    """The default policy, whose waits are noted instead of slept."""
    return safedial.reconnect(**options).copy(sleep=(waits if waits is not None else []).append)


def enter_first(connections):
    with next(iter(connections)):
        pass


def ask(sock):
    sock.sendall(b"still there?")
    if not (answer := sock.recv(100)):
        raise ConnectionResetError(errno.ECONNRESET, "the server is gone")
    return answer


# --- One script in each world: a world dials *address* in a loop, and calls *visit* in each block -------------------


def in_blocking_code(address, visit, **options):
    for number, connection in enumerate(safedial.connections(address, **options)):
        with connection as sock:
            visit(number, sock.getsockname())
            while data := sock.recv(100):
                visit(number, data)


def in_blocking_code_by_factory(address, visit, **options):
    for number, connection in enumerate(safedial.connections(lambda: socket.create_connection(address), **options)):
        with connection as sock:
            visit(number, sock.getsockname())
            while data := sock.recv(100):
                visit(number, data)


async def _streams(target, visit, options):
    number = 0
    async for connection in safedial.connections(target, **options):
        async with connection as (reader, writer):
            visit(number, writer.get_extra_info("sockname"))
            while data := await reader.read(100):
                visit(number, data)
        number += 1


def in_asyncio(address, visit, **options):
    dials.run(_streams(address, visit, options))


def in_asyncio_by_factory(address, visit, **options):
    dials.run(_streams(lambda: asyncio.open_connection(*address), visit, options))


def _in_trio(target, visit, options):
    async def main():
        number = 0
        async for connection in safedial.connections(target, **options):
            async with connection as stream:
                visit(number, stream.socket.getsockname())
                while data := await stream.receive_some(100):
                    visit(number, data)
            number += 1

    trio.run(main)


def in_trio(address, visit, **options):
    _in_trio(address, visit, options)


def in_trio_by_factory(address, visit, **options):
    _in_trio(functools.partial(trio.open_tcp_stream, *address), visit, options)


WORLDS = [in_blocking_code, in_blocking_code_by_factory, in_asyncio, in_asyncio_by_factory, in_trio, in_trio_by_factory]


@pytest.fixture(params=WORLDS, ids=lambda world: world.__name__)
def loop(request):
    return request.param


class DoneError(Exception):
    """Raised by a visit that has seen enough."""


def until(connections):
    """Return a visit that ends the loop in connection number *connections*, and the list of what it saw."""
    seen = []

    def visit(number, data):
        assert number < MAX_LOOPS
        seen.append((number, data))
        if number == connections:
            raise DoneError

    return visit, seen


class TestLoop:
    def test_next_connection_follows_when_the_server_hangs_up(self, loop):
        visit, seen = until(3)
        with testing.Outage(hang_up) as server, pytest.raises(DoneError):
            loop((HOST, server.port), visit, policy=patient())
        assert [number for number, _ in seen] == [0, 1, 2, 3]

    def test_next_connection_follows_when_the_server_restarts(self, loop):
        restarted = []

        def serve(sock):
            sock.sendall(b"hello")
            sock.recv(1)

        with testing.Outage(serve) as server:

            def visit(number, data):
                if data == b"hello" and number == 0:
                    server.kill()
                    restarted.append(threading.Timer(0.1, server.start))
                    restarted[0].start()
                elif data == b"hello":
                    raise DoneError

            policy = safedial.reconnect(None, 0.01, 0.02)
            with pytest.raises(DoneError):
                loop((HOST, server.port), visit, policy=policy)
            restarted[0].join()

    def test_end_of_a_connection_counts_as_a_failed_round(self, loop):
        waits = []
        visit, _ = until(12)
        with testing.Outage(hang_up) as server, pytest.raises(DoneError):
            loop((HOST, server.port), visit, policy=patient(waits))
        assert len(waits) == 12
        assert sum(waits) > 10, "a server that flaps sees at most 12 dials in 10 s"
        for number, wait in enumerate(waits):
            longest = min(5, 0.05 * 2**number)
            assert longest / 2 <= wait <= longest

    def test_stable_connection_forgets_the_backoff(self, loop):
        waits, events = [], []
        visit, _ = until(5)
        options = {"stable_after": 0, "on_event": events.append}
        with testing.Outage(hang_up) as server, pytest.raises(DoneError):
            loop((HOST, server.port), visit, policy=patient(waits), **options)
        assert waits == []
        kinds = [event.kind for event in events if event.kind != "resolved"]
        assert kinds == ["connected", "disconnected"] * 6
        assert {event.round for event in events} == {1}

    def test_policy_that_gives_up_raises_the_last_error(self, loop, dead_port, events):
        with pytest.raises(OSError, match=r"refused|all attempts|call failed") as caught:
            loop((HOST, dead_port), until(0)[0], policy=retrying(3), on_event=events.append)
        assert [event.kind for event in events] == ["failed", "retry"] * 2 + ["failed", "gave_up"]
        assert [event.round for event in events] == [1, 1, 2, 2, 3, 3]
        assert events[-1].reason == "policy"
        assert any("after 3 rounds" in note for note in caught.value.__notes__)
        assert safedial._retry.transient.is_transient(caught.value)

    def test_flapping_ends_with_the_policy(self, loop):
        with testing.Outage(hang_up) as server, pytest.raises(ConnectionAbortedError, match="the connection ended"):
            loop((HOST, server.port), until(99)[0], policy=retrying(3))

    def test_within_counts_from_the_last_stable_connection(self, loop):
        starts = []

        def visit(number, data):
            if number == 0:
                time.sleep(0.3)
                server.refuse_for(dials=1)
                raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            raise DoneError

        policy = patient().copy(stop=lambda state: bool(starts.append(state.start_time)))
        begun = time.monotonic()
        with testing.Outage() as server, pytest.raises(DoneError):
            loop((HOST, server.port), visit, policy=policy, stable_after=0.1)
        assert len(starts) == 1
        assert starts[0] >= begun + 0.3, "the time of the policy begins with the loss"

    def test_permanent_error_comes_out_of_the_block(self, loop):
        def visit(number, data):
            raise ValueError("a bug")

        with testing.Outage() as server, pytest.raises(ValueError, match="a bug") as caught:
            loop((HOST, server.port), visit)
        assert not hasattr(caught.value, "__notes__")

    def test_transient_error_of_the_block_ends_the_connection_alone(self, loop, events):
        def visit(number, data):
            if number == 0:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")
            raise DoneError

        with testing.Outage() as server, pytest.raises(DoneError):
            loop((HOST, server.port), visit, policy=patient(), on_event=events.append)
        lost, done = [event for event in events if event.kind == "disconnected"]
        assert isinstance(done.error, DoneError)
        assert isinstance(lost.error, BrokenPipeError)
        assert lost.duration >= 0

    def test_own_exception_comes_out_whatever_was_handled(self, loop):
        numbers = []

        def visit(number, data):
            numbers.append(number)
            try:
                raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            except OSError:
                raise DoneError from None

        with testing.Outage() as server, pytest.raises(DoneError):
            loop((HOST, server.port), visit, policy=retrying(2))
        assert numbers == [0]

    def test_error_of_a_client_comes_out_in_a_loop_that_runs_after_a_lost_connection(self, loop):
        numbers = []

        class AnswerError(redis.exceptions.ResponseError):
            pass

        def visit(number, data):
            numbers.append(number)
            raise AnswerError("WRONGTYPE")

        def run_after_a_loss(port):
            try:
                raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            except OSError:
                loop((HOST, port), visit, policy=retrying(2))

        with testing.Outage() as server, pytest.raises(AnswerError) as caught:
            run_after_a_loss(server.port)
        assert isinstance(caught.value.__context__, ConnectionResetError)
        assert numbers == [0]

    def test_own_exception_in_a_group_comes_out(self, loop):
        numbers = []

        def visit(number, data):
            numbers.append(number)
            lost = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            raise ExceptionGroup("tasks", [lost, DoneError()] if number else [lost])

        with testing.Outage() as server, pytest.raises(ExceptionGroup) as caught:
            loop((HOST, server.port), visit, policy=retrying(9))
        assert len(caught.value.exceptions) == 2
        assert numbers == [0, 1]

    def test_added_error_of_the_block_is_transient_too(self, loop):
        class ServerMovedError(Exception):
            pass

        def visit(number, data):
            if number == 0:
                raise ServerMovedError
            raise DoneError

        with testing.Outage() as server, pytest.raises(DoneError):
            loop((HOST, server.port), visit, policy=patient(also=ServerMovedError))

    def test_group_with_an_error_that_is_not_transient_comes_out(self, loop):
        reset = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

        def visit(number, data):
            raise ExceptionGroup("tasks", [reset] if number == 0 else [reset, RuntimeError("a bug")])

        with testing.Outage() as server, pytest.raises(ExceptionGroup) as caught:
            loop((HOST, server.port), visit, policy=patient())
        assert len(caught.value.exceptions) == 2

    def test_is_never_connected_to_itself(self, loop, force, dead_port):
        fault = force(dead_port, times=2)
        with pytest.raises(OSError, match=r"refused|all attempts|call failed"):
            loop((HOST, dead_port), until(0)[0], policy=retrying(3))
        assert fault.triggered == 2

    def test_recovery_is_in_the_log(self, loop, caplog):
        caplog.set_level(logging.INFO, "safedial")

        def visit(number, data):
            if number == 0:
                raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            raise DoneError

        with testing.Outage() as server, pytest.raises(DoneError):
            loop((HOST, server.port), visit, stable_after=0)
        lost, back = [record.getMessage() for record in caplog.records if record.name == "safedial"]
        assert "disconnected after" in lost
        assert f"{HOST} port {server.port}: " in lost or "<lambda>: " in lost
        assert "Connection reset by peer" in lost
        assert "connected in round 1" in back


def test_break_ends_the_loop_and_closes_the_connection():
    with testing.Outage() as server:
        for connection in safedial.connections((HOST, server.port)):
            with connection as sock:
                assert ask(sock) == b"still there?"
                break
        assert sock.fileno() == -1


def test_timeout_stays_on_the_socket_and_ends_a_connection_that_is_silent():
    def silent(sock):
        sock.recv(1)

    with testing.Outage(silent) as server:
        timeouts = []
        for connection in safedial.connections((HOST, server.port), policy=patient(), timeout=0.05):
            if len(timeouts) == 2:
                break
            with connection as sock:
                timeouts.append(sock.gettimeout())
                sock.recv(1)
    assert timeouts == [0.05, 0.05]


def test_total_timeout_bounds_the_time_until_the_next_connection(dead_port):
    with pytest.raises(TimeoutError) as caught:
        enter_first(safedial.connections((HOST, dead_port), policy=retrying(wait=60), total_timeout=0.2))
    assert caught.value.errno == errno.ETIMEDOUT
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_loop_of_a_caller_who_catches_the_last_error_goes_on(dead_port):
    waits = []
    policy = patient(waits).copy(stop=tenacity.stop_after_attempt(2))
    loop = iter(safedial.connections((HOST, dead_port), policy=policy))
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError), next(loop):
            pass
    assert len(waits) == 3, "it waits before it dials again, too"


class TestMisuse:
    def test_connection_that_is_not_entered_is_an_error(self):
        with pytest.raises(RuntimeError, match="with connection as"):
            for _ in safedial.connections((HOST, 1)):
                pass

    def test_connection_can_be_entered_once(self):
        with testing.Outage() as server:
            loop = iter(safedial.connections((HOST, server.port)))
            connection = next(loop)
            with connection, pytest.raises(RuntimeError, match="entered once"):
                connection.__enter__()

    def test_async_factory_needs_async_for(self):
        async def connect():
            raise AssertionError("it must not run")

        with pytest.raises(TypeError, match="use async for"):
            enter_first(safedial.connections(connect))

    def test_blocking_factory_needs_for(self):
        with testing.Outage() as server:
            socks = []

            def connect():
                socks.append(socket.create_connection((HOST, server.port)))
                return socks[0]

            async def main():
                async for connection in safedial.connections(connect):
                    async with connection:
                        pass

            with pytest.raises(TypeError, match="use for"):
                asyncio.run(main())
            assert socks[0].fileno() == -1

    @pytest.mark.parametrize(
        ("target", "options", "message"),
        [
            ("db", {}, "address"),
            (("db", 99999), {}, "port"),
            (("db", 1), {"policy": None}, "policy"),
            (("db", 1), {"policy": 3}, "policy"),
            (("db", 1), {"stable_after": None}, "stable_after"),
            (("db", 1), {"stable_after": -1}, "stable_after"),
            (("db", 1), {"tiemout": 3}, "tiemout"),
            (("db", 1), {"ssl": True}, "ssl"),
            (("db", 1), {"timeout": "3"}, "timeout"),
            (("db", 1), {"on_event": 3}, "on_event"),
            (print, {"timeout": 3}, "timeout"),
            (print, {"on_event": 3}, "on_event"),
        ],
    )
    def test_bad_argument_is_named(self, target, options, message):
        with pytest.raises((TypeError, ValueError), match=message):
            iter(safedial.connections(target, **options))


class TestNothingIsLeft:
    def test_after_cancellation_in_the_block(self):
        async def main():
            async def use():
                async for connection in safedial.connections((HOST, server.port)):
                    async with connection:
                        inside.set()
                        await asyncio.sleep(3600)

            inside = asyncio.Event()
            task = asyncio.create_task(use())
            await asyncio.wait_for(inside.wait(), 60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        with testing.Outage() as server:
            asyncio.run(main())

    def test_after_cancellation_while_it_waits(self, dead_port):
        async def main():
            async for connection in safedial.connections((HOST, dead_port)):
                async with connection:
                    pass

        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(main(), 0.1))

        async def in_trio():
            with trio.move_on_after(0.1):
                await main()

        trio.run(in_trio)

    def test_of_a_generator_that_is_dropped(self):
        def answers():
            for connection in safedial.connections((HOST, server.port)):
                with connection as sock:
                    yield ask(sock)

        with testing.Outage() as server:
            assert next(answers()) == b"still there?"
            gc.collect()

    @pytest.mark.storm
    def test_of_a_stream_whose_peer_does_not_answer_the_farewell(self):
        async def main():
            async for connection in safedial.connections((HOST, server.port)):
                async with connection as (_, writer):
                    server.freeze()
                    writer.write(bytes(100_000_000))
                    break

        with testing.Outage() as server, contextlib.ExitStack() as stack:
            stack.callback(server.start)
            asyncio.run(main())


def raise_in_each(connections):
    for connection in connections:
        with connection:
            raise EOFError("no greeting")


class TestAfterTheBlock:
    def test_error_that_the_caller_catches_is_no_reason_to_storm(self):
        waits, seen = [], 0
        with testing.Outage(hang_up) as server:
            for connection in safedial.connections((HOST, server.port), policy=patient(waits)):
                seen += 1
                if seen > 10:
                    break
                with contextlib.suppress(RuntimeError), connection:
                    raise RuntimeError("the answer is too short")
        assert len(waits) == 9

    def test_error_that_ends_the_policy_is_told(self, events):
        policy = patient().copy(stop=tenacity.stop_after_attempt(2))
        with testing.Outage(hang_up) as server, pytest.raises(EOFError) as caught:
            raise_in_each(safedial.connections((HOST, server.port), policy=policy, on_event=events.append))
        assert [event.kind for event in events][-2:] == ["disconnected", "gave_up"]
        assert "after 2 rounds" in caught.value.__notes__[0]

    def test_each_info_line_of_trouble_is_followed_by_one_of_recovery(self, caplog):
        caplog.set_level(logging.INFO, "safedial")
        visit, _ = until(9)
        with testing.Outage(hang_up) as server, pytest.raises(DoneError):
            in_blocking_code((HOST, server.port), visit, policy=patient())
        own = [record for record in caplog.records if record.name == "safedial"]
        assert [record.round for record in own if "next round" in record.msg] == [1, 2, 4, 8]
        assert [record.round for record in own if "connected in" in record.msg] == [2, 3, 5, 9]

    def test_total_timeout_does_not_cut_the_backoff(self):
        waits = []
        visit, _ = until(9)
        with testing.Outage(hang_up) as server, pytest.raises(DoneError):
            in_blocking_code((HOST, server.port), visit, policy=patient(waits), total_timeout=0.1)
        assert max(waits) > 0.1


class Transaction:
    """A driver's connection, which commits at the end of its own block, as psycopg's."""

    def __init__(self, log, fails=False):
        self.log, self.fails = log, fails

    def __enter__(self):
        self.log.append("enter")
        return "cursor"

    def __exit__(self, kind, error, traceback):
        self.log.append("commit")
        if self.fails:
            raise ConnectionResetError(errno.ECONNRESET, "reset in commit")

    def close(self):
        self.log.append("close")

    async def __aenter__(self):
        return self.__enter__()

    async def __aexit__(self, *raised):
        return self.__exit__(*raised)


class TestContextManagers:
    def test_is_entered_and_left(self):
        log = []
        with next(iter(safedial.connections(lambda: Transaction(log)))) as cursor:
            assert cursor == "cursor"
        assert log == ["enter", "commit", "close"]

    def test_is_entered_and_left_in_asyncio(self):
        log = []

        async def connect():
            return Transaction(log)

        async def main():
            async for connection in safedial.connections(connect):
                async with connection as cursor:
                    assert cursor == "cursor"
                    break

        asyncio.run(main())
        assert log == ["enter", "commit", "close"]

    def test_nothing_is_committed_after_an_error(self):
        log = []
        with next(iter(safedial.connections(lambda: Transaction(log)))):
            raise ConnectionResetError(errno.ECONNRESET, "reset")
        assert log == ["enter", "close"]

    def test_commit_that_fails_comes_out(self):
        log = []
        with (
            pytest.raises(ConnectionResetError, match="in commit"),
            next(iter(safedial.connections(lambda: Transaction(log, fails=True)))),
        ):
            pass
        assert log[-1] == "close"

    def test_what_dials_when_it_is_entered_is_retried(self, events):
        factory = DialsWhenEntered(failures=2)

        async def main():
            async for connection in safedial.connections(factory, policy=retrying(5), on_event=events.append):
                async with connection as value:
                    assert value is factory.entered[-1]
                    return

        asyncio.run(main())
        assert len(factory.entered) == 3
        assert factory.left == factory.entered[-1:]
        assert [event.kind for event in events][:5] == ["failed", "retry", "failed", "retry", "connected"]


class TestCallShapes:
    """A connection that is used before it is entered, and a loop that is entered."""

    def test_loop_is_no_context_manager(self):
        words = r"write `for connection in connections\(...\):`.*with connection as"
        with pytest.raises(TypeError, match=words), safedial.connections((HOST, 1)):
            pass

        async def main():
            async with safedial.connections((HOST, 1)):
                pass

        with pytest.raises(TypeError, match="in a coroutine `async for` and `async with`"):
            asyncio.run(main())

    def test_connection_that_is_not_entered(self):
        sock = next(iter(safedial.connections((HOST, 1))))
        with pytest.raises(AttributeError, match="no 'sendall' before it is entered: write `with connection as sock:`"):
            sock.sendall(b"")

        async def unpack():
            async for _, _ in safedial.connections((HOST, 1)):
                pass

        async def read():
            async for connection in safedial.connections((HOST, 1)):
                connection.read()

        for use in (unpack, read):
            with pytest.raises(
                (AttributeError, TypeError), match=r"write `async with connection as \(reader, writer\)"
            ):
                asyncio.run(use())

    def test_blocking_loop_in_an_event_loop_is_warned_of_once(self, monkeypatch, caplog):
        async def main():
            for _ in range(2):
                iter(safedial.connections((HOST, 1)))

        monkeypatch.setattr(_connections, "_warned", {})
        iter(safedial.connections((HOST, 1)))
        assert not caplog.records
        asyncio.run(main())
        (line,) = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
        assert "blocks the event loop of this thread; in a coroutine, use async for" in line
