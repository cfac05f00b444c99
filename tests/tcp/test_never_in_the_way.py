"""A connection of ours never keeps a server from its port, although the kernel drew that port for the connection."""

import contextlib
import errno
import os
import socket
import sys
from pathlib import Path

import pytest

import safedial
from safedial._tcp import steering
from safedial.testing.intercept import intercepting
from tests.support import dials, faults, holds, namespace
from tests.support.resolvers import hosts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the option is set on Linux only")

HOST = "127.0.0.1"
# The range moves on for each connection, so that no range contains what an earlier one left in TIME_WAIT.
FIRST, WIDTH = 40000, 4
# The far server's port if the dial must not be steered: outside of every range.
FAR = 5000
# A connection from a port of the first address is in the way of servers on these.
SERVERS = {HOST: (HOST, "0.0.0.0", "::"), "::1": ("::1", "::", "0.0.0.0")}
MPTCP = 262  # linux/in.h; Python names it on some systems only


def plain(address, proto=0):
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM, proto)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def streams(open_connection, address, loop_factory=None, **options):
    async def main():
        _, writer = await open_connection(*address, **options)
        sock = writer.get_extra_info("socket").dup()  # it outlives the loop
        writer.close()
        return sock

    sock = dials.run(main(), loop_factory)
    sock.setblocking(True)
    return sock


def dialed_async(address, **options):
    sock = dials.run(safedial.Dialer(**options).dial_async(address))
    sock.setblocking(True)
    return sock


def raced(address, **options):
    """Reach the second address after the first refused."""
    resolver = hosts("127.0.0.9", address[0], port=address[1])
    return safedial.safe_connect(("db", 1), resolver=resolver, **options)


def guarded_mptcp(address, steer):
    with safedial.guard():
        return plain(address, MPTCP)


def installed(address, steer):
    safedial.install()
    try:
        return plain(address)
    finally:
        safedial.uninstall()


WAYS = {
    "safe_connect": safedial.safe_connect,
    "safe_connect with a source": lambda to, **options: safedial.safe_connect(to, None, (to[0], 0), **options),
    "Dialer.dial": lambda to, **options: safedial.Dialer(timeout=5, **options).dial(to),
    "a race": raced,
    "Dialer.dial_async": dialed_async,
    "open_connection": lambda to, **options: streams(safedial.open_connection, to, **options),
    **{name: lambda to, steer, dial=dial: dial(to) for name, dial in dials.GUARDED.items()},
    "install": installed,
    "the stdlib": lambda to, steer: plain(to),
}
if "uvloop" in dials.LOOPS:
    WAYS["open_connection, uvloop"] = lambda to, **options: streams(
        safedial.open_connection, to, dials.LOOPS["uvloop"], **options
    )
if os.path.exists("/proc/sys/net/mptcp/enabled"):
    WAYS["guard, MPTCP"] = guarded_mptcp


def test_server_can_listen_on_the_local_port(steer):
    namespace.require()
    found = namespace.call(connections_in_the_way, steer)
    expected = {case: [True] * 4 for case in found}
    assert len(found) == len(WAYS) * 6
    # The test can fail: a connection that was dialed in another way is in the way.
    expected |= {case: [False, True, False, False] for case in found if case[0] == "the stdlib"}
    assert found == expected


def connections_in_the_way(steer):
    """Return what `holds.starts_beside` says of each way to dial, each address and each server."""
    if not steer:
        steering._steerable = False
    found, low = {}, FIRST
    for way, dial in WAYS.items():
        for host, servers in SERVERS.items():
            for server in servers:
                namespace.set_port_range(low, low + WIDTH - 1)
                steering.read_anew()
                far = host, low + 1 if steer else FAR  # a port of the range is one to steer off
                found[way, host, server] = holds.starts_beside(
                    lambda dial=dial, far=far: dial(far, steer=steer), far, server
                )
                low += WIDTH
    return found


def test_server_can_listen_beside_a_self_connect_before_it_is_released():
    """As long as the kernel can't be steered there is such a moment."""
    namespace.require()
    found = namespace.call(self_connects_in_the_way, port_range=(FIRST, FIRST + 1))
    assert found == {"safe_connect": [True, True], "guard": [True, True]}


def self_connects_in_the_way():
    steering._steerable = False
    found = {}
    for name, dial in {
        "safe_connect": lambda to: safedial.safe_connect(to, policy=None),
        "guard": safedial.guard()(socket.create_connection),
    }.items():
        started = []

        def connect_and_start(sock, address, connect, started=started):
            connect()
            assert sock.getsockname() == sock.getpeername()
            with holds.listening(HOST, FIRST):
                started.append(True)
            return True

        with intercepting(connect_and_start), pytest.raises(safedial.SelfConnectError):
            dial((HOST, FIRST))
        started.append(holds.can_start(HOST, FIRST, reuse=False))
        found[name] = started
    return found


def reuses(sock):
    with sock:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1


class TestWhoseSettingWins:
    @pytest.mark.parametrize("value", [0, 1])
    @pytest.mark.parametrize("source", [None, (HOST, 0)], ids=["no source", "source"])
    def test_socket_options(self, server, steer, source, value):
        options = [(socket.SOL_SOCKET, socket.SO_REUSEADDR, value)]
        dialer = safedial.Dialer(source_address=source, socket_options=options, steer=steer)
        assert reuses(dialer.dial(server.getsockname())) is bool(value)
        assert reuses(dials.run(dialer.dial_async(server.getsockname()))) is bool(value)

    def test_other_socket_options_change_nothing(self, server):
        options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        assert reuses(safedial.safe_connect(server.getsockname(), socket_options=options))

    def test_source_port_of_a_dial(self, server, dead_port):
        assert not reuses(safedial.safe_connect(server.getsockname(), None, (HOST, dead_port)))

    @pytest.mark.parametrize("port", ["a port", 0])
    def test_port_that_a_client_bound(self, server, dead_port, port):
        with safedial.guard():
            source = (HOST, dead_port if port else 0)
            assert not reuses(socket.create_connection(server.getsockname(), 5, source))

    def test_source_address_without_a_port(self, server):
        """IP_BIND_ADDRESS_NO_PORT: the kernel has drawn no port when the client's socket connects."""
        with safedial.guard(), socket.socket() as sock:
            sock.setsockopt(socket.IPPROTO_IP, steering.IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((HOST, 0))
            sock.connect(server.getsockname())
            assert reuses(sock)

    def test_socket_that_connects_twice(self, server):
        with safedial.guard(), socket.socket() as sock:
            for port in (faults.port_never_drawn(), server.getsockname()[1]):
                code = sock.connect_ex((HOST, port))
            assert code == 0
            assert reuses(sock)

    def test_other_sockets_are_left_alone(self, tmp_path):
        with safedial.guard(), socket.socket(type=socket.SOCK_DGRAM) as datagram:
            datagram.connect((HOST, 9))
            assert not reuses(datagram)
        path = str(tmp_path / "socket")
        with safedial.guard(), socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as sock:
            server.bind(path)
            server.listen()
            sock.connect(path)
            assert not reuses(sock)


def test_source_port_that_bind_draws_is_never_another_sockets():
    """Linux before 4.2 draws it in bind(). With the option set before that, two sockets may get one port."""
    namespace.require()
    found = namespace.call(dial_with_source, port_range=(FIRST, FIRST + 1))
    assert found == [(FIRST + 1, 1), (FIRST, 1), "EADDRINUSE"]


def dial_with_source():
    Path("/proc/sys/net/ipv4/ip_autobind_reuse").write_text("1")
    steering.IP_BIND_ADDRESS_NO_PORT = 9999  # no such option
    found = []
    with contextlib.ExitStack() as stack:
        for port in range(FAR, FAR + 3):
            stack.enter_context(holds.listening(HOST, port))
            try:
                sock = safedial.safe_connect((HOST, port), None, (HOST, 0), policy=None)
            except OSError as error:
                found.append(errno.errorcode[error.errno])
            else:
                stack.enter_context(sock)
                found.append((sock.getsockname()[1], sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)))
    return found


class TestTheDialGoesOn:
    def test_where_the_option_is_denied(self, server, steering, monkeypatch):
        denied = []

        class Sandboxed(socket.socket):
            def setsockopt(self, level, option, *value):
                if (level, option) == (socket.SOL_SOCKET, socket.SO_REUSEADDR):
                    denied.append(value)
                    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
                super().setsockopt(level, option, *value)

        monkeypatch.setattr(socket, "socket", Sandboxed)
        assert not reuses(safedial.safe_connect(server.getsockname(), 5))
        with safedial.guard():
            assert not reuses(socket.create_connection(server.getsockname(), 5))
        assert denied == [(1,), (1,)]

    def test_with_a_socket_that_has_no_options(self, server, monkeypatch):
        class Limited:
            def __init__(self, *args):
                sock = plain_class(*args)
                for name in ("settimeout", "gettimeout", "connect", "getsockname", "getpeername", "fileno", "close"):
                    setattr(self, name, getattr(sock, name))

        plain_class = socket.socket
        monkeypatch.setattr(socket, "socket", Limited)
        sock = safedial.safe_connect(server.getsockname(), 5, steer=False)
        assert sock.getpeername() == server.getsockname()
        sock.close()

    def test_with_a_fake_that_has_no_addresses(self, server, monkeypatch):
        class Fake(socket.socket):
            def getsockname(self):
                return ()

        monkeypatch.setattr(socket, "socket", Fake)
        with safedial.guard():
            sock = socket.create_connection(server.getsockname(), 5)
        assert not reuses(sock)


def test_other_systems_set_nothing(server, monkeypatch):
    """On Windows the option lets another socket take the port over; BSD asks only the server's socket."""
    monkeypatch.setattr(steering, "ON_LINUX", False)
    assert not reuses(safedial.safe_connect(server.getsockname()))
    assert not reuses(dialed_async(server.getsockname()))
    with safedial.guard():
        assert not reuses(plain(server.getsockname()))
