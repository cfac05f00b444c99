"""The faults of a connect, on the kernel: whom they hit, whom they leave alone, and that they leave nothing behind."""

import contextlib
import errno
import socket
import ssl
import threading
import unittest

import pytest
import trustme

import safedial
from safedial import testing
from safedial._tcp import steering
from safedial._tcp.selfconnect import RESET
from safedial.testing import faults as testing_faults
from tests.support import faults, namespace
from tests.support.plain import ends_of, with_create_connection

HOSTS = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"]


@pytest.fixture
def reset():
    """Make sockets that are reset at the end: a TIME_WAIT would disturb the next test."""
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
    """Like a user's subclass that defines __eq__."""

    __hash__ = None


class TestSelfConnect:
    @pytest.mark.parametrize("host", HOSTS)
    def test_local_and_peer_address_are_equal(self, client, mechanism, host):
        port = testing.dead_port("::1" if host in ("::1", "::") else "127.0.0.1")
        with testing.self_connect(port, times=1) as fault:
            ends = client(host, port)
            assert ends.local == ends.peer
            assert (fault.triggered, fault.remaining) == (1, 0)
            assert fault.means == ("bind" if mechanism == "bind" or host == "127.0.0.2" else "IP_LOCAL_PORT_RANGE")

    def test_ends_after_the_given_times(self, dial, dead_port, mechanism):
        with testing.self_connect(dead_port, times=2) as fault:
            for _ in range(2):
                with pytest.raises(safedial.SelfConnectError):
                    dial("127.0.0.1", dead_port, policy=None)
            # Held, because an unsteered dial might connect to itself once more by chance.
            with safedial.hold(("127.0.0.1", dead_port)), pytest.raises(ConnectionRefusedError) as caught:
                dial("127.0.0.1", dead_port, policy=None)
            assert type(caught.value) is not safedial.SelfConnectError
            assert fault.triggered == 2

    def test_other_ports_and_chosen_ports_are_left_alone(self, server, mechanism):
        with testing.self_connect(testing.dead_port(), unused="ignore") as fault:
            socket.create_connection(server.getsockname()).close()
            with pytest.raises(ConnectionRefusedError):  # bind() chooses a port here
                socket.create_connection(("127.0.0.1", fault.port), 5, ("127.0.0.1", 0))
        assert fault.triggered == 0

    def test_a_server_that_listens_is_reached(self, client, server, mechanism):
        host, port = server.getsockname()
        with testing.self_connect(port, unused="ignore") as fault:
            assert client(host, port).local[1] != port
        assert fault.triggered == 0

    def test_keeps_out_a_server_like_a_real_one(self, dead_port, mechanism):
        """Even a server that sets SO_REUSEADDR, as create_server() does."""
        with testing.self_connect(dead_port), socket.create_connection(("127.0.0.1", dead_port)) as sock:
            with pytest.raises(OSError, match="in use"):
                socket.create_server(("127.0.0.1", dead_port)).close()
            ends_of(sock)

    @pytest.mark.parametrize("closed", [False, True])
    def test_keeps_out_a_server_that_was_there_before(self, dead_port, mechanism, closed):
        """Its connections are in TIME_WAIT, so that only a bind with SO_REUSEADDR makes the self-connect."""
        with socket.create_server(("127.0.0.1", dead_port)) as earlier, socket.create_connection(earlier.getsockname()):
            earlier.accept()[0].close()
        with testing.self_connect(dead_port) as fault, socket.create_connection(("127.0.0.1", dead_port)) as sock:
            assert (fault.means, reuses(sock)) == ("bind", 0)
            if closed:
                sock.close()
            with pytest.raises(OSError, match="in use"):
                socket.create_server(("127.0.0.1", dead_port)).close()

    @pytest.mark.parametrize("reuse", [0, 1])
    def test_setting_of_the_client_stays(self, dead_port, reset, mechanism, reuse):
        sock = reset()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        with testing.self_connect(dead_port):
            sock.connect(("127.0.0.1", dead_port))
        assert sock.getsockname() == sock.getpeername()
        assert reuses(sock) == reuse

    def test_port_outside_of_the_range_is_made_by_bind(self):
        port = faults.port_never_drawn()
        with testing.self_connect(port) as fault:
            ends = with_create_connection("127.0.0.1", port)
        assert ends.local == ends.peer
        assert fault.means == "bind"

    def test_hits_tls_in_another_thread(self, dead_port):
        """The client reads its own TLS hello."""
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
    def test_fails_and_then_works_again(self, client, server, mechanism):
        with testing.address_not_available(times=2) as fault:
            for _ in range(2):
                with pytest.raises(OSError, match=r"address|refused|SO_ERROR|connect_ex|Connect") as caught:
                    client(*server.getsockname())
                assert caught.value.errno == errno.EADDRNOTAVAIL
            client(*server.getsockname())
        assert (fault.triggered, fault.remaining) == (2, 0)
        assert fault.means == ("simulated" if mechanism == "bind" else "IP_LOCAL_PORT_RANGE")

    def test_the_same_socket_can_connect_afterwards(self, server):
        with socket.socket() as sock, testing.address_not_available():
            with pytest.raises(OSError, match="assign"):
                sock.connect(server.getsockname())
            sock.connect(server.getsockname())

    def test_every_kind_of_dial_reports_exhausted_ports(self, dial, server, steer, mechanism):
        with testing.ports_exhausted(server.getsockname()[1]), pytest.raises(safedial.PortsExhaustedError):
            dial(*server.getsockname(), policy=None, steer=steer)
        dial(*server.getsockname(), policy=None, steer=steer)

    def test_other_destinations_are_left_alone(self, server):
        with testing.ports_exhausted(testing.dead_port(), unused="ignore"):
            socket.create_connection(server.getsockname()).close()


class TestSocketAfterwards:
    """The options of a client's socket are restored after a fault."""

    @pytest.mark.parametrize("bounds", [(40000, 40100), (40000, 0), (0, 40100), (0, 0)])
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
    def test_options_after_a_self_connect_that_failed(self, server, reset, reuse):
        sock = reset()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        sock.setsockopt(*faults.option(40000, 40100))
        before = own_range(sock)
        with testing.self_connect(server.getsockname()[1], times=2, unused="ignore") as fault:
            sock.connect(server.getsockname())
        assert (own_range(sock), reuses(sock)) == (before, reuse)
        assert 40000 <= sock.getsockname()[1] <= 40100
        assert (fault.triggered, fault.remaining, fault.means) == (0, 2, None)

    def test_range_after_a_self_connect(self, dead_port, reset):
        sock = reset()
        sock.setsockopt(*faults.option(40000, 40100))
        before = own_range(sock)
        with testing.self_connect(dead_port) as fault:
            sock.connect(("127.0.0.1", dead_port))
        assert fault.means == "IP_LOCAL_PORT_RANGE"
        assert own_range(sock) == before
        assert sock.getsockname() == sock.getpeername()


class TestLeftAlone:
    """Connects that a fault neither changes nor counts."""

    def test_times_are_not_spent_on_a_server(self, server, mechanism):
        with testing.self_connect(server.getsockname()[1], times=2, unused="ignore") as fault:
            for _ in range(3):
                socket.create_connection(server.getsockname()).close()
        assert (fault.triggered, fault.remaining, fault.means) == (0, 2, None)

    @pytest.mark.parametrize("how", ["connect", "connect_ex"])
    @pytest.mark.parametrize("make", [testing.self_connect, testing.address_not_available])
    def test_a_name_that_is_unknown(self, dead_port, mechanism, make, how):
        with make(dead_port, times=1, unused="ignore") as fault, socket.socket() as sock:
            with pytest.raises(socket.gaierror):
                getattr(sock, how)(("no.such.invalid", dead_port))
            assert (fault.triggered, fault.remaining) == (0, 1)

    @pytest.mark.parametrize("make", [testing.self_connect, testing.address_not_available])
    def test_an_address_of_the_other_family(self, dead_port, mechanism, make):
        with make(dead_port, times=1, unused="ignore") as fault, socket.socket() as sock:
            with pytest.raises(OSError, match=r"not supported|Name or service|unreachable"):
                sock.connect(("::1", dead_port))
            assert (fault.triggered, fault.remaining) == (0, 1)

    @pytest.mark.parametrize(
        "address",
        [(), ("127.0.0.1",), ("127.0.0.1", "80"), ("127.0.0.1", 65536), ("127.0.0.1", -1), (5, 80), "x", [], 5, None],
        ids=repr,
    )
    @pytest.mark.parametrize("how", ["connect", "connect_ex"])
    def test_invalid_addresses(self, mechanism, address, how):
        """They raise the same error as without a fault."""

        def error():
            with socket.socket() as sock, pytest.raises((TypeError, OverflowError)) as caught:
                getattr(sock, how)(address)
            return type(caught.value), str(caught.value)

        plain = error()
        with testing.Outage() as server, testing.address_not_available(unused="ignore") as fault:
            server.refuse_for(1, unused="ignore")
            assert error() == plain
        with testing.self_connect(80, unused="ignore"):
            assert error() == plain
        assert fault.triggered == 0

    def test_a_source_port_that_the_caller_chose(self, server, dead_port, mechanism, reset):
        sock = reset()
        sock.bind(("127.0.0.1", dead_port))
        with testing.ports_exhausted(server.getsockname()[1], unused="ignore") as fault:
            sock.connect(server.getsockname())
        assert fault.triggered == 0

    def test_a_source_address_leaves_the_port_to_the_kernel(self, server, dead_port, mechanism, reset):
        """With IP_BIND_ADDRESS_NO_PORT it is drawn by connect(), as without a bind."""
        faults.require_option()
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

    def test_the_second_connect_of_a_non_blocking_socket(self, server, mechanism, reset):
        """asyncio makes it to learn the result of the first."""
        sock = reset()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(server.getsockname())
        with testing.address_not_available(unused="ignore") as fault:
            assert sock.connect_ex(server.getsockname()) in (0, errno.EISCONN)
        assert fault.triggered == 0


class TestCounts:
    def test_simulated_if_the_kernel_has_no_option(self, server, monkeypatch):
        monkeypatch.setattr(testing_faults, "_narrow", lambda *args: None)
        with testing.address_not_available() as fault, pytest.raises(OSError, match="assign"):
            socket.create_connection(server.getsockname())
        assert fault.means == "simulated"

    def test_threads_share_the_times(self, server, mechanism):
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
    def test_ports_out_of_range(self, port):
        with pytest.raises(ValueError, match="port must be from 1 to 65535"), testing.self_connect(port):
            pass

    @pytest.mark.parametrize("port", ["80", True, 80.0], ids=repr)
    def test_ports_that_are_not_numbers(self, port):
        with pytest.raises(TypeError, match="port must be a whole number"), testing.ports_exhausted(port):
            pass

    def test_sockets_without_a_hash(self, server, mechanism):
        with testing.address_not_available(times=1) as fault:
            for code in (errno.EADDRNOTAVAIL, 0):
                with Unhashable() as sock:
                    assert sock.connect_ex(server.getsockname()) == code
        assert fault.triggered == 1
        with testing.Outage(port=faults.port_never_drawn()) as outage:
            outage.refuse_for(dials=2)
            for code in (errno.ECONNREFUSED, errno.ECONNREFUSED, 0):
                with Unhashable() as sock:
                    assert sock.connect_ex(outage.address) == code


def dial_with_psycopg():
    """Return the errors of a C library in a range of ten ports: under the fault, and after it."""
    import psycopg

    found = []
    with testing.Outage(port=40004) as server:
        for context in (testing.ports_exhausted(server.port, unused="ignore"), contextlib.nullcontext()):
            with context, pytest.raises(psycopg.OperationalError) as caught:
                psycopg.connect(host=server.host, port=server.port, user="u", dbname="d", connect_timeout=2)
            found.append(str(caught.value))
    return found


def test_small_range_is_used_up_for_c_libraries_too():
    namespace.require()
    short, after = namespace.call(dial_with_psycopg, port_range=(40000, 40009))
    assert "Cannot assign requested address" in short
    assert "Cannot assign requested address" not in after


@pytest.mark.storm
@faults.forks_among_threads
def test_fork_while_another_thread_makes_faults():
    """In the child, nobody holds the locks."""
    port = testing.dead_port()

    def make():
        with testing.self_connect(port, unused="ignore"), testing.fast_retries():
            return True

    faults.fork_beside(make, make, 40)


class Unittest(unittest.TestCase):
    """`safedial.testing` needs no pytest."""

    def test_self_connect(self):
        port = testing.dead_port()
        with testing.self_connect(port), self.assertRaises(safedial.SelfConnectError):  # noqa: PT027  # as unittest users have it
            safedial.safe_connect(("127.0.0.1", port))
