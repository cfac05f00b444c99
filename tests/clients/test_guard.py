"""The guard under other people's code: every way that Python connects, steered and unsteered, on the real kernel."""

import asyncio
import contextlib
import contextvars
import errno
import selectors
import socket
import ssl
import threading

import pytest

import safedial
from safedial import testing
from safedial._clients import patch
from safedial._tcp.selfconnect import RESET
from tests.support import faults

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def _nothing_patched_afterwards():
    before = vars(socket.socket).get("connect"), vars(socket.socket).get("connect_ex")
    yield
    assert (vars(socket.socket).get("connect"), vars(socket.socket).get("connect_ex")) == before
    assert not patch._layers


def blocking(host, port):
    return socket.create_connection((host, port))


def with_timeout(host, port):
    return socket.create_connection((host, port), timeout=5)


def by_name(host, port):
    sock = socket.socket()
    try:
        sock.connect(("localhost", port))
    except BaseException:
        sock.close()
        raise
    return sock


def connect_ex(host, port):
    with socket.socket() as sock:
        if code := sock.connect_ex((host, port)):
            raise OSError(code, "connect_ex")
        return sock.detach()


def non_blocking(host, port):
    with socket.socket() as sock, selectors.DefaultSelector() as selector:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect((host, port))
        selector.register(sock, selectors.EVENT_WRITE)
        assert selector.select(5)
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, "SO_ERROR")
        return sock.detach()


def over_tls(host, port):
    context = ssl.create_default_context()
    with context.wrap_socket(socket.socket(), server_hostname="db") as sock:
        sock.connect((host, port))
        return sock.detach()


async def asyncio_connection(host, port):
    _, writer = await asyncio.open_connection(host, port)
    kept = writer.get_extra_info("socket").dup()
    writer.close()
    await writer.wait_closed()
    return kept


def in_asyncio(host, port):
    return asyncio.run(asyncio_connection(host, port))


WAYS = [blocking, with_timeout, by_name, connect_ex, non_blocking, over_tls, in_asyncio]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
class TestEveryWay:
    def test_is_never_connected_to_itself(self, way, force, steering, dead_port):
        fault = force(dead_port)
        with safedial.guard(), pytest.raises(ConnectionRefusedError):
            way(HOST, dead_port)
        assert fault.triggered
        testing.assert_no_self_connects()
        faults.assert_server_can_bind(HOST, dead_port)

    def test_stays_refused(self, way, steering):
        with testing.refused_port() as port, safedial.guard(), pytest.raises(ConnectionRefusedError):
            way(HOST, port)


def test_socket_with_a_source_port_is_checked(steering, dead_port):
    """http.client binds to (source, 0), and bind() may draw any port. No client wants a self-connect."""
    with safedial.guard(), pytest.raises(safedial.SelfConnectError):
        socket.create_connection((HOST, dead_port), source_address=(HOST, dead_port))
    faults.assert_server_can_bind(HOST, dead_port)


class TestReach:
    """Only the context that entered the guard is guarded."""

    def test_ends_with_the_block(self, force, dead_port):
        with safedial.guard():
            pass
        force(dead_port)
        with contextlib.closing(blocking(HOST, dead_port)) as sock:
            assert safedial.is_self_connected(sock)

    def test_nests(self, force, dead_port):
        force(dead_port)
        with safedial.guard():
            with safedial.guard():
                pass
            with pytest.raises(safedial.SelfConnectError):
                blocking(HOST, dead_port)

    def test_one_guard_may_be_entered_again(self, force, dead_port):
        force(dead_port)
        one = safedial.guard()
        for _ in range(2):
            with one, one, pytest.raises(safedial.SelfConnectError):
                blocking(HOST, dead_port)

    def test_another_thread_is_outside(self, force, dead_port):
        force(dead_port)
        found = []

        def connect():
            with blocking(HOST, dead_port) as sock:
                found.append(safedial.is_self_connected(sock))

        with safedial.guard():
            # test_free_threading.py has threads that inherit the context.
            thread = threading.Thread(target=contextvars.Context().run, args=(connect,))
            thread.start()
            thread.join()
        assert found == [True]

    def test_another_task_is_outside(self, force, dead_port):
        force(dead_port)

        async def outside(inside, done):
            await inside.wait()
            sock = await asyncio_connection(HOST, dead_port)
            done.set()
            with sock:
                return safedial.is_self_connected(sock)

        async def both():
            inside, done = asyncio.Event(), asyncio.Event()
            task = asyncio.create_task(outside(inside, done))
            with safedial.guard():
                inside.set()
                await done.wait()
            return await task

        assert asyncio.run(both())

    def test_task_started_inside_is_inside(self, force, dead_port):
        force(dead_port)

        async def both():
            with safedial.guard():
                await asyncio.create_task(asyncio_connection(HOST, dead_port))

        with pytest.raises(ConnectionRefusedError):
            asyncio.run(both())

    def test_decorates_functions(self, force, dead_port):
        force(dead_port)
        with pytest.raises(safedial.SelfConnectError):
            safedial.guard()(blocking)(HOST, dead_port)
        with pytest.raises(ConnectionRefusedError):
            asyncio.run(safedial.guard()(asyncio_connection)(HOST, dead_port))

    def test_decorated_keeps_its_name(self):
        assert safedial.guard()(blocking).__name__ == "blocking"

    def test_generators_are_rejected(self):
        def connect():
            yield

        with pytest.raises(TypeError, match="generator function"):
            safedial.guard()(connect)

    def test_install_guards_all_threads(self, force, dead_port):
        force(dead_port)
        found = []

        def connect():
            try:
                blocking(HOST, dead_port).close()
            except OSError as error:
                found.append(type(error))

        safedial.install()
        try:
            safedial.install()
            thread = threading.Thread(target=connect)
            thread.start()
            thread.join()
        finally:
            safedial.uninstall()
        safedial.uninstall()
        assert found == [safedial.SelfConnectError]

    def test_uninstall_leaves_a_guard_that_is_entered(self, force, dead_port):
        force(dead_port)
        safedial.install()
        with safedial.guard():
            safedial.uninstall()
            with pytest.raises(safedial.SelfConnectError):
                blocking(HOST, dead_port)


class TestUnaffected:
    def test_healthy_connections(self, server, steering):
        with safedial.guard(), blocking(*server.getsockname()) as sock:
            assert sock.getpeername() == server.getsockname()
            assert sock.getblocking()

    def test_datagrams_and_unix_sockets(self, tmp_path):
        with safedial.guard():
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                sock.connect((HOST, 9))
            with (
                socket.socket(socket.AF_UNIX) as listening,
                socket.socket(socket.AF_UNIX) as sock,
            ):
                listening.bind(str(tmp_path / "socket"))
                listening.listen()
                sock.connect(str(tmp_path / "socket"))

    @pytest.mark.parametrize("address", [(), ("127.0.0.1",), ("127.0.0.1", "80"), "127.0.0.1", None, (None, 80)])
    def test_invalid_addresses(self, address):
        errors = []
        for context in (contextlib.nullcontext(), safedial.guard()):
            with context, socket.socket() as sock, pytest.raises(TypeError) as caught:
                sock.connect(address)
            errors.append(str(caught.value))
        assert errors[0] == errors[1]

    def test_unknown_name(self):
        for connect in (socket.socket.connect, socket.socket.connect_ex):
            with safedial.guard(), socket.socket() as sock, pytest.raises(socket.gaierror):
                connect(sock, ("no-such-name.invalid", 80))

    def test_second_connect_of_a_socket(self, server):
        """asyncio and others call connect() of a non-blocking socket again for the outcome."""
        with safedial.guard(), socket.socket() as sock:
            sock.setblocking(False)
            assert sock.connect_ex(server.getsockname()) == errno.EINPROGRESS
            assert sock.connect_ex(server.getsockname()) in (0, errno.EISCONN)

    def test_range_that_the_caller_narrowed(self, server):
        with testing.refused_port() as own, safedial.guard(), socket.socket() as sock:
            sock.setsockopt(*faults.option(own, own))
            with pytest.raises(safedial.PortsExhaustedError):
                sock.connect(server.getsockname())


class TestErrors:
    def test_names_host_and_port(self, force, dead_port, caplog):
        force(dead_port)
        with safedial.guard(), pytest.raises(safedial.SelfConnectError, match=f"{HOST} port {dead_port}") as caught:
            blocking(HOST, dead_port)
        assert (caught.value.errno, caught.value.port) == (errno.ECONNREFUSED, dead_port)
        assert [record.levelname for record in caplog.records] == ["WARNING"]

    @pytest.mark.parametrize("way", [blocking, by_name, with_timeout, non_blocking])
    def test_exhausted_ports_raise_ports_exhausted_error(self, way, server, steering):
        none_free = pytest.raises(safedial.PortsExhaustedError, match="no local port is free")
        with testing.ports_exhausted(server.getsockname()[1]), safedial.guard(), none_free:
            way(*server.getsockname())

    def test_guard_and_dialer_log_once_each(self, force, dead_port, caplog):
        force(dead_port)
        with safedial.guard(), pytest.raises(safedial.SelfConnectError):
            safedial.safe_connect((HOST, dead_port), policy=None)
        assert len(caplog.records) == 2  # the guard's, and the dial's own


class TestOtherPatches:
    """Other patches of connect(), above the guard's or below it, in any order: nothing loops."""

    @pytest.mark.parametrize("order", ["below", "above", "above, removed late"])
    def test_works_together(self, order, dead_port, monkeypatch):
        seen = []

        def patch():
            below = socket.socket.connect

            def connect(sock, address):
                seen.append(address)
                return below(sock, address)

            monkeypatch.setattr(socket.socket, "connect", connect)

        if order == "below":
            patch()
        with safedial.guard():
            if order != "below":
                patch()
            with pytest.raises(safedial.SelfConnectError):
                faults.dial_itself(dead_port)
            if order == "above":
                monkeypatch.undo()
        assert seen == [(HOST, dead_port)]
        with safedial.guard(), pytest.raises(safedial.SelfConnectError):
            faults.dial_itself(dead_port)
        monkeypatch.undo()
        with faults.dial_itself(dead_port) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if order == "above, removed late":
            del socket.socket.connect  # that patch restored our method, which does nothing by now
