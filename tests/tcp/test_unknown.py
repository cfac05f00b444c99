"""Connections whose addresses can't be read: they were reset, or a sandbox is in the way. Are they self-connects?"""

import asyncio
import errno
import functools
import itertools
import select
import socket
import sys

import pytest

import safedial
from safedial._clients import guarded_connect, sockets
from safedial._tcp import connect, selfconnect, steering
from tests.support import dials, far_host, faults, left, namespace, sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2, namespaces and seccomp are Linux's")


def blocking(host, port, *, steer):
    safedial.safe_connect((host, port), steer=steer, policy=None).close()


def in_asyncio(host, port, *, steer, loop_factory=None):
    async def dial():
        _, writer = await safedial.open_connection(host, port, steer=steer, policy=None)
        writer.transport.abort()

    dials.run(dial(), loop_factory)


def raced(host, port, *, steer):
    """Begin without waiting, as in a race; raise what came of the first attempt."""
    errors = []
    dialer = safedial.Dialer(
        resolver=lambda *_, **__: [faults.tcp(host, port), faults.tcp("127.0.0.1", 1)],
        happy_eyeballs_delay=60,
        on_event=lambda event: errors.append(event.error),
        steer=steer,
        policy=None,
    )
    try:
        dialer.dial(("host.test", port)).close()
    except OSError:
        raise next(filter(None, errors)) from None


def guarded(name):
    return lambda host, port, *, steer: dials.GUARDED[name]((host, port)).close()


WAYS = {
    "safe_connect": blocking,
    **{name: functools.partial(in_asyncio, loop_factory=factory) for name, factory in dials.LOOPS.items()},
    "race": raced,
    **{name: guarded(name) for name in dials.GUARDED},
}
PORT = 40000


def forget_no_range():
    """Let steering go on with the range of now, though it will change: then the port dialed can be drawn."""
    steering._RANGE_AGE = 60.0
    steering.read_anew()


def far_resets(steer):
    """Return what came of connections with equal ports to another host, which resets them before they are looked at."""
    reached_itself = connect.reached_itself

    def after_the_reset(sock, sockaddr):
        reset()
        poll = select.poll()
        poll.register(sock, 0)  # for POLLHUP
        poll.poll()
        return reached_itself(sock, sockaddr)

    connect.reached_itself = guarded_connect.reached_itself = after_the_reset
    forget_no_range()
    namespace.set_port_range(PORT, PORT)
    found = {}
    with far_host.resetting(PORT) as reset:
        for name, way in WAYS.items():
            try:
                way(far_host.ADDRESS, PORT, steer=steer)
                found[name] = "connected"
            except OSError as error:
                found[name] = type(error).__name__, error.errno, str(error)
        namespace.set_port_range(PORT + 1, PORT + 1)
        with safedial.safe_connect((far_host.ADDRESS, PORT)) as sock:
            try:
                found["other port"] = sock.recv(1)
            except OSError as error:
                found["other port"] = type(error).__name__
    return found


def test_far_reset_is_said_to_be_one(steer):
    namespace.require()
    far_host.require()
    found = namespace.call_with_accounts(far_resets, steer)
    assert found.pop("other port") == "ConnectionResetError"
    assert len(found) == len(WAYS)
    for name, came in found.items():
        assert came[:2] == ("ConnectionResetError", errno.ECONNRESET), name
        if name != "guard, asyncio":  # it waits for the connection, and says it in its own words
            assert f"{far_host.ADDRESS} port {PORT}" in came[2]


def outcomes(*forbidden):
    """Return what came of self-connects, and of connections to a server, where system calls are *forbidden*."""
    forget_no_range()
    found = {"itself": {}, "server": {}}
    with faults.listener(port=20000):
        for factory in dials.LOOPS.values():
            dials.run(asyncio.sleep(0), factory)  # uvloop keeps a pipe
        open_before = left.open_descriptors()
        for call in forbidden:
            sandbox.forbid(*call)
        ports = itertools.count(40000, 2)  # each is used once: it may be in TIME_WAIT
        for name, way in WAYS.items():
            for steer in (True, False):
                port = next(ports)
                for kind, target, port_range in (("itself", port, (port, port)), ("server", 20000, (32768, 60999))):
                    namespace.set_port_range(*port_range)
                    try:
                        way("127.0.0.1", target, steer=steer)
                        found[kind][name, steer] = "connected"
                    except OSError as error:
                        found[kind][name, steer] = type(error).__name__, getattr(error, "__notes__", [])
        assert left.open_descriptors() == open_before
    return found


def test_clients_own_socket_is_closed(server):
    class Denied(socket.socket):
        def getsockname(self):
            raise PermissionError(errno.EPERM, "Operation not permitted")

    with safedial.guard(), Denied() as sock:
        with pytest.raises(PermissionError):
            sock.connect(server.getsockname())
        assert sock.fileno() == -1


def test_wildcard_is_the_address_of_this_host_if_the_peer_is_not_known(monkeypatch):
    monkeypatch.setattr(selfconnect, "ON_LINUX", False)  # no SO_PEERNAME
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # not connected, so that it has no peer
        port = sock.getsockname()[1]
        assert selfconnect.reached_itself(sock, ("0.0.0.0", port))
        with pytest.raises(OSError, match="not connected"):
            selfconnect.reached_itself(sock, ("127.0.0.2", port))


class TestSandbox:
    @pytest.fixture(autouse=True)
    def _needs_a_sandbox(self):
        namespace.require()
        sandbox.require_seccomp()

    def test_without_getsockname_nothing_is_returned_and_nothing_claimed(self):
        found = namespace.call(outcomes, ("getsockname",))
        for kind, notes in [*found["itself"].values(), *found["server"].values()]:
            assert kind == "PermissionError"
            assert any("addresses can't be read" in note for note in notes)

    @pytest.mark.parametrize("and_by_option", [False, True])
    def test_without_getpeername_the_check_works(self, and_by_option):
        by_option = [("getsockopt", socket.SOL_SOCKET, selfconnect._SO_PEERNAME)] if and_by_option else []
        found = namespace.call(outcomes, ("getpeername",), *by_option)
        assert {kind for kind, _ in found["itself"].values()} == {"SelfConnectError"}
        assert found["server"] == dict.fromkeys(found["server"], "connected")

    def test_without_so_linger_a_self_connect_is_one(self):
        found = namespace.call(outcomes, ("setsockopt", socket.SOL_SOCKET, socket.SO_LINGER))
        for kind, notes in found["itself"].values():
            assert kind == "SelfConnectError"
            assert any("SO_LINGER was denied" in note for note in notes)
        assert found["server"] == dict.fromkeys(found["server"], "connected")

    @pytest.mark.storm
    def test_without_so_linger_wrap_sees_a_self_connect(self):
        assert namespace.call(what_wrap_sees) == "SelfConnectError"


def what_wrap_sees():
    sandbox.forbid("setsockopt", socket.SOL_SOCKET, socket.SO_LINGER)
    with faults.dial_itself(PORT) as sock:
        return type(sockets.self_connect_of(sock)).__name__
