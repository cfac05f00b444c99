"""Dials leave no descriptor, task, thread or reference cycle behind, wherever they fail or are interrupted."""

import asyncio
import contextlib
import errno
import gc
import resource
import selectors
import socket
import sys
import threading
import tracemalloc  # noqa: F401  # pytest imports it for a warning; an interrupt must not hit that import
import weakref

import pytest
import trustme

import safedial
from safedial import testing
from tests.support import dials, faults, left, namespace, web
from tests.support.policies import retrying
from tests.support.resolvers import addresses, servers

DIALS = 10_000


def counts():
    gc.collect()
    return len(left.open_descriptors()), threading.active_count()


LOOPS = list(dials.LOOPS)


@pytest.mark.storm
@pytest.mark.parametrize("means", faults.MEANS)
def test_ten_thousand_failing_dials_leave_nothing(steer, means):
    namespace.call_where_possible(fail_often, steer, means)


def fail_often(steer, means):
    dead_port = testing.dead_port()
    before = counts()
    dialer = safedial.Dialer(steer=steer, timeout=5)
    for _ in range(DIALS):
        with pytest.raises(ConnectionRefusedError):
            dialer.dial(("127.0.0.1", dead_port))
    with faults.self_connect(means, dead_port):
        for _ in range(DIALS // 10):
            with pytest.raises(safedial.SelfConnectError):
                dialer.dial(("127.0.0.1", dead_port))
    assert counts() == before


@pytest.mark.storm
@pytest.mark.parametrize("loop", LOOPS)
def test_ten_thousand_failing_asyncio_dials_leave_nothing(steer, loop):
    namespace.call_where_possible(fail_often_in_asyncio, steer, loop)


def fail_often_in_asyncio(steer, loop):
    dead_port = testing.dead_port()

    async def main():
        before = counts()
        for _ in range(DIALS // 100):
            results = await asyncio.gather(
                *(safedial.open_connection("127.0.0.1", dead_port, steer=steer) for _ in range(100)),
                return_exceptions=True,
            )
            assert all(isinstance(result, ConnectionRefusedError) for result in results)
        assert counts() == before
        assert len(asyncio.all_tasks()) == 1

    dials.run(main(), dials.LOOPS[loop])


@pytest.mark.storm
def test_ten_thousand_timed_out_dials_leave_nothing(steer):
    namespace.call_where_possible(time_out_often, steer)


def time_out_often(steer):
    dialer = safedial.Dialer(timeout=0.0001, steer=steer)
    with faults.full_listener() as server:
        before = counts()
        for _ in range(DIALS):
            with pytest.raises(TimeoutError):
                dialer.dial(server.getsockname())
        assert counts() == before


@pytest.mark.storm
@pytest.mark.parametrize("loop", LOOPS)
def test_ten_thousand_cancelled_asyncio_dials_leave_nothing(steer, loop):
    namespace.call_where_possible(cancel_often, steer, loop)


def cancel_often(steer, loop):
    async def main():
        with faults.full_listener() as server:
            before = counts()
            for turn in range(DIALS // 200):
                options = {"timeout": 0.001 if turn % 2 else None, "steer": steer}
                dials = [
                    asyncio.create_task(safedial.open_connection(*server.getsockname(), **options)) for _ in range(200)
                ]
                await asyncio.sleep(0.002 if turn % 3 else 0)
                for dial in dials:
                    dial.cancel()
                results = await asyncio.gather(*dials, return_exceptions=True)
                assert all(isinstance(result, TimeoutError | asyncio.CancelledError) for result in results)
            assert counts() == before
            assert len(asyncio.all_tasks()) == 1

    dials.run(main(), dials.LOOPS[loop])


class CancelledAt:
    """Await a coroutine and cancel it at suspension number *point*."""

    def __init__(self, coroutine, point):
        self.coroutine, self.point, self.reached = coroutine, point, False

    def __await__(self):
        steps = self.coroutine.__await__()
        try:
            waiting = next(steps)
            for _ in range(self.point):
                try:
                    yield waiting
                except BaseException as error:
                    waiting = steps.throw(error)
                else:
                    waiting = next(steps)
            self.reached = True
            if hasattr(waiting, "cancel"):
                waiting._asyncio_future_blocking = False
                waiting.cancel()
            waiting = steps.throw(asyncio.CancelledError())
            while True:  # it may await more while it cleans up
                yield waiting
                waiting = next(steps)
        except StopIteration as done:
            if self.reached:
                raise AssertionError("the cancelled dial ran to its end") from None
            return done.value


async def cancel_everywhere(dial):
    """Cancel *dial* at each of its suspensions in turn; return the number of suspensions."""
    for point in range(1000):
        cancelling = CancelledAt(dial(), point)
        try:
            _, writer = await cancelling
        except asyncio.CancelledError:
            assert cancelling.reached
        except OSError:
            assert not cancelling.reached
        else:
            writer.close()
            await writer.wait_closed()
        for _ in range(10):
            await asyncio.sleep(0)  # transports close in later turns of the loop
        if not cancelling.reached:
            return point
        assert len(asyncio.all_tasks()) == 1
    raise AssertionError("endless")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("options", [{}, {"happy_eyeballs_delay": 0.01}, {"timeout": 30}], ids=str)
def test_dial_cancelled_at_any_await_leaves_nothing(tls, host, options, steer):
    authority = trustme.CA()
    there, here = web.ssl_contexts(authority, authority.issue_cert("localhost", "127.0.0.1"))

    async def main():
        server = await asyncio.start_server(
            lambda reader, writer: writer.close(), "127.0.0.1", testing.dead_port(), ssl=there if tls else None
        )
        async with server:
            port = server.sockets[0].getsockname()[1]

            def dial():
                return safedial.open_connection(host, port, ssl=here if tls else None, steer=steer, **options)

            assert await cancel_everywhere(dial) >= 1

    dials.run(main())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_failing_dial_cancelled_at_any_await_leaves_nothing(host, steer, dead_port):
    async def main():

        def dial():
            return safedial.open_connection(host, dead_port, policy=retrying(3, 0.001), steer=steer)

        assert await cancel_everywhere(dial) >= 3

    dials.run(main())


def test_race_cancelled_at_any_await_leaves_nothing(monkeypatch, steer):
    with faults.full_listener() as black_hole, faults.listener() as server:
        monkeypatch.setattr(socket, "getaddrinfo", servers(black_hole, server))

        async def main():
            def dial():
                return safedial.open_connection("db", 1, happy_eyeballs_delay=0.005, steer=steer)

            assert await cancel_everywhere(dial) >= 2

        dials.run(main())


class InterruptedAt:
    """Raise KeyboardInterrupt at call or return number *point*: CPython handles signals at these points."""

    def __init__(self, point):
        self.left, self.reached = point, False

    def __call__(self, frame, event, argument):
        if frame.f_code.co_filename == __file__:
            return
        # Signals can't keep a lock from being released, nor come between the call that takes it and the block.
        if (event, getattr(argument, "__name__", "")) in (("c_call", "__exit__"), ("c_return", "__enter__")):
            return
        self.left -= 1
        if self.left < 0 and not self.reached:
            self.reached = True
            raise KeyboardInterrupt

    def __enter__(self):
        # pytest's own hook must not be interrupted: it would fail the test.
        self.hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
        sys.setprofile(self)

    def __exit__(self, kind, error, traceback):
        sys.setprofile(None)
        sys.unraisablehook = self.hook
        return self.reached and kind is KeyboardInterrupt


@pytest.mark.storm
# An interrupt may come before a socket is assigned to a name, and in calls that the interpreter makes by itself.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("dialed", ["black hole first", "all dead"])
def test_dial_interrupted_anywhere_leaves_nothing(dialed, steer, dead_port):
    """Ctrl-C in a race, between two rounds, in a hook: once the exception is freed, every socket is closed."""
    with faults.black_hole_and_server() as (black_hole, server):
        answers = [black_hole, server] if dialed == "black hole first" else [("127.0.0.1", dead_port)] * 2
        dialer = safedial.Dialer(
            happy_eyeballs_delay=0.001,
            timeout=60,
            resolver=servers(*answers) if dialed == "black hole first" else addresses(*answers),
            policy=retrying(2),
            on_event=lambda event: None,
            steer=steer,
        )

        def dial():
            with contextlib.suppress(OSError):
                dialer.dial(("db", 1)).close()

        dial()  # imports the modules that are loaded late
        before = counts()
        for point in range(5000):
            interrupt = InterruptedAt(point)
            with interrupt:
                dial()
            if not interrupt.reached:
                break
            if len(left.open_descriptors()) != before[0]:  # a cycle of frames and exceptions
                assert counts() == before, point
        assert 100 < point < 4999


@pytest.mark.parametrize(
    "spare", [pytest.param(spare, marks=pytest.mark.storm if spare in (1, 2, 4, 5) else ()) for spare in range(6)]
)
def test_race_fails_cleanly_if_descriptors_run_out(spare):
    """Each socket and the selector of a blocking race take a descriptor. Without one, the attempt fails."""
    for outcomes in namespace.call_outside(dial_with_few_descriptors, spare, seconds=60):
        assert set(outcomes) <= {"OSError 24", "TimeoutError 110", "connected"}
        assert outcomes[-1] == ("connected" if spare > 4 else outcomes[-1])


def dial_with_few_descriptors(spare):
    def outcome(dial):
        try:
            dial().close()
        except OSError as error:
            return f"{type(error).__name__} {error.errno}"
        return "connected"

    with faults.black_hole_and_server() as (black_hole, server):
        dialer = safedial.Dialer(
            happy_eyeballs_delay=0.01, total_timeout=0.5, resolver=servers(black_hole, black_hole, server), policy=None
        )
        dialer.dial(("db", 1)).close()  # imports the modules that are loaded late
        with asyncio.Runner() as runner:
            runner.run(asyncio.sleep(0))
            highest = max(map(int, left.open_descriptors()))
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            holes = highest + 1 - len(left.open_descriptors())
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + spare, hard))
            try:
                with contextlib.ExitStack() as stack:
                    for _ in range(holes):
                        stack.enter_context(socket.socket())
                    return [
                        [outcome(lambda: dialer.dial(("db", 1))) for _ in range(3)],
                        [outcome(lambda: runner.run(dialer.dial_async(("db", 1)))) for _ in range(3)],
                    ]
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_attempt_fails_if_no_selector_can_be_made(monkeypatch):
    real, failures = selectors.DefaultSelector, [OSError(errno.EMFILE, "Too many open files")]

    def scarce():
        if failures:
            raise failures.pop()
        return real()

    monkeypatch.setattr(selectors, "DefaultSelector", scarce)
    with faults.full_listener() as black_hole:
        dialer = safedial.Dialer(
            timeout=0.05, happy_eyeballs_delay=0.01, resolver=servers(*[black_hole] * 3), policy=None
        )
        with pytest.raises(ExceptionGroup) as caught:
            dialer.dial(("db", 1), all_errors=True)
    assert [type(error) for error in caught.value.exceptions] == [OSError, TimeoutError, TimeoutError]


def test_interrupted_hook_closes_the_connection(dial, server):
    class Interrupt(BaseException):
        pass

    def hook(event):
        raise Interrupt

    with pytest.raises(Interrupt):
        dial(*server.getsockname(), on_event=hook)


@pytest.mark.parametrize("name", ["open_connection", "dial_async", "two addresses"])
@pytest.mark.parametrize("alive", [False, True])
def test_reconnect_loop_lets_other_tasks_run(loop_factory, dead_port, server, name, alive):
    """On loopback a dial never waits. A loop of dials must still be cancellable."""
    address = server.getsockname() if alive else ("127.0.0.1", dead_port)

    async def resolver(*args, **hints):
        return [faults.tcp(*address)] * 2

    async def once():
        if name == "dial_async":
            (await safedial.Dialer().dial_async(address)).close()
        elif name == "two addresses":
            (await safedial.Dialer(resolver=resolver, happy_eyeballs_delay=None).dial_async(("db", 1))).close()
        else:
            _, writer = await safedial.open_connection(*address)
            writer.transport.abort()
        server.accept()[0].close()

    async def loop():
        for _ in range(10_000):
            with contextlib.suppress(OSError):
                await once()
        raise AssertionError("never cancelled")

    async def main():
        task = asyncio.create_task(loop())
        for _ in range(50):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    dials.run(main(), loop_factory)


@pytest.mark.parametrize("policy", [None, "reconnect"])
@pytest.mark.parametrize("all_errors", [False, True])
@pytest.mark.parametrize("name", ["dial", "dial_async"])
@pytest.mark.parametrize("delay", [None, 0.25])
@pytest.mark.parametrize("end", ["all dead", "second lives", "hook raises"])
def test_dial_leaves_no_reference_cycle(monkeypatch, dead_port, server, policy, all_errors, name, delay, end):
    """As in the stdlib, sockets and errors are freed without the garbage collector."""

    def hook(event):
        if end == "hook raises":
            raise LookupError

    second = server.getsockname() if end == "second lives" else ("::1", dead_port)
    dialer = safedial.Dialer(
        policy=policy and safedial.reconnect(0.01, 0.001),
        happy_eyeballs_delay=delay,
        on_event=hook,
        resolver=addresses(("127.0.0.1", dead_port), second),
    )
    made = []

    class Tracked(socket.socket):
        def __init__(self, *args, **kwds):
            super().__init__(*args, **kwds)
            made.append(weakref.ref(self))

    monkeypatch.setattr(socket, "socket", Tracked)

    async def fail():
        # Caught here, because an asyncio Task and its exception form a cycle.
        with contextlib.suppress(OSError, ExceptionGroup, LookupError):
            if name == "dial":
                dialer.dial(("db", dead_port), all_errors=all_errors).close()
            else:
                (await dialer.dial_async(("db", dead_port), all_errors=all_errors)).close()

    async def main():
        await asyncio.get_running_loop().run_in_executor(None, int)
        gc.collect()
        gc.disable()
        try:
            made.clear()
            for _ in range(3):
                await fail()
            assert made
            return [ref() for ref in made if ref() is not None]
        finally:
            gc.enable()

    assert dials.run(main()) == []
