"""The guard where it is hard: contexts that are left elsewhere, forks, strange addresses and patches."""

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
from safedial._clients import guard, patch
from safedial._tcp import steering
from safedial._tcp.selfconnect import RESET
from tests.support import faults

HOST = "127.0.0.1"


def meet_itself(port):
    """Without the plugin's fault, which is a layer as the guard is."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.bind((HOST, port))
        sock.connect((HOST, port))
        return True


def is_guarded(port):
    try:
        return not meet_itself(port)
    except safedial.SelfConnectError:
        return True


class TestContexts:
    def test_left_in_another_context(self, dead_port):
        """As an async generator is, whose end runs where it is ended."""

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
            with contextlib.ExitStack() as stack:  # somebody else's guard keeps the patch in place
                contextvars.Context().run(stack.enter_context, safedial.guard())
                return await task

        assert asyncio.run(main()) is False

    def test_a_decorated_function_shares_its_guard_with_nobody(self, dead_port):
        """A generator that is ended elsewhere may end a guard that is not its own, of those that are shared."""
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

    def test_what_was_left_elsewhere_is_forgotten(self):
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

    def test_entered_again_patches_no_more(self):
        with safedial.guard(), safedial.guard():
            assert patch._layers == (guard._layer,)
        assert not patch._layers

    def test_async_generators_are_refused(self):
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
        if not faults.kernel_steers():
            pytest.skip("this kernel has no IP_LOCAL_PORT_RANGE (Linux 6.3)")
        with safedial.guard(), socket.create_connection(server.getsockname()) as sock:
            assert steering.option_value(steering.own_range(sock)) in steering.side_options(server.getsockname()[1])

    def test_datagrams_are_not(self):
        with safedial.guard(), socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.connect((HOST, testing.dead_port()))
            assert steering.own_range(sock) is None

    def test_asked_again_after_a_refusal_it_is_steered_again(self, server, monkeypatch):
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
    def test_says_what_is_said_without_it(self, name, family, address, monkeypatch):
        def outcome():
            with socket.socket(family) as sock:
                try:
                    return getattr(sock, name)(address)
                except (OSError, TypeError, OverflowError) as error:
                    return type(error), str(error)

        plain = outcome()
        with safedial.guard():
            assert outcome() == plain

    def test_missing_address_is_the_kernels_own_error(self):
        with safedial.guard(), socket.socket() as sock, pytest.raises(OSError) as caught:  # noqa: PT011  # its errno
            sock.connect(("255.255.255.255", 9))
        assert caught.value.errno
        assert not isinstance(caught.value, safedial.PortsExhaustedError)

    def test_port_that_is_like_an_int(self, force, dead_port):
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
    def test_self_connect_that_is_still_under_way(self, host, dead_port, monkeypatch):
        """Elsewhere than on Linux connect() may answer before the handshake: its ends are known by then."""

        def no_peer(sock):
            raise OSError(errno.ENOTCONN, "not connected")

        def in_progress(sock, address):
            raise BlockingIOError(errno.EINPROGRESS, "in progress")

        monkeypatch.setattr(guard, "peer_of", no_peer)
        with socket.socket() as sock:
            sock.bind((HOST, dead_port))
            itself = host in (HOST, "0.0.0.0")
            with pytest.raises(safedial.SelfConnectError if itself else BlockingIOError):
                guard._layer.connect(sock, (host, dead_port), in_progress)


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

    def test_inert_patch_does_nothing(self, dead_port, monkeypatch):
        with safedial.guard():
            ours = socket.socket.connect
            monkeypatch.setattr(socket.socket, "connect", lambda sock, address: ours(sock, address))
        monkeypatch.setattr(socket.socket, "connect", ours)
        assert meet_itself(dead_port)
        monkeypatch.undo()
        with contextlib.suppress(AttributeError):
            del socket.socket.connect

    def test_patches_do_not_pile_up(self, server):
        """A mock that was begun inside of a guard, and ended after it, puts ours back each time."""
        for _ in range(1500):
            with contextlib.ExitStack() as stack, safedial.guard():
                stack.enter_context(unittest.mock.patch.object(socket.socket, "connect"))
        socket.create_connection(server.getsockname()).close()
        del socket.socket.connect  # what the last one has put back

    def test_mock_below_is_asked_as_it_was(self):
        with unittest.mock.patch.object(socket.socket, "connect") as mock, safedial.guard(), socket.socket() as sock:
            with contextlib.suppress(safedial.SelfConnectError):  # it is connected to nobody
                sock.connect((HOST, 9))
            mock.assert_called_once()

    def test_put_back_by_somebody_it_comes_between_again(self, dead_port):
        """As pytest-socket does at the end of each test."""
        safedial.install()
        try:
            del socket.socket.connect
            assert meet_itself(dead_port)
            with safedial.guard():
                assert is_guarded(dead_port)
        finally:
            safedial.uninstall()

    def test_subclass_in_the_place_of_the_class(self, dead_port, monkeypatch):
        plain = socket.socket
        monkeypatch.setattr(socket, "socket", type("Socket", (plain,), {}))
        with safedial.guard(), plain() as sock:
            sock.bind((HOST, dead_port))
            with pytest.raises(safedial.SelfConnectError):
                sock.connect((HOST, dead_port))


class DeniedError(Exception):
    """What a client raises that has nothing to do with the kernel."""


class TestWrap:
    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_attempt_before_is_not_the_cause(self, asynchronous):
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

    def test_says_nothing_of_arguments(self, refused_port, caplog):
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
    def test_failure_is_gone_when_it_is_handled(self, policy, asynchronous):
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

    def test_context_is_the_callers_afterwards(self):
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

    def test_property_that_raises_harms_nobody(self):
        class Connection:
            @property
            def connection(self):
                raise LookupError("not begun")

        one = Connection()
        assert safedial.wrap(lambda: one)() is one

    def test_coroutine_of_a_second_call_is_awaited_guarded(self, force, dead_port):
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

    def test_host_that_cannot_be_held_is_the_clients_to_refuse(self, monkeypatch):
        def nothing(*args, **kwds):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")

        monkeypatch.setattr(socket, "getaddrinfo", nothing)
        assert safedial.wrap(lambda: "the client's own", address=("no-such-name.invalid", 80))() == "the client's own"

    def test_family_that_is_not_there_is_not_held(self, monkeypatch, caplog):
        caplog.set_level("DEBUG", "safedial")

        def no_ipv6(family=socket.AF_INET, *args, **kwds):
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "no IPv6")
            return plain(family, *args, **kwds)

        plain = socket.socket
        monkeypatch.setattr(socket, "socket", no_ipv6)
        with safedial.hold(("::1", 5432)):
            pass
        assert "not held: ::1 port 5432: [Errno 97] no IPv6" in caplog.text
