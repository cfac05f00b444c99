"""What tells a hidden self-connect from a connection to a server. With a balancer: see `test_balancer`."""

import os
import select
import socket
import sys

import pytest

import safedial
from safedial import testing
from safedial._tcp import hidden, selfconnect, steering
from tests.support import faults, namespace, plain, sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO and sock_diag are Linux's")

HOSTS = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
ANOTHER = ("192.0.2.1", 1)  # what getpeername() may answer; RFC 5737
PROTOCOLS = {"TCP": 0, "MPTCP": 262} if os.path.exists("/proc/sys/net/mptcp/enabled") else {"TCP": 0}


def is_hidden(sock):
    return hidden.is_hidden(sock, sock.getsockname(), ANOTHER)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("host", HOSTS)
def test_self_connect_is_found(host, protocol, dead_port):
    with testing.self_connect(dead_port), socket.socket(faults.tcp(host, dead_port)[0], proto=protocol) as sock:
        sock.connect((host, dead_port))
        assert sock.getsockname() == sock.getpeername()
        assert is_hidden(sock)
        sock.sendall(b"GET user:1")
        assert sock.recv(100)  # Linux 6.18's MPTCP loses the first byte
        assert is_hidden(sock)
        selfconnect.release(sock)


def bound_to_an_interface():
    namespace.enter_network()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        with testing.self_connect(40000):
            sock.connect(("127.0.0.1", 40000))
        return is_hidden(sock)


def test_self_connect_on_an_interface_is_found():
    namespace.require()
    assert namespace.call_with_accounts(bound_to_an_interface)


@pytest.mark.parametrize("host", HOSTS)
def test_server_is_never_taken_for_one(host):
    with faults.listener("::1" if host == "::1" else "127.0.0.1") as server:
        port = server.getsockname()[1]
        with safedial.safe_connect((host, port)) as sock, server.accept()[0] as other:
            assert not hidden.is_suspicious(sock)
            other.sendall(b"220 ready\r\n")  # speaks first
            select.select([sock], [], [])
            assert not hidden.is_suspicious(sock)
            other.close()
            assert sock.makefile("rb").read() == b"220 ready\r\n"
            assert hidden.is_suspicious(sock)
            assert not is_hidden(sock)


@pytest.mark.skipif(not faults.kernel_steers(), reason="makes the kernel draw a port that is in use")
def test_another_socket_on_the_same_port_is_not_taken_for_this_one(server, dead_port):
    with plain.connected_to_itself(dead_port), socket.socket() as sock:
        option = steering.option_value(steering.PortRange(dead_port, dead_port))
        sock.setsockopt(socket.IPPROTO_IP, steering.IP_LOCAL_PORT_RANGE, option)
        sock.connect(server.getsockname())
        assert sock.getsockname()[1] == dead_port
        assert not hidden.is_found(sock, sock.getsockname())


def denied(*forbidden):
    with plain.connected_to_itself(40000) as sock:
        before = is_hidden(sock)
        sandbox.forbid(*forbidden)
        return before, is_hidden(sock), sock.fileno() != -1


@pytest.mark.parametrize("forbidden", [("getsockopt", 6, 11), ("socket",)], ids=["TCP_INFO", "sock_diag"])
def test_nothing_is_claimed_if_the_kernel_may_not_be_asked(forbidden):
    sandbox.require_seccomp()
    namespace.require()
    assert namespace.call(denied, *forbidden) == (True, False, True)


def test_old_kernel_without_the_counters_is_not_suspicious(dead_port):
    class Old(socket.socket):
        def getsockopt(self, level, name, size=0):
            found = super().getsockopt(level, name, size) if size else super().getsockopt(level, name)
            return found[:104] if level == socket.IPPROTO_TCP else found  # Linux 3.14's struct tcp_info

    with plain.connected_to_itself(dead_port) as sock, Old(fileno=os.dup(sock.fileno())) as old:
        assert is_hidden(sock)
        assert not is_hidden(old)


def test_fake_is_not_suspicious():
    assert not hidden.is_hidden(object(), ("10.0.0.1", 1), ANOTHER)


def test_same_host_is_not_asked_about(dead_port):
    with plain.connected_to_itself(dead_port) as sock:
        assert not hidden.is_hidden(sock, sock.getsockname(), ("127.0.0.1", 1))
