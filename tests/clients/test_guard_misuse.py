"""The guard can't be misused silently: its shapes, wrong arguments, a guard that nobody entered, is_guarded()."""

import asyncio
import contextlib
import contextvars
import functools
import gc
import socket
import threading

import aiohttp
import pytest
import uvloop

import safedial
from safedial._clients import entering, guard, patch

HOST = "127.0.0.1"


def dial(port):
    """Dial, and say how that was guarded."""
    socket.create_connection((HOST, port)).close()
    return safedial.is_guarded()


async def dial_async(port):
    return dial(port)


class TestShapes:
    def test_decorator_without_parentheses(self, force, dead_port):
        force(dead_port)
        with pytest.raises(safedial.SelfConnectError):
            safedial.guard(dial)(dead_port)
        with pytest.raises(safedial.SelfConnectError):
            asyncio.run(safedial.guard(dial_async)(dead_port))

    def test_decorator_without_parentheses_with_a_hook(self, server, events):
        assert safedial.guard(dial, on_event=events.append)(server.getsockname()[1]) == "guard"
        assert [event.kind for event in events] == ["connected"]

    def test_decorated_method(self, server):
        class Client:
            @safedial.guard
            def dial(self):
                return dial(server.getsockname()[1])

            @staticmethod
            @safedial.guard
            def dial_by_class():
                return dial(server.getsockname()[1])

        assert Client().dial() == Client.dial_by_class() == "guard"

    def test_async_with(self, force, dead_port):
        force(dead_port)

        async def main():
            async with safedial.guard() as nothing:
                assert nothing is None
                assert safedial.is_guarded() == "guard"
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection(HOST, dead_port)
            return safedial.is_guarded()

        assert asyncio.run(main()) is None


class TestWrongArguments:
    @pytest.mark.parametrize("given", ["127.0.0.1", ("127.0.0.1", 80), 80, ["db"]])
    def test_address(self, given):
        with pytest.raises(TypeError, match=r"takes no address.*with guard\(\)"):
            safedial.guard(given)

    def test_url_is_not_shown(self):
        with pytest.raises(TypeError) as caught:
            safedial.guard("redis://:secret@db")
        assert "secret" not in str(caught.value)

    def test_address_by_name(self):
        with pytest.raises(TypeError, match="address"):
            safedial.guard(address=(HOST, 80))

    @pytest.mark.parametrize(
        "kind", [threading.Thread, aiohttp.ClientSession, contextlib.nullcontext, type("Client", (), {})]
    )
    @pytest.mark.parametrize("decorate", [safedial.guard, safedial.guard()])
    def test_class(self, kind, decorate):
        with pytest.raises(TypeError, match="can't decorate a class"):
            decorate(kind)

    @pytest.mark.parametrize("kind", [staticmethod, classmethod])
    def test_wrong_order_of_decorators(self, kind):
        with pytest.raises(TypeError, match=f"can't decorate a {kind.__name__}: write @guard below it"):
            safedial.guard(kind(dial))

    def test_generator_functions(self):
        def generate():
            yield

        async def generate_async():
            yield

        for function in (generate, generate_async, functools.partial(generate)):
            with pytest.raises(TypeError, match="generator function"):
                safedial.guard(function)

    @pytest.mark.parametrize("decorate", [safedial.guard, safedial.guard()])
    def test_functions_that_return_generators(self, decorate):
        async def generate_async():
            yield

        def function():
            return (each for each in ())

        def function_async():
            return generate_async()

        async def coroutine_function():
            return function()

        calls = [decorate(function), decorate(function_async), lambda: asyncio.run(decorate(coroutine_function)())]
        for call in calls:
            with pytest.raises(TypeError, match=r"the generator that the function .* returned.*with guard\(\)"):
                call()


class TestUvloop:
    """It dials in C, so guard() does not reach asyncio.open_connection()."""

    @pytest.fixture(autouse=True)
    def _nobody_was_told(self, monkeypatch):
        monkeypatch.setattr(entering, "_warned", {})

    @staticmethod
    async def enter():
        for _ in range(2):
            with safedial.guard():
                pass
        await safedial.guard(asyncio.sleep)(0)

    @staticmethod
    def run(coroutine, loop_factory=uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(coroutine)

    def test_is_said_once(self, caplog):
        self.run(self.enter())
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert "safedial.install()" in record.message
        assert "safedial.adapters.asyncio.new_event_loop(uvloop.Loop)" in record.message

    def test_is_said_to_a_decorator(self, caplog):
        self.run(safedial.guard(asyncio.sleep)(0))
        assert len(caplog.records) == 1

    def test_is_not_said_under_install(self, caplog):
        safedial.install()
        try:
            self.run(self.enter())
        finally:
            safedial.uninstall()
        assert "uvloop" not in caplog.text

    @pytest.mark.parametrize(
        "loop_factory",
        [None, lambda: safedial.adapters.asyncio.new_event_loop(uvloop.Loop)],
        ids=["asyncio", "adapter"],
    )
    def test_is_not_said_in_another_loop(self, caplog, loop_factory):
        self.run(self.enter(), loop_factory)
        assert not caplog.records

    def test_is_not_said_outside_of_the_loop_and_in_our_own_entries(self, caplog):
        async def enter_ours():
            with guard.inside():
                pass

        self.run(enter_ours())
        with safedial.guard():
            pass
        assert not caplog.records


class TestNeverEntered:
    def test_says_so(self, caplog):
        with pytest.warns(ResourceWarning, match=r"guard\(\) was never entered"):
            safedial.guard()
        assert "never entered" in caplog.text

    @pytest.mark.parametrize("use", ["entered", "decorator", "refused", "failed"])
    def test_says_nothing_if_it_was(self, use, caplog, monkeypatch):
        one = safedial.guard()
        if use == "entered":
            with one:
                pass
        elif use == "decorator":
            one(dial)
        elif use == "refused":
            with pytest.raises(TypeError):
                one(int)
        else:
            with monkeypatch.context() as context:
                context.setattr(socket, "socket", socket._socket.socket)
                with pytest.raises(TypeError):
                    one.__enter__()
        del one
        gc.collect()
        assert not caplog.records

    def test_is_freed_at_once(self):
        """No cycle keeps it until the garbage collector comes: the warning is about this line."""
        gc.disable()
        try:
            with pytest.warns(ResourceWarning):
                safedial.guard()
        finally:
            gc.enable()


class TestIsGuarded:
    def test_tells_how(self):
        assert safedial.is_guarded() is None
        safedial.install()
        try:
            assert safedial.is_guarded() == "install"
            with safedial.guard():
                assert safedial.is_guarded() == "guard"
            assert safedial.is_guarded() == "install"
            assert contextvars.Context().run(safedial.is_guarded) == "install"
        finally:
            safedial.uninstall()
        with safedial.guard():
            assert contextvars.Context().run(safedial.is_guarded) is None
        assert safedial.is_guarded() is None

    def test_tells_the_truth(self, force, dead_port):
        """Somebody may have restored the methods, as pytest-socket does after each test."""
        force(dead_port)
        with safedial.guard():
            for name in ("connect", "connect_ex"):
                delattr(socket.socket, name)
            assert safedial.is_guarded() == "guard"
            with pytest.raises(safedial.SelfConnectError):
                dial(dead_port)

    def test_tells_what_wrap_does(self):
        assert safedial.wrap(lambda: [safedial.is_guarded()])() == ["guard"]


class TestInside:
    def test_counts_the_connects(self, server, refused_port):
        with guard.inside() as entry:
            assert entry.dials == 0
            dial(server.getsockname()[1])
            with pytest.raises(ConnectionRefusedError):
                dial(refused_port)
        dial(server.getsockname()[1])
        assert entry.dials == 2

    def test_counts_for_each_that_is_entered(self, server):
        with guard.inside() as outer:
            with guard.inside() as inner:
                dial(server.getsockname()[1])
            dial(server.getsockname()[1])
        assert (outer.dials, inner.dials) == (2, 1)
        assert not patch._layers

    def test_nothing_but_tcp_counts(self):
        with guard.inside() as entry, socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.connect((HOST, 9))
        assert entry.dials == 0
