"""What a fault leaves as it was, and whom it spares: on the kernel, with sockets of all kinds."""

import contextlib
import errno
import socket
import threading

import pytest

from safedial import testing
from safedial._tcp import steering
from safedial._tcp.selfconnect import RESET
from safedial.testing import faults as testing_faults
from tests.support import faults, namespace

needs_the_option = pytest.mark.skipif(
    not faults.kernel_steers(), reason="this kernel has no IP_LOCAL_PORT_RANGE (Linux 6.3)"
)


@pytest.fixture(params=["as the kernel can", "otherwise"])
def means(request, monkeypatch):
    """Both ways of making a fault: Linux's, and the one for other systems and older kernels."""
    if request.param == "otherwise":
        monkeypatch.setattr(steering, "ON_LINUX", False)
    return request.param


@pytest.fixture
def reset():
    """Sockets that are reset at the end: a TIME_WAIT would be in the next test's way."""
    with contextlib.ExitStack() as stack:

        def made(family=socket.AF_INET):
            sock = stack.enter_context(socket.socket(family))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            return sock

        yield made


def own_range(sock):
    return sock.getsockopt(socket.IPPROTO_IP, steering.IP_LOCAL_PORT_RANGE)


def reuses(sock):
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


class Unhashable(socket.socket):
    """As a user's subclass that compares sockets may be."""

    __hash__ = None


class TestAsItWas:
    """What a fault sets on a client's socket is the client's again."""

    @pytest.mark.parametrize("bounds", [(40000, 40100), (40000, 0), (0, 40100), (0, 0)])
    @needs_the_option
    def test_range_after_address_not_available(self, server, reset, bounds):
        sock = reset()
        sock.setsockopt(*faults.option(*bounds))
        before = own_range(sock)
        with testing.address_not_available() as fault:
            with pytest.raises(OSError, match="assign"):
                sock.connect(server.getsockname())
            assert fault.means == "IP_LOCAL_PORT_RANGE"
            assert own_range(sock) == before
            sock.connect(server.getsockname())
        low, high = bounds
        assert (low or 1) <= sock.getsockname()[1] <= (high or 65535)

    @pytest.mark.parametrize("reuse", [0, 1])
    @needs_the_option
    def test_options_after_a_self_connect_that_could_not_be(self, server, reset, reuse):
        sock = reset()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        sock.setsockopt(*faults.option(40000, 40100))
        before = own_range(sock)
        with testing.self_connect(server.getsockname()[1], times=2) as fault:
            sock.connect(server.getsockname())
        assert (own_range(sock), reuses(sock)) == (before, reuse)
        assert 40000 <= sock.getsockname()[1] <= 40100
        assert (fault.triggered, fault.remaining, fault.means) == (0, 2, None)

    @needs_the_option
    def test_range_after_a_self_connect(self, dead_port, reset):
        sock = reset()
        sock.setsockopt(*faults.option(40000, 40100))
        before = own_range(sock)
        with testing.self_connect(dead_port) as fault:
            sock.connect(("127.0.0.1", dead_port))
        assert fault.means == "IP_LOCAL_PORT_RANGE"
        assert own_range(sock) == before
        assert sock.getsockname() == sock.getpeername()


class TestSpared:
    """Connects that a fault lets pass, and does not count."""

    def test_times_are_not_spent_on_a_server(self, server, means):
        with testing.self_connect(server.getsockname()[1], times=2) as fault:
            for _ in range(3):
                socket.create_connection(server.getsockname()).close()
        assert (fault.triggered, fault.remaining, fault.means) == (0, 2, None)

    @pytest.mark.parametrize("how", ["connect", "connect_ex"])
    @pytest.mark.parametrize("make", [testing.self_connect, testing.address_not_available])
    def test_a_name_that_cannot_be_resolved(self, dead_port, means, make, how):
        with make(dead_port, times=1) as fault, socket.socket() as sock:
            with pytest.raises(socket.gaierror):
                getattr(sock, how)(("no.such.invalid", dead_port))
            assert (fault.triggered, fault.remaining) == (0, 1)

    @pytest.mark.parametrize("make", [testing.self_connect, testing.address_not_available])
    def test_an_address_of_the_other_family(self, dead_port, means, make):
        with make(dead_port, times=1) as fault, socket.socket() as sock:
            with pytest.raises(OSError, match=r"not supported|Name or service|unreachable"):
                sock.connect(("::1", dead_port))
            assert (fault.triggered, fault.remaining) == (0, 1)

    @pytest.mark.parametrize(
        "address",
        [(), ("127.0.0.1",), ("127.0.0.1", "80"), ("127.0.0.1", 65536), ("127.0.0.1", -1), (5, 80), "x", [], 5, None],
        ids=repr,
    )
    @pytest.mark.parametrize("how", ["connect", "connect_ex"])
    def test_no_address(self, means, address, how):
        """It raises what it raises without a fault."""

        def error():
            with socket.socket() as sock, pytest.raises((TypeError, OverflowError)) as caught:
                getattr(sock, how)(address)
            return type(caught.value), str(caught.value)

        plain = error()
        with testing.Outage() as server, testing.address_not_available() as fault:
            server.refuse_for(attempts=1)
            assert error() == plain
        with testing.self_connect(80):
            assert error() == plain
        assert fault.triggered == 0

    def test_a_source_port_of_the_callers(self, server, dead_port, means, reset):
        sock = reset()
        sock.bind(("127.0.0.1", dead_port))
        with testing.ports_exhausted(server.getsockname()[1]) as fault:
            sock.connect(server.getsockname())
        assert fault.triggered == 0

    @needs_the_option
    def test_a_source_address_leaves_the_port_to_the_kernel(self, server, dead_port, means, reset):
        """With IP_BIND_ADDRESS_NO_PORT it is drawn by connect(), as without a bind."""
        one, two = reset(), reset()
        for sock in (one, two):
            sock.setsockopt(socket.IPPROTO_IP, steering.IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind(("127.0.0.1", 0))
        with testing.self_connect(dead_port) as fault:
            one.connect(("127.0.0.1", dead_port))
        assert one.getsockname() == one.getpeername()
        assert fault.triggered == 1
        with testing.address_not_available() as fault, pytest.raises(OSError, match="assign"):
            two.connect(server.getsockname())
        assert fault.triggered == 1

    def test_the_second_connect_of_a_non_blocking_socket(self, server, means, reset):
        """As asyncio makes it, to learn what became of the first."""
        sock = reset()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(server.getsockname())
        with testing.address_not_available() as fault:
            assert sock.connect_ex(server.getsockname()) in (0, errno.EISCONN)
        assert fault.triggered == 0


class TestCounts:
    def test_simulated_where_the_kernel_has_no_means(self, server, monkeypatch):
        monkeypatch.setattr(testing_faults, "_narrow", lambda *args: False)
        with testing.address_not_available() as fault, pytest.raises(OSError, match="assign"):
            socket.create_connection(server.getsockname())
        assert fault.means == "simulated"

    def test_threads_share_the_times(self, server, means):
        failed = []

        def client():
            for _ in range(25):
                with socket.socket() as sock:
                    failed.append(sock.connect_ex(server.getsockname()) == errno.EADDRNOTAVAIL)

        with testing.address_not_available(times=30) as fault:
            threads = [threading.Thread(target=client) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert (sum(failed), fault.triggered, fault.remaining) == (30, 30, 0)

    @pytest.mark.parametrize("port", [0, -1, 65536])
    def test_ports_that_nobody_dials(self, port):
        with pytest.raises(ValueError, match="port must be from 1 to 65535"), testing.self_connect(port):
            pass

    @pytest.mark.parametrize("port", ["80", True, 80.0], ids=repr)
    def test_ports_that_are_no_numbers(self, port):
        with pytest.raises(TypeError, match="port must be a number"), testing.ports_exhausted(port):
            pass

    def test_sockets_without_a_hash(self, server, means):
        with testing.address_not_available(times=1) as fault:
            for code in (errno.EADDRNOTAVAIL, 0):
                with Unhashable() as sock:
                    assert sock.connect_ex(server.getsockname()) == code
        assert fault.triggered == 1
        with testing.Outage(port=faults.port_never_drawn()) as outage:
            outage.refuse_for(attempts=2)
            for code in (errno.ECONNREFUSED, errno.ECONNREFUSED, 0):
                with Unhashable() as sock:
                    assert sock.connect_ex(outage.address) == code


def dial_with_psycopg():
    """In a range of ten ports, with a server on one of them: what a C library is told, and after."""
    import psycopg

    found = []
    with testing.Outage(port=40004) as server:
        for context in (testing.ports_exhausted(server.port), contextlib.nullcontext()):
            with context, pytest.raises(psycopg.OperationalError) as caught:
                psycopg.connect(host=server.host, port=server.port, user="u", dbname="d", connect_timeout=2)
            found.append(str(caught.value))
    return found


def test_small_range_is_used_up_for_c_libraries_too():
    namespace.require()
    short, after = namespace.call(dial_with_psycopg, port_range=(40000, 40009))
    assert "Cannot assign requested address" in short
    assert "Cannot assign requested address" not in after


@faults.forks_among_threads
def test_fork_while_another_thread_makes_faults():
    """What guards them is whole in the child, and held by nobody."""
    port = testing.dead_port()

    def make():
        with testing.self_connect(port), testing.fast_retries():
            return True

    faults.fork_beside(make, make, 40)
