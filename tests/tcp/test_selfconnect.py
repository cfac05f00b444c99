"""Self-connected sockets are recognised and released."""

import os
import socket
import sys

import pytest

import safedial
from safedial._tcp import destinations, selfconnect
from tests.support import faults, left


def test_plain_dial_connects_to_itself_if_forced(force, dead_port):
    force(dead_port)
    with socket.create_connection(("127.0.0.1", dead_port)) as sock:
        assert sock.getsockname() == sock.getpeername()
        sock.sendall(b"GET user:1")
        assert sock.recv(100) == b"GET user:1"
        assert safedial.is_self_connected(sock)
        selfconnect.release(sock)


def test_plain_close_keeps_the_port_in_time_wait(force, dead_port):
    # The reason why release() sets SO_LINGER.
    force(dead_port)
    socket.create_connection(("127.0.0.1", dead_port)).close()
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        with pytest.raises(OSError, match="in use"):
            server.bind(("127.0.0.1", dead_port))


def test_address_of_a_closed_socket_says_nothing(server):
    with socket.socket() as sock:
        pass
    with pytest.raises(OSError, match="Bad file descriptor"):
        selfconnect.reached_itself(sock, server.getsockname())


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 needs Linux's loopback")
def test_equal_ports_of_different_hosts_are_no_self_connect(server):
    host, port = server.getsockname()
    with socket.create_connection((host, port), None, ("127.0.0.2", port)) as sock:
        assert not selfconnect.reached_itself(sock, (host, port))
        assert not safedial.is_self_connected(sock)


@pytest.mark.skipif(sys.platform != "linux", reason="SO_PEERNAME is Linux's")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_peer_of_a_handshake_that_goes_on_is_known(host):
    with faults.full_listener(host) as black_hole, socket.socket(black_hole.family) as sock:
        sock.setblocking(False)
        with safedial.guard(), pytest.raises(BlockingIOError):
            sock.connect(black_hole.getsockname())
        with pytest.raises(OSError, match="not connected"):
            sock.getpeername()
        assert selfconnect._peer_set(sock) == black_hole.getsockname()
        assert black_hole.getsockname() in destinations.reached_as_dialed


class TestIsSelfConnected:
    def test_socket_descriptor_or_file_is_accepted(self, force, dead_port):
        force(dead_port)
        with socket.create_connection(("127.0.0.1", dead_port)) as sock:
            assert safedial.is_self_connected(sock)
            assert safedial.is_self_connected(sock.fileno())
            with sock.makefile("rb") as file:
                assert safedial.is_self_connected(file)
            assert sock.fileno() != -1
            selfconnect.release(sock)

    def test_connection_to_a_server_is_not_self_connected(self, server):
        with socket.create_connection(server.getsockname()) as sock:
            assert not safedial.is_self_connected(sock)
            assert not safedial.is_self_connected(sock.fileno())

    def test_descriptor_stays_blocking(self, server, default_timeout):
        default_timeout(5)
        with socket.create_connection(server.getsockname(), None) as sock:
            assert not safedial.is_self_connected(sock.fileno())
            assert os.get_blocking(sock.fileno())

    def test_sockets_without_a_tcp_connection_are_not_self_connected(self):
        with socket.socket() as sock:
            assert not safedial.is_self_connected(sock)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.connect(sock.getsockname())
            assert not safedial.is_self_connected(sock)
        a, b = socket.socketpair()
        with a, b:
            assert not safedial.is_self_connected(a)

    @pytest.mark.parametrize("argument", [None, "socket", True, object()])
    def test_invalid_argument_is_an_error(self, argument):
        with pytest.raises(TypeError, match="sock"):
            safedial.is_self_connected(argument)

    def test_closed_socket_is_an_error(self):
        with socket.socket() as sock:
            pass
        with pytest.raises(OSError, match="Bad file descriptor"):
            safedial.is_self_connected(sock)

    def test_descriptor_that_is_no_socket_is_an_error(self):
        before = left.open_descriptors()
        with open(os.devnull) as file, pytest.raises(OSError, match=r"[Ss]ocket operation"):
            safedial.is_self_connected(file)
        assert left.open_descriptors() == before
