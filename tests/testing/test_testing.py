"""The faults of safedial.testing, on the kernel: what they do to whom, and that nothing of them is left."""

import asyncio
import contextlib
import errno
import http.client
import os
import selectors
import signal
import socket
import ssl
import sys
import threading
import time
import unittest

import pytest
import redis
import tenacity
import trustme

import safedial
from safedial import testing
from safedial._tcp import steering
from safedial._tcp.selfconnect import RESET
from safedial.testing import run, servers
from safedial.testing.holders import holders
from tests.support import faces, faults

HOSTS = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"]


@pytest.fixture(params=["as the kernel can", "bind"])
def means(request, monkeypatch):
    """Both ways of making a self-connect: Linux's, and the one for other systems and older kernels."""
    if request.param == "bind":
        monkeypatch.setattr(steering, "ON_LINUX", False)
    return request.param


@pytest.fixture(autouse=True)
def _nothing_stays_patched():
    yield
    assert "connect" not in vars(socket.socket)
    assert "connect_ex" not in vars(socket.socket)


def ends_of(sock):
    """Both ends of a connection, which is reset: a TIME_WAIT would be in the next test's way."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    return faces.Ends(sock.getsockname(), sock.getpeername())


def with_connect_ex(host, port):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        code = sock.connect_ex((host, port))
        if code:
            raise OSError(code, "connect_ex")
        return ends_of(sock)


def with_a_selector(host, port):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock, selectors.DefaultSelector() as loop:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect((host, port))
        loop.register(sock, selectors.EVENT_WRITE)
        loop.select(5)
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, "SO_ERROR")
        return ends_of(sock)


def with_create_connection(host, port):
    with socket.create_connection((host, port), 5) as sock:
        return ends_of(sock)


async def _asyncio(host, port):
    _, writer = await asyncio.open_connection(host, port)
    ends = ends_of(writer.get_extra_info("socket"))
    writer.transport.abort()
    await asyncio.sleep(0)
    return ends


CLIENTS = {
    "create_connection": with_create_connection,
    "connect_ex": with_connect_ex,
    "selector": with_a_selector,
    "asyncio": lambda host, port: faces.run(_asyncio(host, port)),
}


@pytest.fixture(params=CLIENTS)
def client(request):
    """Clients that know nothing of safedial."""
    return CLIENTS[request.param]


class TestSelfConnect:
    @pytest.mark.parametrize("host", HOSTS)
    def test_is_real(self, client, means, host):
        port = testing.dead_port("::1" if host in ("::1", "::") else "127.0.0.1")
        with testing.self_connect(port, times=1) as fault:
            ends = client(host, port)
            assert ends.local == ends.peer
            assert (fault.triggered, fault.remaining) == (1, 0)
            assert fault.means == ("bind" if means == "bind" or host == "127.0.0.2" else "IP_LOCAL_PORT_RANGE")

    def test_times_are_counted_and_then_it_is_over(self, dial, dead_port, means):
        with testing.self_connect(dead_port, times=2) as fault:
            for _ in range(2):
                with pytest.raises(safedial.SelfConnectError):
                    dial("127.0.0.1", dead_port, policy=None)
            # Held, as where steering is off by chance it would meet itself once more.
            with safedial.hold(("127.0.0.1", dead_port)), pytest.raises(ConnectionRefusedError) as caught:
                dial("127.0.0.1", dead_port, policy=None)
            assert type(caught.value) is not safedial.SelfConnectError
            assert fault.triggered == 2

    def test_other_ports_and_chosen_ports_are_left_alone(self, server, means):
        with testing.self_connect(testing.dead_port()) as fault:
            socket.create_connection(server.getsockname()).close()
            with pytest.raises(ConnectionRefusedError):  # bind() chooses a port here
                socket.create_connection(("127.0.0.1", fault.port), 5, ("127.0.0.1", 0))
        assert fault.triggered == 0

    def test_where_a_server_listens_the_kernel_connects_to_that(self, client, server, means):
        host, port = server.getsockname()
        with testing.self_connect(port) as fault:
            assert client(host, port).local[1] != port
        assert fault.triggered == 0

    def test_port_outside_of_the_range_is_made_by_bind(self):
        port = faults.port_never_drawn()
        with testing.self_connect(port) as fault:
            ends = with_create_connection("127.0.0.1", port)
        assert ends.local == ends.peer
        assert fault.means == "bind"

    def test_reaches_tls_and_threads(self, dead_port):
        """A client behind TLS reads its own hello."""
        context = ssl.create_default_context()
        trustme.CA().configure_trust(context)
        said = []

        def client():
            with socket.socket() as plain, context.wrap_socket(plain, server_hostname="localhost") as sock:
                try:
                    sock.connect(("127.0.0.1", dead_port))
                except ssl.SSLError as error:
                    said.append(error.reason)

        with testing.self_connect(dead_port):
            thread = threading.Thread(target=client)
            thread.start()
            thread.join()
        assert said == ["UNEXPECTED_MESSAGE"]

    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            ((65536,), ValueError, "port"),
            (("x",), TypeError, "port"),
            ((80, 0), ValueError, "times"),
            ((80, 1.5), TypeError, "times"),
            ((80, True), TypeError, "times"),
        ],
    )
    def test_bad_arguments(self, arguments, error, words):
        with pytest.raises(error, match=words), testing.self_connect(*arguments):
            pass


class TestAddressNotAvailable:
    def test_fails_and_then_works_again(self, client, server, means):
        with testing.address_not_available(times=2) as fault:
            for _ in range(2):
                with pytest.raises(OSError, match=r"address|refused|SO_ERROR|connect_ex|Connect") as caught:
                    client(*server.getsockname())
                assert caught.value.errno == errno.EADDRNOTAVAIL
            client(*server.getsockname())
        assert (fault.triggered, fault.remaining) == (2, 0)
        assert fault.means == ("simulated" if means == "bind" else "IP_LOCAL_PORT_RANGE")

    def test_a_client_may_ask_the_same_socket_again(self, server):
        with socket.socket() as sock, testing.address_not_available():
            with pytest.raises(OSError, match="assign"):
                sock.connect(server.getsockname())
            sock.connect(server.getsockname())

    def test_all_the_same_through_every_face(self, dial, server, steer, means):
        with testing.ports_exhausted(server.getsockname()[1]), pytest.raises(safedial.PortsExhaustedError):
            dial(*server.getsockname(), policy=None, steer=steer)
        dial(*server.getsockname(), policy=None, steer=steer)

    def test_other_destinations_notice_nothing(self, server):
        with testing.ports_exhausted(testing.dead_port()):
            socket.create_connection(server.getsockname()).close()


class TestPorts:
    def test_refused_for_certain(self, client):
        with testing.refused_port() as port:
            for _ in range(100):
                with pytest.raises(OSError, match=r"address|refused|SO_ERROR|connect_ex|Connect") as caught:
                    client("127.0.0.1", port)
                assert caught.value.errno == errno.ECONNREFUSED

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_of_the_kind_at_risk(self, host):
        low, high = steering.read_range()
        for port in [testing.dead_port(host)]:
            assert low <= port <= high
            assert (port - low) % 2 == 0
        with testing.refused_port(host) as port:
            assert low <= port <= high
            assert (port - low) % 2 == 0

    def test_each_call_gives_another_though_some_are_taken(self):
        with contextlib.ExitStack() as stack:
            found = [testing.dead_port()]
            for _ in range(9):
                found.append(stack.enter_context(testing.refused_port()))
                found.append(testing.dead_port())
            assert len(set(found)) == len(found)

    def test_a_port_that_the_other_family_uses_is_not_dead(self):
        with contextlib.ExitStack() as stack:
            high = steering.read_range().high
            taken = testing.dead_port()
            for port in range(taken + 2, min(high, taken + 200), 2):
                sock = stack.enter_context(socket.socket())
                with contextlib.suppress(OSError):
                    sock.bind(("127.0.0.1", port))
            assert not taken < testing.dead_port("::1") < taken + 200

    def test_no_address_of_this_host(self):
        with pytest.raises(OSError, match="assign"):
            testing.dead_port("192.0.2.1")


class TestPatching:
    def test_faults_nest_and_come_in_any_order(self, server, dead_port):
        with contextlib.ExitStack() as stack:
            one = stack.enter_context(testing.self_connect(dead_port, times=1))
            two = testing.address_not_available(dead_port, times=1)
            other = two.__enter__()
            with pytest.raises(OSError, match="assign"):
                with_create_connection("127.0.0.1", dead_port)
            ends = with_create_connection("127.0.0.1", dead_port)
            assert ends.local == ends.peer
            assert (one.triggered, other.triggered) == (1, 1)
            stack.close()
            assert "connect" in vars(socket.socket)
            two.__exit__(None, None, None)

    def test_a_patch_of_anothers_below_comes_back(self, monkeypatch, server):
        """As pytest-socket does it."""
        calls = []

        def guarded(self, address):
            calls.append(address)
            return super(socket.socket, self).connect(address)

        monkeypatch.setattr(socket.socket, "connect", guarded, raising=False)
        with testing.self_connect(testing.dead_port()):
            socket.create_connection(server.getsockname()).close()
        assert vars(socket.socket)["connect"] is guarded
        assert calls == [server.getsockname()]
        monkeypatch.undo()

    def test_a_patch_on_top_stays_and_ours_is_inert(self, server):
        with contextlib.ExitStack() as stack:
            stack.enter_context(testing.self_connect(testing.dead_port()))
            ours = socket.socket.connect
            socket.socket.connect = lambda self, address: ours(self, address)
        try:
            with testing.self_connect(testing.dead_port()) as fault:
                ends = with_create_connection("127.0.0.1", fault.port)
                assert ends.local == ends.peer
                assert fault.triggered == 1
            socket.create_connection(server.getsockname()).close()
        finally:
            del socket.socket.connect

    def test_a_name_that_cannot_be_resolved_is_raised_by_connect_ex_too(self):
        with testing.self_connect(testing.dead_port()), socket.socket() as sock, pytest.raises(socket.gaierror):
            sock.connect_ex(("no.such.invalid", 80))

    def test_other_sockets_pass(self, tmp_path):
        with testing.self_connect(testing.dead_port()) as fault:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
                datagram.connect(("127.0.0.1", fault.port))
            with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as local:
                server.bind(str(tmp_path / "s"))
                server.listen()
                local.connect(str(tmp_path / "s"))
            with socket.socket() as sock, pytest.raises(TypeError):
                sock.connect("127.0.0.1")
        assert fault.triggered == 0


class TestScan:
    def test_finds_any_socket_of_the_process(self, dead_port):
        testing.assert_no_self_connects()
        with testing.self_connect(dead_port), socket.socket() as sock:
            sock.connect(("127.0.0.1", dead_port))
            with pytest.raises(AssertionError, match=rf"connected to itself: .* on 127.0.0.1 port {dead_port}"):
                testing.assert_no_self_connects()
            ends_of(sock)
        testing.assert_no_self_connects()

    def test_leaves_the_mode_of_what_it_finds(self, dead_port):
        with testing.self_connect(dead_port), socket.socket() as sock:
            sock.connect(("127.0.0.1", dead_port))
            socket.setdefaulttimeout(5)
            try:
                with pytest.raises(AssertionError):
                    testing.assert_no_self_connects()
            finally:
                socket.setdefaulttimeout(None)
            assert os.get_blocking(sock.fileno())
            ends_of(sock)


def with_a_socket(host, port):
    return socket.create_connection((host, port))


def redis_connection(host, port):
    connection = redis.Connection(host, port, redis_connect_func=lambda connection: None)  # no handshake
    connection.connect()
    return connection


def http_connection(host, port):
    connection = http.client.HTTPConnection(host, port)
    connection.connect()
    return connection


class TestIsSelfConnected:
    @pytest.mark.parametrize(
        "connect", [lambda *address: socket.create_connection(address), http_connection, redis_connection]
    )
    def test_in_what_a_client_returned(self, connect, dead_port, server):
        with testing.self_connect(dead_port):
            connection = connect("127.0.0.1", dead_port)
            assert testing.is_self_connected(connection)
            getattr(connection, "disconnect", getattr(connection, "close", None))()
        connection = connect(*server.getsockname())
        assert not testing.is_self_connected(connection)
        getattr(connection, "disconnect", getattr(connection, "close", None))()

    def test_in_streams_and_transports(self, dead_port):
        async def main():
            with testing.self_connect(dead_port):
                pair = await asyncio.open_connection("127.0.0.1", dead_port)
            assert testing.is_self_connected(pair)
            assert testing.is_self_connected(pair[1])
            assert testing.is_self_connected(pair[1].transport)
            pair[1].transport.abort()
            await asyncio.sleep(0)

        faces.run(main())

    @pytest.mark.parametrize("thing", [None, "redis://", socket, socket.socket, (), {}], ids=repr)
    def test_where_there_is_no_socket(self, thing):
        with pytest.raises(TypeError, match="connection: no socket found"):
            testing.is_self_connected(thing)


def ask(server, words=b"hello"):
    # From a port that bind() draws, of the other parity: connect() may draw the server's own while it is down.
    with socket.create_connection(server.address, 5, (server.host, 0)) as sock:
        sock.sendall(words)
        return sock.recv(100)


class TestOutage:
    def test_stops_and_starts_on_its_port(self):
        with testing.Outage() as server:
            port = server.port
            for end in (server.stop, server.kill):
                assert ask(server) == b"hello"
                end()
                with pytest.raises(ConnectionRefusedError):
                    ask(server)
                end()  # twice is fine
                assert server.start().binds == 1
                assert (server.port, server.state) == (port, "up")
            assert server.start() is server.started  # up already
        with pytest.raises(ConnectionRefusedError):
            ask(server)

    def test_stop_closes_and_kill_resets(self):
        with testing.Outage() as server:
            with socket.create_connection(server.address) as sock:
                server.stop()
                assert sock.recv(1) == b""
            server.start()
            with socket.create_connection(server.address) as sock:
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
                server.kill()
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_freezes_and_thaws(self, host):
        with testing.Outage(host=host) as server:
            server.freeze()
            server.freeze()  # twice is fine
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    socket.create_connection(server.address, 0.05)
            server.start()
            assert ask(server) == b"hello"
            server.freeze()
            server.kill()
            with pytest.raises(RuntimeError, match="down"):
                server.freeze()

    def test_refuses_for_some_dials(self, client):
        with testing.Outage(port=faults.port_never_drawn()) as server:
            server.refuse_for(attempts=3)
            for _ in range(3):
                with pytest.raises(OSError, match=r"refused|SO_ERROR|connect_ex|Connect") as caught:
                    client(*server.address)
                assert caught.value.errno == errno.ECONNREFUSED
            client(*server.address)
            assert server.state == "up"

    def test_refuses_for_some_time(self, dial):
        with testing.Outage() as server:
            server.refuse_for(seconds=3600)
            with pytest.raises(ConnectionRefusedError):
                ask(server)
            server.start()
            server.refuse_for(seconds=0.1)
            dial(*server.address, policy=safedial.reconnect(30, 0.01, 0.05))
            server.refuse_for(seconds=3600)  # and its timer goes with it

    def test_a_timer_that_fires_during_a_start(self):
        with testing.Outage() as server:
            for turn in range(200):
                server.refuse_for(seconds=0.0005 if turn % 2 else 0)
                server.start()
            assert ask(server) == b"hello"

    @pytest.mark.parametrize("how", ["stop", "kill"])
    def test_handlers_that_do_not_end_by_themselves(self, how):
        over = threading.Event()
        blocks = [lambda connection: over.wait(60), lambda connection: connection.sendall(bytes(10**8))]
        for handler in blocks:
            with testing.Outage(handler) as server, socket.create_connection(server.address, 10) as sock:
                sock.recv(1) if handler is blocks[1] else time.sleep(0.05)
                getattr(server, how)()
                with contextlib.suppress(ConnectionResetError):
                    while sock.recv(2**20):
                        pass
            over.set()

    def test_a_handler_may_end_its_own_server(self):
        def handler(connection):
            connection.recv(1)
            server.kill()

        with testing.Outage(handler) as server, socket.create_connection(server.address, 10) as sock:
            sock.sendall(b"x")
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""

    def test_its_own_dials_meet_no_fault(self):
        with testing.Outage() as server, testing.address_not_available(server.port) as fault:
            server.freeze()
            assert (fault.triggered, server.state) == (0, "frozen")

    def test_a_backlog_that_cannot_be_filled(self, monkeypatch):
        monkeypatch.setattr(servers, "_MOST", 0)
        with testing.Outage() as server:
            with pytest.raises(OSError, match="did not fill the backlog"):
                server.freeze()
            assert ask(server) == b"hello"

    def test_a_command_and_somebody_elses_server(self, server):
        port = server.getsockname()[1]
        command = [sys.executable, "-m", "http.server", "--bind", "{host}", "{port}"]
        with pytest.raises(OSError, match="in use") as caught:
            testing.Outage(command, port=port, within=0).start()
        assert "is held: LISTEN, of process" in caught.value.__notes__[0]

    def test_a_command_that_dies_by_itself_starts_again(self):
        command = [sys.executable, "-m", "http.server", "--bind", "{host}", "{port}"]
        with testing.Outage(command, within=30) as server:
            server._server._signal(signal.SIGKILL)
            server._server._process.wait()
            first = server.started
            assert server.start() is not first
            assert ask(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")

    def test_a_stop_ends_a_refusal(self):
        with testing.Outage() as server:
            for refusal in ({"seconds": 0.05}, {"attempts": 1}):
                server.refuse_for(**refusal)
                server.stop()
                time.sleep(0.1)
                for _ in range(3):
                    with pytest.raises(ConnectionRefusedError):
                        ask(server)

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"attempts": 0}, ValueError, "attempts"),
            ({"attempts": "3"}, TypeError, "attempts"),
            ({"seconds": -1}, ValueError, "seconds"),
            ({"seconds": "1"}, TypeError, "seconds"),
        ],
    )
    def test_bad_refusals(self, options, error, words):
        with testing.Outage() as server, pytest.raises(error, match=words):
            server.refuse_for(**options)

    @pytest.mark.parametrize("options", [{}, {"attempts": 1, "seconds": 1}])
    def test_refuses_for_one_of_the_two(self, options):
        with testing.Outage() as server, pytest.raises(TypeError, match="either attempts or seconds"):
            server.refuse_for(**options)

    def test_a_handler_of_ones_own(self):
        with testing.Outage(lambda connection: connection.sendall(b"220 ready")) as server:
            assert ask(server) == b"220 ready"

    def test_a_command(self):
        with testing.Outage([sys.executable, "-m", "http.server", "--bind", "{host}", "{port}"], within=30) as server:
            assert ask(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")
            server.freeze()
            with pytest.raises(TimeoutError):
                socket.create_connection(server.address, 0.05)
            server.start()
            server.kill()
            with pytest.raises(ConnectionRefusedError):
                ask(server)
            server.start()
            server.stop()

    def test_a_command_that_fails_is_quoted(self):
        code = "print('cannot open the database'); raise SystemExit(3)"
        with pytest.raises(OSError, match="ended with status 3: cannot open the database"):
            testing.Outage([sys.executable, "-c", code], within=30).start()
        with pytest.raises(TimeoutError, match=r"did not listen within 0.1 s: it printed nothing"):
            testing.Outage([sys.executable, "-c", "import time; time.sleep(3600)"], within=0.1).start()

    def test_who_holds_the_port(self, dead_port):
        with testing.self_connect(dead_port), socket.create_connection(("127.0.0.1", dead_port)) as sock:
            server = testing.Outage(port=dead_port, within=0)
            with pytest.raises(OSError, match="in use") as caught:
                server.start()
            assert caught.value.__notes__[0].startswith(
                f"safedial: port {dead_port} is held: ESTABLISHED to itself, of"
            )
            ends_of(sock)
        server.start()
        with contextlib.closing(socket.socket()) as late:
            server.kill()
            late.bind(server.address)
            late.listen()
            timer = threading.Timer(1, late.close)
            timer.start()
            server = testing.Outage(port=dead_port, within=30)
            found = server.start()
            timer.join()
            assert found.binds > 1
            assert found.holders[0].startswith("LISTEN, of process")
            server.kill()

    @pytest.mark.parametrize("server", ["redis-server", [], 7, None], ids=repr)
    def test_bad_servers(self, server):
        with pytest.raises(TypeError, match="server must be"):
            testing.Outage(server)


def test_holders_of_a_free_port(dead_port):
    assert holders(dead_port) == []


class TestFastRetries:
    def test_records_the_waits_of_safedial(self, dial, dead_port):
        policy = tenacity.Retrying(
            retry=safedial.retry_if_transient,
            wait=tenacity.wait_incrementing(start=1000, increment=1000),
            stop=tenacity.stop_after_attempt(4),
        )
        with testing.fast_retries() as waits, pytest.raises(ConnectionRefusedError):
            dial("127.0.0.1", dead_port, policy=policy)
        assert waits == [1000, 2000, 3000]

    def test_nested_and_in_any_order(self):
        policy = tenacity.Retrying(wait=tenacity.wait_fixed(3600), stop=tenacity.stop_after_attempt(2), reraise=True)
        one, two = testing.fast_retries(), testing.fast_retries()
        outer, inner = one.__enter__(), two.__enter__()
        with pytest.raises(KeyError):
            policy({}.__getitem__, "x")
        one.__exit__(None, None, None)
        two.__exit__(None, None, None)
        assert outer == inner == [3600]
        assert tenacity.DoSleep(3) == 3

    @pytest.mark.parametrize("coroutine", [False, True])
    def test_and_of_any_tenacity(self, coroutine):
        options = {"wait": tenacity.wait_fixed(3600), "stop": tenacity.stop_after_attempt(3), "reraise": True}

        async def broken():
            raise LookupError

        def call():
            if coroutine:
                faces.run(tenacity.retry(**options)(broken)())
            else:
                tenacity.retry(**options)({}.__getitem__)("x")

        with testing.fast_retries() as waits, pytest.raises(LookupError):
            call()
        assert waits == [3600, 3600]
        assert isinstance(tenacity.DoSleep, type)


def refuse(host, port):
    raise ConnectionRefusedError(errno.ECONNREFUSED, "without a dial")


class TestAssertResilient:
    def test_safe_connect_is(self, means):
        policy = safedial.reconnect(3600, 0.01, 0.05).copy(stop=tenacity.stop_after_attempt(5))
        findings = testing.assert_resilient(
            lambda host, port: safedial.safe_connect((host, port), 0.3, policy=policy), within=60
        )
        assert [finding.fault for finding in findings] == list(testing.FAULTS)
        assert {finding.fault: finding.happened.partition(":")[0] for finding in findings} == {
            "self_connect": "SelfConnectError",
            "refused_port": "ConnectionRefusedError",
            "address_not_available": "returned",
            "ports_exhausted": "PortsExhaustedError",
            "outage": "returned",
            "frozen": "TimeoutError",
        }

    @pytest.mark.parametrize("name", ["open_connection", "dial_async"])
    def test_so_is_open_connection(self, name):
        async def connect(host, port):
            if name == "dial_async":
                return await safedial.Dialer(timeout=0.3, policy=None).dial_async((host, port))
            return await safedial.open_connection(host, port, timeout=0.3, policy=None)

        testing.assert_resilient(connect)

    def test_create_connection_is_not(self, outage_at_no_risk):
        with pytest.raises(AssertionError) as caught:
            testing.assert_resilient(lambda host, port: socket.create_connection((host, port), 0.3), within=2)
        table = str(caught.value)
        lines = table.splitlines()
        assert lines[0] == "the client is not resilient"
        assert lines[1].split()[:3] == ["self_connect", "FAILED", "returned"]
        assert "the client was connected to itself" in table
        assert "the server could not bind" in table
        assert table.count("FAILED") == 1
        assert table.count(" ok ") == 5

    @pytest.mark.parametrize(
        ("connect", "fault", "words"),
        [
            (lambda host, port: time.sleep(3600), "frozen", "the client hung: no end after 0.2 s"),
            (lambda host, port: None, "refused_port", "the client returned, although nobody listens"),
            (lambda host, port: None, "frozen", "the client returned, although nothing answers"),
            (lambda host, port: {}["x"], "refused_port", "the error does not say ECONNREFUSED"),
            (lambda host, port: {}["x"], "frozen", "the error is not a timeout"),
            (
                lambda host, port: None,
                "outage",
                "no Python connect\\(\\) was seen: the client did not dial, or dials in C",
            ),
            (refuse, "self_connect", "the fault was not triggered"),
            (refuse, "address_not_available", "the fault was not triggered"),
            (refuse, "ports_exhausted", "the fault was not triggered"),
        ],
    )
    def test_what_it_finds(self, connect, fault, words, monkeypatch):
        if "hung" in words:
            over = threading.Event()
            connect = lambda host, port: over.wait(3600)  # noqa: E731
            monkeypatch.setattr(run, "_GRACE", 0)
        with pytest.raises(AssertionError, match=words):
            testing.assert_resilient(connect, faults=[fault], within=0.2 if "hung" in words else 5)
        if "hung" in words:
            over.set()

    def test_sockets_of_other_threads_are_not_its_leaks(self, server):
        kept = []

        def connect(host, port):
            kept.append(socket.create_connection(server.getsockname()))
            return safedial.safe_connect((host, port), policy=None)

        testing.assert_resilient(connect, faults=["refused_port"], within=5)
        for sock in kept:
            sock.close()

    def test_it_finds_a_leak(self):
        kept = []

        def connect(host, port):
            kept.append(socket.socket())
            kept[-1].connect((host, port))

        with pytest.raises(AssertionError, match="sockets left open: 1"):
            testing.assert_resilient(connect, faults=["refused_port"], within=5)
        kept[-1].close()

    def test_it_frees_a_client_that_hangs(self, dead_port):
        """PyMySQL and smtplib wait for a greeting that never comes."""

        def connect(host, port):
            with socket.create_connection((host, port)) as sock:
                sock.recv(1)

        with pytest.raises(AssertionError, match="the client hung"):
            testing.assert_resilient(connect, faults=["self_connect"], within=0.2)

    @pytest.mark.parametrize("faults", ["self_connect", ["nonsense"]])
    def test_bad_faults(self, faults):
        with pytest.raises(ValueError, match="faults must be some of self_connect"):
            testing.assert_resilient(print, faults=faults)

    @pytest.mark.parametrize(("within", "error"), [(0, ValueError), (-1, ValueError), ("1", TypeError)])
    def test_bad_limits(self, within, error):
        with pytest.raises(error, match="within"):
            testing.assert_resilient(print, within=within)

    def test_what_cannot_be_called(self):
        with pytest.raises(TypeError, match="connect must be callable"):
            testing.assert_resilient("redis://")


class Unittest(unittest.TestCase):
    """`safedial.testing` needs no pytest."""

    def test_self_connect(self):
        port = testing.dead_port()
        with testing.self_connect(port), self.assertRaises(safedial.SelfConnectError):  # noqa: PT027  # as unittest users have it
            safedial.safe_connect(("127.0.0.1", port))
