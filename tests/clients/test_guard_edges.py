"""Edge cases of the guard: entries that end in another context, forks, unusual addresses and patches."""

import asyncio
import contextlib
import contextvars
import errno
import functools
import gc
import socket
import threading
import unittest.mock
import weakref

import pytest
import tenacity

import safedial
from safedial import testing
from safedial._clients import guard, guarded_connect, patch
from safedial._tcp import selfconnect, steering
from tests.support import faults
from tests.support.faults import is_guarded

HOST = "127.0.0.1"


class TestContexts:
    def test_left_in_another_context(self, dead_port):
        """An async generator ends in the context of the code that closes it."""

        async def fixture():
            with safedial.guard():
                yield

        async def main():
            generator = fixture()
            await asyncio.create_task(anext(generator))
            await generator.aclose()
            before = is_guarded(dead_port)
            with safedial.guard():
                return before, is_guarded(dead_port)

        assert asyncio.run(main()) == (False, True)

    def test_task_that_outlives_the_block_is_outside(self, dead_port):
        async def main():
            over = asyncio.Event()

            async def later():
                await over.wait()
                return is_guarded(dead_port)

            with safedial.guard():
                task = asyncio.create_task(later())
            over.set()
            with contextlib.ExitStack() as stack:  # another guard keeps the patch in place
                contextvars.Context().run(stack.enter_context, safedial.guard())
                return await task

        assert asyncio.run(main()) is False

    def test_decorated_function_has_a_guard_of_its_own(self, dead_port):
        """If a guard is shared, a generator that is closed elsewhere may end another user's entry."""
        one, inside, over = safedial.guard(), threading.Event(), threading.Event()
        found = []

        def block():
            with one:
                yield

        @one
        def dial():
            inside.set()
            over.wait()
            found.append(is_guarded(dead_port))

        generator = block()
        contextvars.copy_context().run(next, generator)
        thread = threading.Thread(target=dial)
        thread.start()
        inside.wait()
        contextvars.copy_context().run(generator.close)
        over.set()
        thread.join()
        assert found == [True]

    def test_entries_that_ended_elsewhere_are_dropped(self):
        def block():
            with safedial.guard():
                yield

        def main():
            for _ in range(5):
                generator = block()
                next(generator)
                contextvars.copy_context().run(generator.close)
            with safedial.guard():
                return len(guard._inside.get())

        assert contextvars.copy_context().run(main) == 1

    def test_shared_by_threads(self):
        one, found = safedial.guard(), []

        def enter(port):
            for turn in range(200):
                with one:
                    found.append(turn % 20 > 0 or is_guarded(port))

        threads = [threading.Thread(target=enter, args=[testing.dead_port()]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(found)
        assert not patch._layers

    @pytest.mark.storm
    @faults.forks_among_threads
    def test_fork_while_others_enter(self):
        port = testing.dead_port()

        def enter():
            with safedial.guard():
                pass

        def install():
            with safedial.guard():
                safedial.install()
                return is_guarded(port)

        faults.fork_beside(enter, install, 60)

    def test_nested_guards_share_one_layer(self):
        with safedial.guard(), safedial.guard():
            assert patch._layers == (guard._layer,)
        assert not patch._layers

    def test_async_generators_are_rejected(self):
        async def connect():
            yield

        with pytest.raises(TypeError, match="generator function"):
            safedial.guard()(connect)

    def test_decorated_function_that_returns_a_coroutine(self, force, dead_port):
        async def dial():
            await asyncio.open_connection(HOST, dead_port)

        class Connector:
            async def __call__(self):
                await dial()

        force(dead_port)
        for function in (lambda: dial(), Connector()):
            with pytest.raises(ConnectionRefusedError):
                asyncio.run(safedial.guard()(function)())


class TestSockets:
    def test_is_steered(self, server):
        faults.require_option()
        with safedial.guard(), socket.create_connection(server.getsockname()) as sock:
            assert steering.option_value(steering.own_range(sock)) in steering.side_options(server.getsockname()[1])

    def test_datagrams_are_not(self):
        with safedial.guard(), socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.connect((HOST, testing.dead_port()))
            assert steering.own_range(sock) is None

    def test_socket_is_steered_again_after_a_refused_connect(self, server, monkeypatch):
        port = server.getsockname()[1]
        with safedial.guard(), testing.refused_port() as refused, socket.socket() as sock:
            for _ in range(2):
                with pytest.raises(ConnectionRefusedError):
                    sock.connect((HOST, refused))
            sock.connect((HOST, port))
            assert sock.getpeername() == (HOST, port)

    @pytest.mark.parametrize(
        ("family", "address"),
        [
            (socket.AF_INET6, ("255.255.255.255", 80)),  # "address family mismatched", without an errno
            (socket.AF_INET, (HOST, 0)),
            (socket.AF_INET, (HOST, 70000)),
            (socket.AF_INET, (HOST, "http")),
            (socket.AF_INET, ("192.0.2.1", 80, 1)),
        ],
    )
    @pytest.mark.parametrize("name", ["connect", "connect_ex"])
    def test_outcome_is_the_same_as_without_a_guard(self, name, family, address, monkeypatch):
        def outcome():
            with socket.socket(family) as sock:
                try:
                    return getattr(sock, name)(address)
                except (OSError, TypeError, OverflowError) as error:
                    return type(error), str(error)

        plain = outcome()
        with safedial.guard():
            assert outcome() == plain

    def test_missing_address_raises_the_kernels_error(self):
        with safedial.guard(), socket.socket() as sock, pytest.raises(OSError) as caught:  # noqa: PT011  # its errno
            sock.connect(("255.255.255.255", 9))
        assert caught.value.errno
        assert not isinstance(caught.value, safedial.PortsExhaustedError)

    def test_port_with_an_index_method(self, force, dead_port):
        class Port:
            def __index__(self):
                return dead_port

        force(dead_port)
        with safedial.guard(), socket.socket() as sock, pytest.raises(safedial.SelfConnectError):
            sock.connect((HOST, Port()))

    def test_host_in_bytes(self, force, dead_port):
        force(dead_port)
        with safedial.guard(), socket.socket() as sock, pytest.raises(safedial.SelfConnectError) as caught:
            sock.connect((HOST.encode(), dead_port))
        assert caught.value.host == HOST

    @pytest.mark.parametrize("host", [HOST, "0.0.0.0", "127.0.0.2", "localhost", b"127.0.0.2"])
    def test_self_connect_in_progress(self, host, dead_port, monkeypatch):
        """On other systems than Linux, connect() may return before the handshake. The addresses are known by then."""

        def no_peer(sock):
            raise OSError(errno.ENOTCONN, "not connected")

        def in_progress(sock, address):
            raise BlockingIOError(errno.EINPROGRESS, "in progress")

        monkeypatch.setattr(selfconnect, "peer_of", no_peer)
        with socket.socket() as sock:
            sock.bind((HOST, dead_port))
            itself = host in (HOST, "0.0.0.0")
            with pytest.raises(safedial.SelfConnectError if itself else BlockingIOError):
                guarded_connect.connect_safely(sock, (host, dead_port), in_progress)

    @pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "audit"), TimeoutError(errno.ETIMEDOUT, "alarm")])
    def test_exception_from_within_connect_ex_is_raised(self, server, error, monkeypatch):
        """Such as that of an audit hook or a signal handler: only answers of connect(2) are returned."""

        def interrupted(sock, address):
            raise error

        monkeypatch.setattr(socket.socket, "connect_ex", interrupted, raising=False)
        with safedial.guard(), socket.socket() as sock, pytest.raises(OSError) as caught:  # noqa: PT011  # it is *error*
            sock.connect_ex(server.getsockname())
        assert caught.value is error


class TestPatches:
    def test_foreign_patch_on_top_stays(self, monkeypatch):
        with safedial.guard():
            ours = socket.socket.connect

            def theirs(sock, address):
                return ours(sock, address)

            monkeypatch.setattr(socket.socket, "connect", theirs)
        assert socket.socket.connect is theirs
        monkeypatch.undo()
        with contextlib.suppress(AttributeError):
            del socket.socket.connect

    def test_foreign_patch_made_with_functools_wraps_stays(self, dead_port, monkeypatch):
        """functools.wraps() copies the attributes of our method, so the other patch looks like ours."""
        seen = []
        with safedial.guard():
            ours = socket.socket.connect

            @functools.wraps(ours)
            def theirs(sock, address):
                seen.append(address)
                return ours(sock, address)

            monkeypatch.setattr(socket.socket, "connect", theirs)
        with safedial.guard():
            assert is_guarded(dead_port)
        assert socket.socket.connect is theirs
        assert seen == [(HOST, dead_port)]
        monkeypatch.undo()
        with contextlib.suppress(AttributeError):
            del socket.socket.connect

    def test_inert_patch_does_nothing(self, dead_port, monkeypatch):
        with safedial.guard():
            ours = socket.socket.connect
            monkeypatch.setattr(socket.socket, "connect", lambda sock, address: ours(sock, address))
        monkeypatch.setattr(socket.socket, "connect", ours)
        assert not is_guarded(dead_port)
        monkeypatch.undo()
        with contextlib.suppress(AttributeError):
            del socket.socket.connect

    def test_patches_do_not_pile_up(self, server):
        """A mock that starts inside a guard and stops after it restores our method each time."""
        for _ in range(1500):
            with contextlib.ExitStack() as stack, safedial.guard():
                stack.enter_context(unittest.mock.patch.object(socket.socket, "connect"))
        socket.create_connection(server.getsockname()).close()
        del socket.socket.connect  # the last mock has restored it

    def test_mock_below_is_called(self):
        with unittest.mock.patch.object(socket.socket, "connect") as mock, safedial.guard(), socket.socket() as sock:
            with contextlib.suppress(safedial.SelfConnectError):  # it is connected to nobody
                sock.connect((HOST, 9))
            mock.assert_called_once()

    def test_restored_method_is_replaced_again(self, dead_port):
        """pytest-socket restores the method at the end of each test."""
        safedial.install()
        try:
            del socket.socket.connect
            assert not is_guarded(dead_port)
            with safedial.guard():
                assert is_guarded(dead_port)
        finally:
            safedial.uninstall()

    def test_subclass_in_place_of_socket(self, dead_port, monkeypatch):
        plain = socket.socket
        monkeypatch.setattr(socket, "socket", type("Socket", (plain,), {}))
        with safedial.guard(), plain() as sock:
            sock.bind((HOST, dead_port))
            with pytest.raises(safedial.SelfConnectError):
                sock.connect((HOST, dead_port))


class DeniedError(Exception):
    """A client's error without a kernel's error behind it."""


class TestWrap:
    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_error_of_an_earlier_round_is_not_the_cause(self, asynchronous):
        calls = []

        def connect():
            calls.append(1)
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused") if len(calls) == 1 else DeniedError

        async def connect_async():
            connect()

        policy = tenacity.Retrying(retry=safedial.retry_if_transient, stop=tenacity.stop_after_attempt(5))
        wrapped = safedial.wrap(connect_async if asynchronous else connect, policy=policy)
        with pytest.raises(DeniedError):
            asyncio.run(wrapped()) if asynchronous else wrapped()
        assert len(calls) == 2

    def test_arguments_are_neither_logged_nor_noted(self, refused_port, caplog):
        caplog.set_level("DEBUG", "safedial")

        def connect(password):
            return socket.create_connection((HOST, refused_port))

        policy = tenacity.Retrying(retry=safedial.retry_if_transient, stop=tenacity.stop_after_attempt(2))
        with pytest.raises(ConnectionRefusedError) as caught:
            safedial.wrap(functools.partial(connect, password="s3cret"), policy=policy)()
        assert "s3cret" not in caplog.text + "".join(caught.value.__notes__)

    @pytest.mark.parametrize(
        "policy", [None, safedial.redial(), safedial.reconnect(within=0.01)], ids=["none", "redial", "reconnect"]
    )
    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_handled_failure_is_freed(self, policy, asynchronous):
        class Thing:
            pass

        things = weakref.WeakSet()

        def connect():
            thing = Thing()
            things.add(thing)
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

        async def connect_async():
            connect()

        async def fail():
            with contextlib.suppress(ConnectionRefusedError):
                await safedial.wrap(connect_async, policy=policy)()

        gc.collect()
        gc.disable()
        try:
            if asynchronous:
                asyncio.run(fail())
            else:
                with contextlib.suppress(ConnectionRefusedError):
                    safedial.wrap(connect, policy=policy)()
            assert not things
        finally:
            gc.enable()

    def test_raised_error_has_the_callers_exception_as_its_context(self):
        def connect():
            raise DeniedError

        def reconnect():
            try:
                raise KeyError(1)
            except KeyError:
                safedial.wrap(connect)()

        with pytest.raises(DeniedError) as caught:
            reconnect()
        assert isinstance(caught.value.__context__, KeyError)

    def test_property_that_raises_is_ignored(self):
        class Connection:
            @property
            def connection(self):
                raise LookupError("not begun")

        one = Connection()
        assert safedial.wrap(lambda: one)() is one

    def test_coroutine_of_the_second_round_is_guarded(self, force, dead_port):
        calls = []

        async def dial():
            await asyncio.open_connection(HOST, dead_port)

        def connect():
            calls.append(1)
            if len(calls) == 1:
                raise safedial.SelfConnectError.at(HOST, dead_port)
            return dial()

        force(dead_port)
        with pytest.raises(ConnectionRefusedError):
            asyncio.run(safedial.wrap(connect)())

    def test_unknown_host_is_left_to_the_client(self, monkeypatch):
        def nothing(*args, **kwds):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")

        monkeypatch.setattr(socket, "getaddrinfo", nothing)
        assert safedial.wrap(lambda: "the client's own", address=("no-such-name.invalid", 80))() == "the client's own"
