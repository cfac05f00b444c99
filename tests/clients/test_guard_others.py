"""The guard with real libraries that replace, wrap or reimplement sockets, on the real kernel."""

import asyncio
import contextlib
import socket
import ssl
import warnings

import anyio
import pytest
import pytest_socket
import socks
import trio
import uvloop

import safedial
from safedial import testing
from safedial._clients import patch
from safedial._tcp import steering
from safedial._tcp.selfconnect import RESET
from safedial.testing.run import error_chain
from tests.support import faults, namespace, web
from tests.support.proxies import socks5

HOST = "127.0.0.1"
refused = pytest.raises(ConnectionRefusedError)


@pytest.fixture(autouse=True)
def _nothing_patched_afterwards():
    before = dict(vars(socket.socket)), socket.socket, socket.getaddrinfo
    yield
    assert (dict(vars(socket.socket)), socket.socket, socket.getaddrinfo) == before
    assert not patch._layers


def assert_self_connect_behind(error):
    assert any(isinstance(each, safedial.SelfConnectError) for each in error_chain(error)), repr(error)


# --- trio and anyio --------------------------------------------------------------------------------------


async def trio_stream(host, port):
    async with await trio.open_tcp_stream(host, port) as stream:
        await stream.send_all(b"hello")
        return bytes(await stream.receive_some())


async def trio_socket(host, port):
    with trio.socket.socket() as sock:
        await sock.connect((host, port))
        await sock.send(b"hello")
        return await sock.recv(9)


async def anyio_stream(host, port):
    async with await anyio.connect_tcp(host, port) as stream:
        await stream.send(b"hello")
        return await stream.receive()


def run_trio(dial):
    return lambda host, port: trio.run(safedial.guard()(dial), host, port)


def run_anyio(backend):
    return lambda host, port: anyio.run(safedial.guard()(anyio_stream), host, port, backend=backend)


LOOPS = {
    "trio.open_tcp_stream": run_trio(trio_stream),
    "trio.socket": run_trio(trio_socket),
    "anyio on asyncio": run_anyio("asyncio"),
    "anyio on trio": run_anyio("trio"),
}


@pytest.mark.parametrize("dial", LOOPS.values(), ids=LOOPS)
class TestTrioAndAnyio:
    def test_is_never_connected_to_itself(self, dial, force, steering, dead_port):
        fault = force(dead_port)
        with pytest.raises(OSError) as caught:  # noqa: PT011  # trio's and anyio's own error, without an errno
            dial(HOST, dead_port)
        assert fault.triggered
        assert_self_connect_behind(caught.value)
        testing.assert_no_self_connects()
        faults.assert_server_can_bind(HOST, dead_port)

    def test_works(self, dial, steering):
        with testing.Outage() as server:
            assert dial(*server.address) == b"hello"


def test_trio_task_started_inside_is_inside_and_another_is_not(force, dead_port):
    force(dead_port)
    found = {}

    async def dial(name):
        try:
            found[name] = await trio_socket(HOST, dead_port)
        except OSError as error:
            found[name] = type(error)

    async def main():
        entered, done = trio.Event(), trio.Event()

        async def outside():
            await entered.wait()
            await dial("outside")
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(outside)
            with safedial.guard():
                entered.set()
                async with trio.open_nursery() as inner:
                    inner.start_soon(dial, "inside")
                await done.wait()

    trio.run(main)
    assert found["inside"] is safedial.SelfConnectError
    assert found["outside"] == b"hello"  # its own bytes


# --- TLS -------------------------------------------------------------------------------------------------


def tls_before(host, port):
    """Wrap first, then connect: connect() makes the handshake."""
    with web.client_context().wrap_socket(socket.socket(), server_hostname="localhost") as sock:
        sock.connect((host, port))
        return sock.version()


def tls_connect_ex(host, port):
    with web.client_context().wrap_socket(socket.socket(), server_hostname="localhost") as sock:
        if code := sock.connect_ex((host, port)):
            raise OSError(code, "connect_ex")
        return sock.version()


def tls_after(host, port):
    with (
        socket.create_connection((host, port)) as plain,
        web.client_context().wrap_socket(plain, server_hostname="localhost") as sock,
    ):
        return sock.version()


def tls_asyncio(host, port):
    async def dial():
        _, writer = await asyncio.open_connection(host, port, ssl=web.client_context(), server_hostname="localhost")
        version = writer.get_extra_info("ssl_object").version()
        writer.close()
        with contextlib.suppress(ssl.SSLError):  # the server closed without close_notify
            await writer.wait_closed()
        return version

    return asyncio.run(dial())


@pytest.mark.parametrize("dial", [tls_before, tls_connect_ex, tls_after, tls_asyncio], ids=lambda dial: dial.__name__)
class TestTls:
    def test_is_never_connected_to_itself(self, dial, force, steering, dead_port):
        fault = force(dead_port)
        with safedial.guard(), refused:
            dial(HOST, dead_port)
        assert fault.triggered
        testing.assert_no_self_connects()
        faults.assert_server_can_bind(HOST, dead_port)

    def test_works(self, dial, steering):
        with web.serve("https") as server, safedial.guard():
            assert dial(server.host, server.port).startswith("TLS")


# --- PySocks ---------------------------------------------------------------------------------------------


def socks_socket(proxy, target):
    sock = socks.socksocket()
    sock.set_proxy(socks.SOCKS5, *proxy)
    try:
        sock.connect(target)
    except BaseException:
        sock.close()
        raise
    return sock


def socks_connection(proxy, target):
    host, port = proxy
    return socks.create_connection(target, 5, proxy_type=socks.SOCKS5, proxy_addr=host, proxy_port=port)


@pytest.mark.parametrize("dial", [socks_socket, socks_connection], ids=lambda dial: dial.__name__)
class TestPySocks:
    """The client dials the proxy."""

    def test_dead_proxy_is_refused_with_the_clients_own_error(self, dial, force, steering, dead_port):
        with testing.refused_port() as port, pytest.raises(socks.ProxyConnectionError) as unguarded:
            dial((HOST, port), (HOST, 9))
        fault = force(dead_port)
        with safedial.guard(), pytest.raises(socks.ProxyConnectionError) as caught:
            dial((HOST, dead_port), (HOST, 9))
        assert type(caught.value) is type(unguarded.value)
        assert isinstance(caught.value.socket_err, safedial.SelfConnectError)
        assert fault.triggered
        testing.assert_no_self_connects()
        faults.assert_server_can_bind(HOST, dead_port)

    def test_works(self, dial, steering):
        with (
            testing.Outage() as server,
            testing.Outage(socks5) as proxy,
            safedial.guard(),
            dial(proxy.address, server.address) as sock,
        ):
            sock.sendall(b"hello")
            assert sock.recv(9) == b"hello"
            assert socket.socket.getpeername(sock) == proxy.address


# --- uvloop ----------------------------------------------------------------------------------------------


async def uvloop_connection(host, port):
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, port)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    transport.abort()


async def uvloop_sock_connect(host, port):
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, port))


def count_self_connects(dial, port):
    """Count the self-connects in twenty dials. No server listens; the kernel draws the port in every other dial."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        connected = 0
        for _ in range(20):
            with contextlib.suppress(ConnectionRefusedError):
                runner.run(dial(HOST, port))
                connected += 1
        return connected


def dial_by_uvloop():
    port = 40000
    address = safedial.wrap(uvloop_connection, address=lambda host, port: (host, port))

    async def held(host, port):
        with safedial.hold((host, port)):
            await uvloop_connection(host, port)

    ways = {"guard": safedial.guard()(uvloop_connection), "wrap": address, "hold": held}
    return {name: count_self_connects(dial, port) for name, dial in ways.items()}


def test_uvloop_dials_in_c_past_the_guard_but_not_onto_a_held_port():
    namespace.require()
    counts = namespace.call(dial_by_uvloop, port_range=(40000, 40001))
    assert counts["guard"], "guard() reaches uvloop now: say so in its docstring, and in docs/clients.md"
    assert (counts["wrap"], counts["hold"]) == (0, 0)


def test_uvloops_sock_connect_is_guarded(force, steering, dead_port):
    fault = force(dead_port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, refused:
        runner.run(safedial.guard()(uvloop_sock_connect)(HOST, dead_port))
    assert fault.triggered
    faults.assert_server_can_bind(HOST, dead_port)


# --- gevent ----------------------------------------------------------------------------------------------


def dial_by_gevent(steerable):
    """Runs in a child process, because gevent patches the whole process."""
    from gevent import monkey

    monkey.patch_all()
    import threading

    import gevent

    steering._steerable = steerable
    before = socket.socket.connect, socket.socket.connect_ex
    gevent.get_hub().exception_stream = None  # errors of greenlets are expected here

    def dial(port):
        try:
            with socket.create_connection((HOST, port), timeout=5) as sock:
                met = "itself" if safedial.is_self_connected(sock) else "a server"
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                return met
        except OSError as error:
            return type(error).__name__
        finally:
            faults.assert_server_can_bind(HOST, port)

    def connect_ex(port):
        with socket.socket() as sock:
            return sock.connect_ex((HOST, port))

    def in_thread(port):
        met = []
        thread = threading.Thread(target=lambda: met.append(dial(port)))
        thread.start()
        thread.join()
        return met[0]

    def guarded(dial, port):
        with safedial.guard():
            return dial(port)

    found = {}
    port = testing.dead_port()
    with testing.self_connect(port) as fault:
        found["nothing"] = dial(port)
        found["guard"] = guarded(dial, port)
        found["guard, connect_ex"] = guarded(connect_ex, port)
        found["guard in a greenlet"] = gevent.spawn(guarded, dial, port).get()
        with safedial.guard():
            found["greenlet started in the guard"] = gevent.spawn(dial, port).get()
        found["wrap"] = safedial.wrap(dial)(port)
        safedial.install()
        found["install"] = gevent.spawn(dial, port).get()
        found["install, thread"] = in_thread(port)
        found["install, thread pool"] = gevent.get_hub().threadpool.apply(dial, (port,))
        safedial.uninstall()
        assert fault.triggered == len(found)
    assert (socket.socket.connect, socket.socket.connect_ex) == before
    testing.assert_no_self_connects()

    with testing.refused_port() as port, safedial.guard(), contextlib.suppress(ConnectionRefusedError):
        socket.create_connection((HOST, port))
    with testing.Outage() as server, safedial.guard(), socket.create_connection(server.address, 5) as sock:
        sock.sendall(b"hello")
        found["server"] = sock.recv(9)
    with faults.full_listener() as full, safedial.guard():
        try:
            socket.create_connection(full.getsockname(), timeout=0.1)
        except TimeoutError:
            found["full"] = "timed out"
    return found


def test_gevent(steering):
    assert namespace.call_outside(dial_by_gevent, steering) == {
        "nothing": "itself",
        "guard": "SelfConnectError",
        "guard, connect_ex": 111,
        "guard in a greenlet": "SelfConnectError",
        # A greenlet starts with an empty context: use install(), or guard() inside it.
        "greenlet started in the guard": "itself",
        "wrap": "SelfConnectError",
        "install": "SelfConnectError",
        "install, thread": "SelfConnectError",
        "install, thread pool": "SelfConnectError",
        "server": b"hello",
        "full": "timed out",
    }


def patch_gevent_after_install(port):
    safedial.install()
    from gevent import monkey

    monkey.patch_all()
    try:
        faults.dial_itself(port).close()
    except OSError as error:
        found = type(error).__name__
    safedial.uninstall()
    return found, hasattr(socket.socket.connect, "_patch")


def test_gevent_that_comes_after_install_is_guarded_until_uninstall():
    found, still_replaced = namespace.call_outside(patch_gevent_after_install, testing.dead_port())
    assert found == "SelfConnectError"
    assert not still_replaced


# --- pytest-socket ---------------------------------------------------------------------------------------


@pytest.fixture
def restricted():
    """Yield pytest-socket. Afterwards do as its plugin does after each test."""
    yield pytest_socket
    pytest_socket._remove_restrictions()
    if "connect" in vars(socket.socket):
        del socket.socket.connect  # it was inherited before


def assert_blocked(error, call, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns, too
        with pytest.raises(error):
            call(*args)


class TestPytestSocket:
    def test_hosts_restricted_then_guarded(self, restricted, dead_port, steering):
        restricted.socket_allow_hosts([HOST])
        with safedial.guard():
            with pytest.raises(safedial.SelfConnectError):
                faults.dial_itself(dead_port)
            with testing.Outage() as server:
                socket.create_connection(server.address).close()
            assert_blocked(pytest_socket.SocketConnectBlockedError, socket.create_connection, ("192.0.2.1", 80))
        faults.assert_server_can_bind(HOST, dead_port)

    def test_guarded_then_hosts_restricted(self, restricted, dead_port):
        """pytest-socket calls the connect that it found when it was imported, past the guard. Nothing loops."""
        with safedial.guard():
            restricted.socket_allow_hosts([HOST])
            with faults.dial_itself(dead_port) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            assert_blocked(pytest_socket.SocketConnectBlockedError, socket.create_connection, ("192.0.2.1", 80))
            restricted._remove_restrictions()
        with safedial.guard(), pytest.raises(safedial.SelfConnectError):
            faults.dial_itself(dead_port)

    @pytest.mark.parametrize("order", ["disabled first", "guarded first"])
    def test_disabled(self, restricted, dead_port, order):
        with contextlib.ExitStack() as stack:
            if order == "guarded first":
                stack.enter_context(safedial.guard())
            restricted.disable_socket()
            if order == "disabled first":
                stack.enter_context(safedial.guard())
            assert_blocked(pytest_socket.SocketBlockedError, socket.socket)
            restricted.enable_socket()
        with safedial.guard(), pytest.raises(safedial.SelfConnectError):
            faults.dial_itself(dead_port)

    @pytest.mark.storm
    def test_its_plugin_beside_ours(self, pytester):
        pytester.makepyfile(
            """
            import socket
            import pytest
            import safedial

            HOST = "127.0.0.1"

            @pytest.fixture
            def guarded():
                with safedial.guard():
                    yield

            def dial(port):
                return socket.create_connection((HOST, port), 5)

            @pytest.mark.parametrize("turn", range(2))
            @pytest.mark.allow_hosts([HOST])
            def test_allowed(self_connect, dead_port, guarded, turn):
                fault = self_connect(dead_port)
                with pytest.raises(safedial.SelfConnectError):
                    dial(dead_port)
                assert fault.triggered == 1

            @pytest.mark.parametrize("turn", range(2))
            @pytest.mark.enable_socket
            def test_enabled(self_connect, dead_port, guarded, turn):
                self_connect(dead_port)
                with pytest.raises(safedial.SelfConnectError):
                    dial(dead_port)

            @pytest.mark.enable_socket
            def test_unguarded(self_connect, dead_port):
                self_connect(dead_port)
                with dial(dead_port) as sock:
                    assert safedial.is_self_connected(sock)

            @pytest.mark.filterwarnings("ignore:A test tried")
            @pytest.mark.allow_hosts(["192.0.2.1"])
            def test_not_allowed(guarded):
                with pytest.raises(RuntimeError, match="A test tried"):
                    dial(9)

            @pytest.mark.filterwarnings("ignore:A test tried")
            def test_disabled(guarded):
                with pytest.raises(RuntimeError, match="A test tried"):
                    dial(9)
            """
        )
        options = ["--disable-socket", "-W", "error", "-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:randomly"]
        pytester.runpytest_subprocess(*options).assert_outcomes(passed=7)
