"""wrap(): other people's factories, sync and async."""

import asyncio
import contextlib
import errno
import functools
import gc
import inspect
import logging
import socket

import aiomysql
import pymysql
import pytest
import tenacity

import safedial
from safedial import testing
from safedial.testing.intercept import intercepting
from tests.support import faults
from tests.support.late import DialsWhenEntered

HOST = "127.0.0.1"


class ClientError(Exception):
    """A client's own error, raised in place of the kernel's."""


class Client:
    def __init__(self, host, port=0, *, password=None):
        """A client."""
        try:
            self.sock = socket.create_connection((host, port), 5)
        except OSError:
            if password == "mute":
                raise ClientError("could not connect") from None
            raise ClientError("could not connect")  # noqa: B904  # as many clients do
        if password == "wrong":
            self.close()
            raise ClientError("access denied")

    def close(self):
        self.sock.close()


async def open_client(host, port):
    _, writer = await asyncio.open_connection(host, port)
    return writer


def connect(host, port):
    return socket.create_connection((host, port), 5)


def returns_a_coroutine(host, port):
    return open_client(host, port)


def run(connection):
    """Close *connection* as the factory's caller does, after awaiting it if it is a coroutine."""

    async def main():
        writer = await connection
        writer.close()
        await writer.wait_closed()

    if inspect.iscoroutine(connection):
        asyncio.run(main())
    else:
        connection.close()


@pytest.fixture(params=[connect, open_client, returns_a_coroutine], ids=lambda factory: factory.__name__)
def factory(request):
    return request.param


def retrying(times, **options):
    return tenacity.Retrying(
        **{"retry": safedial.retry_if_transient, "wait": tenacity.wait_none()} | options,
        stop=tenacity.stop_after_attempt(times),
    )


class TestWrap:
    def test_is_never_connected_to_itself(self, factory, force, dead_port):
        fault = force(dead_port)
        with pytest.raises(ConnectionRefusedError):
            run(safedial.wrap(factory)(HOST, dead_port))
        assert fault.triggered == 3  # redial()
        faults.assert_server_can_bind(HOST, dead_port)

    @pytest.mark.parametrize("policy", [None, safedial.redial(1)], ids=["none", "redial"])
    def test_one_call(self, factory, policy, force, dead_port):
        fault = force(dead_port)
        with pytest.raises(ConnectionRefusedError):
            run(safedial.wrap(factory, policy=policy)(HOST, dead_port))
        assert fault.triggered == 1

    def test_retries_until_the_server_is_up(self, factory, caplog):
        caplog.set_level(logging.DEBUG, "safedial")
        with testing.Outage() as server:
            server.refuse_for(dials=2)
            run(safedial.wrap(factory, policy=retrying(5))(HOST, server.port))
        told = [record for record in caplog.records if factory.__name__ in record.getMessage()]
        assert [record.levelname for record in told] == ["DEBUG", "INFO", "DEBUG", "INFO", "INFO"]
        assert f"{HOST} port {server.port}: round 2 failed" in told[3].getMessage()
        assert "connected in round 3" in told[4].getMessage()

    def test_refused_is_not_retried_by_default(self, factory, refused_port):
        dials = []
        watched = intercepting(lambda sock, address, connect: dials.append(address))
        with watched, pytest.raises(ConnectionRefusedError) as caught:
            run(safedial.wrap(factory)(HOST, refused_port))
        assert dials == [(HOST, refused_port)]
        assert not hasattr(caught.value, "__notes__")

    def test_last_error_is_the_clients(self, refused_port):
        with pytest.raises(ClientError, match="could not connect") as caught:
            safedial.wrap(Client, policy=retrying(3))(HOST, refused_port)
        assert "after 3 rounds" in caught.value.__notes__[-1]
        assert caught.value.__notes__[-1].startswith("safedial: gave up on tests.clients.test_wrap.Client")

    def test_kernels_error_behind_the_clients_is_found(self, refused_port):
        dials = []
        factory = safedial.wrap(
            lambda: dials.append(Client(HOST, refused_port)), policy=retrying(3, before=lambda state: dials.append(0))
        )
        with pytest.raises(ClientError) as caught:
            factory()
        assert len(dials) == 3
        assert isinstance(caught.value.__context__, ConnectionRefusedError)

    def test_error_without_a_kernels_error_behind_it_is_not_retried(self):
        with testing.Outage() as server:
            calls = retrying(3)
            with pytest.raises(ClientError, match="denied") as caught:
                safedial.wrap(Client, policy=calls)(HOST, server.port, password="wrong")
        assert caught.value.__context__ is None

    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_exception_that_the_caller_handles_does_not_count(self, asynchronous, refused_port):
        """A reconnect in an except block: the old error is the context of the new one."""
        times = []

        def denied():
            times.append(1)
            raise ClientError("access denied")

        async def denied_async():
            denied()

        wrapped = safedial.wrap(denied_async if asynchronous else denied, policy=retrying(3))

        def reconnect():
            try:
                raise ConnectionResetError(errno.ECONNRESET, "gone")
            except ConnectionResetError:
                asyncio.run(wrapped()) if asynchronous else wrapped()

        with pytest.raises(ClientError, match="denied"):
            reconnect()
        assert len(times) == 1

    def test_exception_that_the_caller_handles_does_not_count_behind_a_cause(self):
        def denied():
            times.append(1)
            try:
                raise LookupError("no such user")
            except LookupError as error:
                cause = error
            raise ClientError("access denied") from cause

        def reconnect():
            try:
                raise ConnectionResetError(errno.ECONNRESET, "gone")
            except ConnectionResetError:
                safedial.wrap(denied, policy=retrying(3))()

        times = []
        with pytest.raises(ClientError) as caught:
            reconnect()
        assert len(times) == 1
        for error in (caught.value, caught.value.__cause__):
            assert isinstance(error.__context__, ConnectionResetError)

    def test_policy_sees_the_clients_error(self, refused_port):
        policy = retrying(4, retry=tenacity.retry_if_exception_type(ClientError))
        with pytest.raises(ClientError) as caught:
            safedial.wrap(Client, policy=policy)(HOST, refused_port, password="mute")
        assert "after 4 rounds" in caught.value.__notes__[-1]

    def test_async_policy_and_own_sleep(self, refused_port):
        async def sleep(seconds):
            slept.append(seconds)

        slept = []
        policy = tenacity.AsyncRetrying(
            retry=safedial.retry_if_transient,
            stop=tenacity.stop_after_attempt(3),
            wait=tenacity.wait_fixed(7),
            sleep=sleep,
        )
        with pytest.raises(ConnectionRefusedError):
            run(safedial.wrap(open_client, policy=policy)(HOST, refused_port))
        assert slept == [7, 7]

    def test_keeps_name_docstring_and_signature(self):
        wrapped = safedial.wrap(Client)
        assert (wrapped.__name__, wrapped.__doc__) == ("Client", Client.__doc__)
        assert inspect.signature(wrapped) == inspect.signature(Client)
        assert inspect.signature(safedial.wrap(functools.partial(connect, HOST))).parameters.keys() == {"port"}

    def test_cancelled_while_it_waits(self, refused_port):
        async def main():
            forever = retrying(100, wait=tenacity.wait_fixed(60))
            task = asyncio.create_task(safedial.wrap(open_client, policy=forever)(HOST, refused_port))
            await asyncio.sleep(0.05)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        asyncio.run(main())

    def test_interrupt_is_not_retried(self):
        calls = []

        def interrupted():
            calls.append(1)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            safedial.wrap(interrupted, policy=retrying(3))()
        assert len(calls) == 1

    @pytest.mark.parametrize(
        ("arguments", "error", "named"),
        [
            (("redis://",), TypeError, "factory"),
            ((connect, {"policy": 3}), TypeError, "policy"),
            ((connect, {"address": "db"}), TypeError, "address"),
            ((connect, {"address": ("db", 70000)}), ValueError, "address"),
        ],
    )
    def test_bad_arguments(self, arguments, error, named):
        factory, options = (*arguments, {})[:2]
        with pytest.raises(error, match=named):
            safedial.wrap(factory, **options)

    def test_bad_address_of_a_function(self, dead_port):
        with pytest.raises(ValueError, match="address"):
            safedial.wrap(connect, address=lambda host, port: (host, -1))(HOST, dead_port)


def past_the_hooks(host, port, made):
    """Return a socket connected to itself by the C method, as a C library does: no patch reaches it."""
    sock = made(socket.socket())
    sock.bind((host, port))
    import _socket

    _socket.socket.connect(sock, (host, port))
    return sock


class TestResult:
    """A self-connect that the guard did not see is found in the result of the factory."""

    @pytest.mark.parametrize("kept", ["sock", "_sock", "transport"])
    def test_is_checked_and_logged(self, kept, dead_port, caplog):
        class Connection:
            def __init__(self, sock):
                setattr(self, kept, sock)
                self.close = sock.close

        with pytest.raises(safedial.SelfConnectError, match=str(dead_port)):
            safedial.wrap(past_the_hooks, policy=None)(HOST, dead_port, lambda sock: sock)
        faults.assert_server_can_bind(HOST, dead_port)
        (record,) = [record for record in caplog.records if record.name == "safedial"]
        assert (record.levelname, str(dead_port) in record.getMessage()) == ("WARNING", True)
        factory = safedial.wrap(lambda: Connection(past_the_hooks(HOST, dead_port, lambda sock: sock)), policy=None)
        with pytest.raises(safedial.SelfConnectError):
            factory()
        faults.assert_server_can_bind(HOST, dead_port)

    @pytest.mark.parametrize("beside", [1, True, 0])
    def test_number_beside_a_socket_is_no_descriptor(self, beside, dead_port):
        factory = safedial.wrap(lambda: (beside, past_the_hooks(HOST, dead_port, lambda sock: sock)), policy=None)
        with pytest.raises(safedial.SelfConnectError):
            factory()
        faults.assert_server_can_bind(HOST, dead_port)

    def test_is_checked_in_asyncio(self, dead_port):
        class Connection:
            def __init__(self):
                self.sock = past_the_hooks(HOST, dead_port, lambda sock: sock)

            async def aclose(self):
                await asyncio.sleep(0)
                self.sock.close()

        async def factory():
            return Connection()

        with pytest.raises(safedial.SelfConnectError):
            asyncio.run(safedial.wrap(factory, policy=None)())
        faults.assert_server_can_bind(HOST, dead_port)

    def test_self_connect_is_reported_even_if_only_a_loop_can_close_it(self, dead_port):
        class Connection:
            def __init__(self):
                self.sock = past_the_hooks(HOST, dead_port, lambda sock: sock)
                made.append(self.sock)

            async def close(self):
                raise AssertionError("nobody awaits it")

        made = []
        with pytest.raises(safedial.SelfConnectError):
            safedial.wrap(Connection, policy=None)()
        gc.collect()  # it would warn of a coroutine that was never awaited
        made[0].close()
        faults.assert_server_can_bind(HOST, dead_port)

    @pytest.mark.parametrize("returned", [None, 7.5, "a pool", [], object(), (None, None), -1])
    def test_may_be_anything(self, returned):
        assert safedial.wrap(lambda: returned)() is returned

    def test_invented_attributes_are_not_read(self):
        class Database:
            """Like pymongo's: any attribute is a collection, and calling it is an error."""

            def __getattr__(self, name):
                raise AssertionError(f"{name} was read")

        database = Database()
        assert safedial.wrap(lambda: database)() is database


async def wait_for(dialing):
    return await dialing


async def wait_in_a_task(dialing):
    return await asyncio.create_task(dialing)


async def enter(dialing):
    async with dialing as connection:
        return connection


class Dialing:
    """Dials when it is awaited or entered, as `websockets.connect`; it can be exited only once."""

    def __init__(self, host, port):
        self.address = host, port
        self.name = f"to port {port}"
        self.writer = None

    def __await__(self):
        return self._dial().__await__()

    async def _dial(self):
        _, self.writer = await asyncio.open_connection(*self.address)
        return self.writer

    async def __aenter__(self):
        return await self._dial()

    async def __aexit__(self, *raised):
        self.writer.close()
        await self.writer.wait_closed()
        self.writer = None


def open_aiomysql(host, port):
    return aiomysql.connect(host=host, port=port, user="u")


MADE_SAFE = {
    "wrap": safedial.wrap,
    "guard": lambda factory: safedial.guard()(lambda *args: factory(*args)),  # guard() takes no class
}


class TestDialsLater:
    """Factories whose result must be awaited or entered for a connection."""

    @pytest.mark.parametrize("use", [wait_for, wait_in_a_task, enter])
    @pytest.mark.parametrize("factory", [Dialing, open_aiomysql])
    @pytest.mark.parametrize("safe", MADE_SAFE)
    def test_is_guarded_when_it_dials(self, safe, factory, use, force, dead_port):
        fault = force(dead_port)

        async def main():
            await use(MADE_SAFE[safe](factory)(HOST, dead_port))

        with pytest.raises((ConnectionRefusedError, pymysql.OperationalError)):
            asyncio.run(main())
        assert fault.triggered
        testing.assert_no_self_connects()
        faults.assert_server_can_bind(HOST, dead_port)

    @pytest.mark.parametrize("safe", MADE_SAFE)
    def test_is_entered_and_exited(self, safe):
        async def main(port):
            dialing = MADE_SAFE[safe](Dialing)(HOST, port)
            assert dialing.name == f"to port {port}"
            async with dialing as writer:
                assert writer.get_extra_info("peername") == (HOST, port)
            assert writer.is_closing()

        with testing.Outage() as server:
            asyncio.run(main(server.port))

    @pytest.mark.parametrize("begun", [True, False])
    @pytest.mark.parametrize("safe", MADE_SAFE)
    def test_is_cancelled(self, safe, begun):
        async def main(server):
            # A task of its own, as asyncio.gather() makes: cancelling calls throw() of the object itself.
            dialing = asyncio.create_task(MADE_SAFE[safe](open_aiomysql)(*server.address))
            if begun:
                await asyncio.sleep(0.01)
            dialing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialing

        def silent(connection):
            connection.recv(1)

        with testing.Outage(silent) as server:
            asyncio.run(main(server))
        gc.collect()  # as above

    def test_is_dialed_again_by_the_policy(self):
        async def main(server):
            dial = safedial.wrap(Dialing, policy=safedial.reconnect(30, 0.001, 0.002))
            server.refuse_for(dials=2)
            async with dial(*server.address) as writer:
                assert not writer.is_closing()
            server.refuse_for(dials=2)
            writer = await dial(*server.address)
            writer.close()
            await writer.wait_closed()

        with testing.Outage() as server:
            asyncio.run(main(server))

    def test_result_of_a_future_is_checked(self, force, dead_port):
        """Its task has begun outside of the guard."""
        force(dead_port)

        async def main():
            await safedial.wrap(lambda: asyncio.ensure_future(open_client(HOST, dead_port)), policy=None)()

        with pytest.raises(safedial.SelfConnectError):
            asyncio.run(main())
        faults.assert_server_can_bind(HOST, dead_port)

    @pytest.mark.parametrize("safe", MADE_SAFE)
    def test_may_be_closed_unused(self, safe):
        """No warning says that it was never awaited; a coroutine gives none either."""
        MADE_SAFE[safe](open_aiomysql)(HOST, 1).close()


def test_address_is_found_once_and_outside_the_policy(dead_port):
    calls = []

    def address(target):
        calls.append(target)
        return target

    policy = safedial.redial().copy(retry=tenacity.retry_always)
    connect = safedial.wrap(socket.create_connection, policy=policy, address=address)
    with pytest.raises(ConnectionRefusedError):
        connect((HOST, dead_port))
    assert calls == [(HOST, dead_port)]
    with pytest.raises(TypeError, match="address") as caught:
        safedial.wrap(print, policy=tenacity.Retrying(stop=tenacity.stop_after_attempt(2)), address=lambda: "db")()
    assert not hasattr(caught.value, "__notes__")


def test_object_that_can_only_be_entered_is_retried():
    factory = DialsWhenEntered(failures=2)

    async def main():
        async with safedial.wrap(factory, policy=retrying(5))() as value:
            return value

    assert asyncio.run(main()) is factory.entered[2]
    assert factory.left == factory.entered[2:]
