"""Dials with other people's classes in `socket.socket`'s place, each in a process of its own: they patch all of it."""

import asyncio
import socket
import sys
import warnings

import pytest
import socks

import safedial
from safedial import testing
from safedial._dial.socket_class import can_be_nonblocking
from safedial._tcp import steering
from tests.support import dials, faults, namespace
from tests.support.policies import retrying
from tests.support.proxies import socks5
from tests.support.resolvers import addresses, servers

HOST = "127.0.0.1"
KINDS = ["eventlet", "gevent", "PySocks", "subclass"]
unsteered_in_storm = pytest.mark.parametrize(
    "steering", [True, pytest.param(False, marks=pytest.mark.storm)], ids=["steered", "unsteered"], indirect=True
)


def become(kind, steerable=True):
    """Put another class in `socket.socket`'s place, in this whole process."""
    steering._steerable = steerable and steering.ON_LINUX
    if kind == "eventlet":
        warnings.simplefilter("ignore")  # it says that it is deprecated
        import eventlet

        eventlet.monkey_patch()
    elif kind == "gevent":
        from gevent import monkey

        monkey.patch_all()
    elif kind == "PySocks":
        socket.socket = socks.socksocket  # its own recipe
    elif kind == "subclass":
        socket.socket = type(
            "Subclass", (socket.socket,), {"connect": lambda self, to: super(type(self), self).connect(to)}
        )


def outcome(dial, *args, **kwds):
    try:
        connected = dial(*args, **kwds)
    except OSError as error:
        return type(error).__name__
    if hasattr(connected, "close"):
        itself = safedial.is_self_connected(connected)
        connected.close()
        return "itself" if itself else "connected"
    return "connected"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steerable", [True, False], ids=["steered", "unsteered"])
class TestSelfConnect:
    """The kernel has two ports to draw from, and nobody listens on the one that is dialed."""

    def test_is_refused_and_the_port_is_free(self, kind, steerable):
        namespace.require()
        found = namespace.call(dial_dead_ports, kind, steerable, port_range=(40000, 40001), seconds=60)
        if steerable and faults.kernel_steers():
            assert set(found) == {"ConnectionRefusedError"}
        else:
            assert "SelfConnectError" in found
            assert set(found) <= {"SelfConnectError", "ConnectionRefusedError"}


def dial_dead_ports(kind, steerable):
    become(kind, steerable)
    address = HOST, 40000
    resolver = addresses(address, address)
    ways = [
        lambda: safedial.safe_connect(address, 5, policy=None),
        lambda: safedial.safe_connect(address, policy=None),
        lambda: safedial.safe_connect(("db", 1), 5, policy=None, resolver=resolver, total_timeout=5),
        lambda: dials.DIALS["open_connection"](*address, policy=None, timeout=5),
        lambda: safedial.guard()(socket.create_connection)(address, 5),
        lambda: safedial.wrap(socket.create_connection, policy=None)(address, 5),
        lambda: installed(lambda: socket.create_connection(address, 5)),
    ]
    found = []
    for way in ways:
        if kind in ("gevent", "eventlet") and way is ways[3]:
            continue  # asyncio.run() has its own loop
        seen = [outcome(way) for _ in range(6)]
        faults.assert_server_can_bind(*address)
        found += seen
    testing.assert_no_self_connects()
    return found


def installed(dial):
    safedial.install()
    try:
        return dial()
    finally:
        safedial.uninstall()


@unsteered_in_storm
@pytest.mark.parametrize("kind", KINDS)
def test_dials(kind, steering):
    assert namespace.call_outside(dial_servers, kind, steering) == {
        "a server": "connected",
        "a server, by open_connection": "connected",
        "a server after a black hole": "connected",
        "refused": "ConnectionRefusedError",
        "frozen": "TimeoutError",
        "frozen, by open_connection": "TimeoutError",
        "frozen, three rounds": "TimeoutError",
        "rounds": 3,
        "two that are frozen, with total_timeout": "TimeoutError",
        "guard": "connected",
        "guard, frozen": "TimeoutError",
        "a descriptor stays blocking": True,
        "a server can bind the local port": [True, True] if sys.platform == "linux" else [False, False],
    }


def dial_servers(kind, steerable):
    found, events = {}, []
    with faults.listener() as server, faults.full_listener() as frozen, testing.refused_port() as dead_port:
        become(kind, steerable)  # now: PySocks can't make a frozen server
        here, hole = server.getsockname(), frozen.getsockname()
        open_connection = dials.DIALS["open_connection"]
        found["a server"] = outcome(safedial.safe_connect, here, 5)
        found["a server, by open_connection"] = outcome(open_connection, *here, timeout=5)
        found["a server after a black hole"] = outcome(
            safedial.safe_connect, ("db", 1), 0.1, resolver=servers(frozen, server)
        )
        found["refused"] = outcome(safedial.safe_connect, (HOST, dead_port), 5)
        found["frozen"] = outcome(safedial.safe_connect, hole, 0.05)
        found["frozen, by open_connection"] = outcome(open_connection, *hole, timeout=0.05)
        found["frozen, three rounds"] = outcome(
            safedial.safe_connect, hole, 0.05, policy=retrying(3), on_event=events.append
        )
        found["rounds"] = sum(event.kind == "failed" for event in events)
        found["two that are frozen, with total_timeout"] = outcome(
            safedial.safe_connect, ("db", 1), None, resolver=servers(frozen, frozen), total_timeout=0.1
        )
        found["guard"] = outcome(safedial.guard()(socket.create_connection), here, 5)
        found["guard, frozen"] = outcome(safedial.guard()(socket.create_connection), hole, 0.05)
        with safedial.safe_connect(here, 5) as sock:
            number = sock.fileno()
            blocking = sock.gettimeout()
            safedial.is_self_connected(number)
            found["a descriptor stays blocking"] = sock.gettimeout() == blocking
        found["a server can bind the local port"] = []
        for dial in (safedial.safe_connect, safedial.guard()(socket.create_connection)):
            with dial(here, 5) as sock:
                reuse = sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
            found["a server can bind the local port"].append(bool(reuse))
    return found


@pytest.mark.parametrize("kind", ["eventlet", "PySocks", "subclass"])
def test_addresses_are_tried_one_after_the_other(kind):
    names = ["Dialer.dial", "open_connection"]
    if kind == "eventlet" and sys.version_info >= (3, 14):
        # There the second call in asyncio's executor waits for the first, which waits for the server that is frozen.
        names.remove("open_connection")
    assert namespace.call_outside(dial_in_order, kind, names) == ["failed", "connected"] * len(names)


def dial_in_order(kind, names):
    events = []
    options = {"happy_eyeballs_delay": 0, "timeout": 0.1, "on_event": lambda event: events.append(event.kind)}
    with faults.full_listener() as frozen, faults.listener() as server:
        become(kind)
        options["resolver"] = servers(frozen, server)
        for name in names:
            dials.DIALS[name]("db", 1, **options)
    return [kind for kind in events if kind in ("failed", "lost", "connected")]


def test_gevent_races():
    assert namespace.call_outside(race_by_gevent) == ["lost", "connected"]


def race_by_gevent():
    events = []
    options = {"happy_eyeballs_delay": 0.01, "timeout": 60, "on_event": lambda event: events.append(event.kind)}
    with faults.full_listener() as frozen, faults.listener() as server:
        become("gevent")
        dials.DIALS["Dialer.dial"]("db", 1, resolver=servers(frozen, server), **options)
    return [kind for kind in events if kind in ("failed", "lost", "connected")]


class TestPySocksProxy:
    @unsteered_in_storm
    def test_silent_proxy_is_bounded(self, steering):
        errors = namespace.call_outside(dial_by_a_silent_proxy, steering, seconds=60)
        assert errors == {
            "timeout": "GeneralProxyError",
            "total_timeout": "TimeoutError",
            "open_connection, timeout": True,
            "open_connection, total_timeout": "TimeoutError",
            "open_connection, cancelled": "TimeoutError",
            "the loop": "went on",
        }

    def test_works(self, steering):
        assert namespace.call_outside(dial_by_a_proxy, steering) == [b"hello"] * 6

    @pytest.mark.parametrize("steerable", [True, False], ids=["steered", "unsteered"])
    def test_dead_proxy_is_never_ourselves_under_a_guard(self, steerable):
        namespace.require()
        found = namespace.call(dial_by_a_dead_proxy, steerable, port_range=(40000, 40001))
        assert set(found) == {"ProxyConnectionError"}

    def test_destination_on_the_local_port_is_no_self_connect(self):
        """PySocks' getpeername() returns the destination, which may have this socket's own address."""
        assert namespace.call_outside(dial_the_own_port_by_a_proxy) == "connected"


def stay_silent(connection):
    while connection.recv(1000):
        pass


def use_proxy(address):
    socks.set_default_proxy(socks.SOCKS5, *address)
    become("PySocks", steering._steerable)


def dial_by_a_silent_proxy(steerable):
    steering._steerable = steerable
    found, turns = {}, []

    async def tick():
        while True:
            turns.append(1)
            await asyncio.sleep(0.01)

    async def dial(**options):
        ticking = asyncio.create_task(tick())
        try:
            await safedial.open_connection("db", 1, resolver=two, policy=None, **options)
        finally:
            ticking.cancel()

    async def cancelled():
        async with asyncio.timeout(0.1):
            await dial()

    two = addresses(("192.0.2.1", 80), ("192.0.2.2", 80))
    with testing.Outage(stay_silent) as proxy:
        use_proxy(proxy.address)
        options = {"resolver": two, "policy": None}
        found["timeout"] = outcome(safedial.safe_connect, ("db", 1), 0.1, **options)
        found["total_timeout"] = outcome(safedial.safe_connect, ("db", 1), total_timeout=0.2, **options)
        limited = outcome(lambda: dials.run(dial(timeout=0.1)))
        found["open_connection, timeout"] = limited in ("OSError", "TimeoutError", "GeneralProxyError")
        found["open_connection, total_timeout"] = outcome(lambda: dials.run(dial(total_timeout=0.2)))
        found["open_connection, cancelled"] = outcome(lambda: dials.run(cancelled()))
        found["the loop"] = "went on" if len(turns) > 5 else turns
    return found


def dial_by_a_proxy(steerable):
    steering._steerable = steerable
    found = []
    with testing.Outage() as server, testing.Outage(socks5) as proxy:
        use_proxy(proxy.address)
        two = addresses(server.address, server.address)
        ways = [
            lambda: safedial.safe_connect(server.address, 5),
            lambda: safedial.safe_connect(("db", 1), 5, resolver=two, total_timeout=5),
            lambda: safedial.guard()(safedial.safe_connect)(server.address, 5),
            lambda: safedial.guard()(socket.create_connection)(server.address, 5),
            lambda: safedial.wrap(socket.create_connection)(server.address, 5),
            lambda: asyncio.run(safedial.Dialer(timeout=5).dial_async(server.address)),
        ]
        for dial in ways:
            with dial() as sock:
                assert isinstance(sock, socks.socksocket)
                sock.settimeout(5)
                sock.sendall(b"hello")
                found.append(sock.recv(9))
    return found


def dial_by_a_dead_proxy(steerable):
    steering._steerable = steerable
    use_proxy((HOST, 40000))
    found = []
    with safedial.guard():
        for _ in range(8):
            found.append(outcome(safedial.safe_connect, (HOST, 9), 5, policy=None))
            found.append(outcome(dials.DIALS["open_connection"], HOST, 9, timeout=5, policy=None))
            faults.assert_server_can_bind(HOST, 40000)
    testing.assert_no_self_connects()
    return found


def dial_the_own_port_by_a_proxy():
    """The dialed port is the source port that the kernel has drawn: the proxy takes it for another host's."""
    port = testing.dead_port()
    steering._steerable = False

    def proxy(connection):
        _, methods = connection.recv(2)
        connection.recv(methods)
        connection.sendall(b"\x05\x00")
        connection.recv(10)
        connection.sendall(b"\x05\x00\x00\x01" + bytes(6))
        stay_silent(connection)

    with testing.Outage(proxy) as server:
        use_proxy(server.address)
        options = {"socket_options": [faults.option(port, port)]} if faults.kernel_steers() else {}
        return outcome(safedial.safe_connect, (HOST, port), 5, policy=None, **options)


class TestRule:
    def test_known_classes(self):
        class Plain(socket.socket):
            def recv(self, *args):
                return super().recv(*args)

        assert can_be_nonblocking(socket.socket)
        assert can_be_nonblocking(Plain)
        with safedial.guard():
            assert can_be_nonblocking(type("Guarded", (socket.socket,), {}))

    @pytest.mark.parametrize("method", ["connect", "setblocking", "settimeout"])
    def test_class_with_a_method_of_its_own(self, method):
        kind = type("Other", (socket.socket,), {method: lambda self, value: None})
        assert not can_be_nonblocking(kind)
        assert not can_be_nonblocking(type("Heir", (kind,), {}))
        assert not can_be_nonblocking(socks.socksocket)

    def test_class_that_lacks_all(self):
        assert not can_be_nonblocking(object)
