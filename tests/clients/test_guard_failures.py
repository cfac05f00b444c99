"""What the guard leaves of a connect that failed or was interrupted: a socket as it was before, and no self-connect."""

import contextlib
import socket
import sys

import pytest

import safedial
from safedial._clients import guarded_connect
from safedial._tcp import steering
from safedial._tcp.selfconnect import RESET
from tests.support import faults, holds, interrupts, namespace

HOST = "127.0.0.1"


class TestUsedAgain:
    """A client may call connect() again, on the socket whose connect was refused."""

    # Ranges and sides with an even number of ports: of an odd one, the kernel's walk by steps of two may leave out one.
    @pytest.mark.parametrize(("port", "high", "drawn"), [(5000, 40011, 12), (40006, 40010, 10)])
    def test_every_port_is_drawn(self, port, high, drawn):
        namespace.require()
        faults.require_option()  # without it, the first connect may reach itself
        found = namespace.call(connect_after_a_refusal, port, port_range=(40000, high))
        assert found == (drawn, "PortsExhaustedError")

    def test_is_steered_again(self):
        namespace.require()
        faults.require_option()
        assert namespace.call(dial_one_dead_port_after_another, port_range=(40000, 40003)) == {"ConnectionRefusedError"}

    @pytest.mark.parametrize("reuse", [0, 1])
    def test_options_are_as_before(self, server, reuse):
        port = server.getsockname()[1]
        server.close()
        with safedial.guard(), socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
            before = options(sock)
            for _ in range(2):
                with pytest.raises(ConnectionRefusedError):
                    sock.connect((HOST, port))
                assert options(sock) == before

    @pytest.mark.skipif(not steering.ON_LINUX, reason="SO_REUSEADDR is set on Linux only")
    def test_lets_servers_bind_again(self, server):
        with safedial.guard(), socket.socket() as sock:
            with pytest.raises(ConnectionRefusedError):
                sock.connect((HOST, faults.port_never_drawn()))
            sock.connect(server.getsockname())
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)

    def test_port_that_the_caller_bound_is_his(self):
        """Also after a refusal: EADDRNOTAVAIL does not mean that no port is free."""
        namespace.require()
        assert namespace.call(connect_twice_from_each_host) == [("OSError", 6000, 0)] * 2


def options(sock):
    narrowed = steering.own_option(sock)
    no_port = sock.getsockopt(socket.IPPROTO_IP, steering.IP_BIND_ADDRESS_NO_PORT) if steering.ON_LINUX else 0
    return narrowed, no_port, sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


def connect_twice_from_each_host():
    return [connect_twice_from(host) for host in ("", HOST)]


def connect_twice_from(host):
    """Return the error of a connect from a port that has a connection to the same server, the port, and an option."""
    with safedial.guard(), holds.listening(HOST, 5000) as server, socket.socket() as first, socket.socket() as sock:
        for each in (first, sock):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)  # leaves no TIME_WAIT
            each.bind((host, 6000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        sock.connect_ex((HOST, 5001))
        first.connect(server.getsockname())
        try:
            sock.connect(server.getsockname())
        except OSError as error:
            reuses = sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
            return type(error).__name__, sock.getsockname()[1], reuses
    return None


def connect_after_a_refusal(port):
    """Return how many sockets reach a server on *port*, each after a refusal, and the name of the error then."""
    with contextlib.ExitStack() as held, safedial.guard():
        held.enter_context(holds.listening(HOST, port))
        for count in range(20):
            sock = held.enter_context(socket.socket())
            sock.connect_ex((HOST, 40004))
            try:
                sock.connect((HOST, port))
            except OSError as error:
                return count, type(error).__name__
    return None


def dial_one_dead_port_after_another():
    """Return the names of the errors, of a new socket each time."""
    found = set()
    with safedial.guard():
        for _ in range(20):
            with socket.socket() as sock:
                for port in (40000, 40003, 40001):
                    try:
                        sock.connect((HOST, port))
                    except OSError as error:
                        found.add(type(error).__name__)
    return found


class Interrupted(BaseException):
    """What a signal handler raises."""


def connect_and_interrupt(sock, address):
    """Connect, as the kernel's method does, and be interrupted before the check."""
    with contextlib.suppress(BlockingIOError):
        socket.socket.connect(sock, address)
    raise Interrupted


def test_self_connect_is_released_if_its_connect_is_interrupted():
    namespace.require()
    assert namespace.call(bind_after_interrupts, port_range=(40000, 40000)) == ["bound", "bound"]


def bind_after_interrupts():
    steering._steerable = False  # the range has no other port
    return [bind_after_an_interrupt(blocking) for blocking in (True, False)]


def bind_after_an_interrupt(blocking):
    with socket.socket() as sock:
        sock.setblocking(blocking)
        with pytest.raises(Interrupted):
            guarded_connect.connect_safely(sock, (HOST, 40000), connect_and_interrupt)
    with socket.socket() as server:
        server.bind((HOST, 40000))  # without SO_REUSEADDR
    return "bound"


def test_connection_whose_connect_is_interrupted_stays_open(server):
    """It is the caller's, and not known to be bad."""
    with socket.socket() as sock:
        with pytest.raises(Interrupted):
            guarded_connect.connect_safely(sock, server.getsockname(), connect_and_interrupt)
        assert sock.getpeername() == server.getsockname()


@pytest.mark.storm
@pytest.mark.parametrize("dialer", ["guard", "Dialer"])
def test_self_connect_is_released_wherever_the_interrupt_comes(dialer):
    namespace.require()
    interrupted, blocked = namespace.call(interrupt_self_connects, dialer, port_range=(40000, 40000))
    assert interrupted > 10
    assert not blocked


def interrupt_self_connects(dialer):
    """Return how often a dial was interrupted, and the errors of the servers that could not bind afterwards."""
    steering._steerable = False
    blocked = []

    def dial():
        with contextlib.suppress(ConnectionRefusedError):
            if dialer == "Dialer":
                safedial.safe_connect((HOST, 40000), policy=None)  # which is refused
            with socket.socket() as sock:
                sock.connect((HOST, 40000))

    def bind():
        with socket.socket() as server:
            try:
                server.bind((HOST, 40000))
            except OSError as error:
                blocked.append(str(error))

    with safedial.guard():
        return interrupts.interrupt_each(dial, sys.setprofile, bind), blocked
