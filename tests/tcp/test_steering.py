"""Steering: the two sides of the ephemeral range, and a range that changes between dials."""

import asyncio
import contextlib
import errno
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import safedial
from safedial._tcp import steering
from safedial.testing.intercept import intercepting
from tests.support import exhaustion, faults, namespace

PORTS = st.integers(1, 65535)
RANGES = st.tuples(PORTS, PORTS).map(lambda pair: steering.PortRange(min(pair), max(pair)))


def sides(port, port_range):
    """Return the ranges that `_side_options` stands for."""
    options = steering._side_options(port, port_range)
    return [steering.PortRange(each & 0xFFFF, each >> 16 & 0xFFFF) for each in options if each]


@given(PORTS, RANGES)
def test_sides_cover_the_range_without_the_port(port, port_range):
    found = sides(port, port_range)
    if not port_range.low <= port <= port_range.high:
        assert found == []
        return
    covered = [number for side in found for number in (side.low, side.high)]
    assert all(side.low <= side.high for side in found)
    assert port not in covered
    size = sum(side.high - side.low + 1 for side in found)
    assert size == port_range.high - port_range.low, "only the port itself is lost"
    assert not any(side.low <= port <= side.high for side in found)
    assert [s.high - s.low for s in found] == sorted((s.high - s.low for s in found), reverse=True)


@given(PORTS)
def test_unknown_range_has_no_sides(port):
    assert steering._side_options(port, None) == steering.UNSTEERED


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (32768, [(32769, 60999)]),
        (60999, [(32768, 60998)]),
        (32769, [(32770, 60999), (32768, 32768)]),
        (60000, [(32768, 59999), (60001, 60999)]),
        (32767, []),
        (61000, []),
    ],
)
def test_sides_at_the_edges(port, expected):
    assert [tuple(side) for side in sides(port, steering.PortRange(32768, 60999))] == expected


def test_range_is_read_from_the_kernel():
    found = steering.read_range()
    assert found is None or 0 < found.low <= found.high <= 65535


@pytest.mark.parametrize("content", ["", "rubbish", "1 2 3", "1 65536", "70000 80000", "60999 32768", "0 9", None])
def test_without_a_readable_range_self_connects_are_detected(monkeypatch, tmp_path, force, dead_port, content):
    file = tmp_path / "range"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(steering, "_RANGE_FILE", str(file))
    assert steering.read_range() is None
    assert steering.side_options(dead_port) == steering.UNSTEERED
    force(dead_port)
    with pytest.raises(safedial.SelfConnectError):
        safedial.safe_connect(("127.0.0.1", dead_port))


def test_kernel_without_the_option_is_asked_once(monkeypatch, server):
    asked = []

    class Old(socket.socket):
        def setsockopt(self, level, option, *value):
            if (level, option) == (socket.IPPROTO_IP, steering.IP_LOCAL_PORT_RANGE):
                asked.append(value)
                raise OSError(errno.ENOPROTOOPT, "Protocol not available")
            super().setsockopt(level, option, *value)

    monkeypatch.setattr(steering, "_steerable", True)
    monkeypatch.setattr(steering, "_believed", (float("inf"), steering.PortRange(1024, 65535)))
    monkeypatch.setattr(socket, "socket", Old)
    for _ in range(3):
        safedial.safe_connect(server.getsockname()).close()
    assert len(asked) == 1


def test_linux_options_are_not_set_on_other_systems(monkeypatch, dial, server):
    given = []

    class Spy(socket.socket):
        def setsockopt(self, level, option, *value):
            given.append((level, option))
            super().setsockopt(level, option, *value)

    monkeypatch.setattr(steering, "ON_LINUX", False)
    monkeypatch.setattr(steering, "_steerable", False)
    monkeypatch.setattr(socket, "socket", Spy)
    ends = dial(*server.getsockname(), source=("127.0.0.1", 0))
    assert ends.peer == server.getsockname()
    assert [level for level, _ in given if level == socket.IPPROTO_IP] == []


@pytest.mark.storm
@pytest.mark.parametrize("source", [None, ("127.0.0.1", 0)])
@pytest.mark.parametrize("name", ["safe_connect", "open_connection", "Dialer.dial_async"])
@pytest.mark.parametrize("port", [40000, 40004, 40010])
def test_steered_dials_use_both_sides(name, source, port):
    """The range has eleven ports, one of them the server's: ten dials connect, the eleventh fails."""
    namespace.require()
    found = namespace.call(exhaustion.exhaust, name, port, source, port_range=exhaustion.RANGE)
    assert found["connected"] == 10
    assert found["local ports"] == [p for p in range(40000, 40011) if p != port]
    assert found["error"] == "PortsExhaustedError"
    assert found["range"] == [40000, 40010]
    assert found["in use"] == found["ss"] == 10
    assert "pool" in found["text"]


def test_steered_dials_never_self_connect_whatever_the_step():
    """Linux 7.2 can draw ports by a step of its own."""
    namespace.require()
    faults.require_option()
    assert set(namespace.call(dial_with_each_step, port_range=(40000, 40004))) == {"ConnectionRefusedError"}


def dial_with_each_step():
    step = Path("/proc/sys/net/ipv4/ip_local_port_step_width")
    found = []
    for width in ("0", "1", "2", "3", "8") if step.exists() else ("0",):
        if step.exists():
            step.write_text(width)
        for port in (40000, 40002, 40003, 40004) * 10:
            try:
                safedial.safe_connect(("127.0.0.1", port), policy=None).close()
            except OSError as error:
                found.append(type(error).__name__)
    return found


class TestChangedRange:
    """The range is remembered for a second. If ports run out, it is read again."""

    @pytest.mark.parametrize("name", ["safe_connect", "Dialer.dial_async"])
    def test_every_port_of_a_wider_range_is_used(self, name):
        namespace.require()
        assert namespace.call(dial_after_widening, name, port_range=(40000, 40003)) == 10

    def test_every_port_of_a_range_without_the_servers_port_is_used(self):
        namespace.require()
        assert namespace.call(dial_after_moving, port_range=(40000, 40009)) == 8

    @pytest.mark.parametrize("name", ["safe_connect", "Dialer.dial_async"])
    def test_exhausted_range_that_changed_is_explained(self, name):
        namespace.require()
        assert namespace.call(dial_into_an_exhausted_range, name, port_range=(40000, 40009)) == "PortsExhaustedError"

    def test_thread_in_its_own_namespace_reads_its_own_range(self):
        namespace.require()
        found = namespace.call(exhaust_in_a_thread, port_range=(50000, 50009))
        assert found == {"connected": 10, "in use": 10, "range": [40000, 40010]}


def dial_after_widening(name):
    with faults.listener(port=40001) as server:
        address = server.getsockname()
        exhaustion.keep(name, address, None).close()  # the narrow range is remembered
        namespace.set_port_range(32768, 60999)
        held = [exhaustion.keep(name, address, None) for _ in range(10)]
        for sock in held:
            sock.close()
        return len(held)


def dial_after_moving():
    with faults.listener(port=40009) as server:
        address = server.getsockname()
        safedial.safe_connect(address).close()  # the range from 40000 to 40008 is remembered
        namespace.set_port_range(39992, 40003)
        held = [safedial.safe_connect(address, policy=None) for _ in range(8)]
        for sock in held:
            sock.close()
        return len(held)


def dial_into_an_exhausted_range(name):
    with faults.listener(port=40005) as server, socket.socket() as one, socket.socket() as other:
        address = server.getsockname()
        exhaustion.keep(name, address, None).close()  # a range with the server's port is remembered
        for port, holder in ((39992, one), (39993, other)):
            holder.bind(("127.0.0.1", port))
        namespace.set_port_range(39992, 39993)
        try:
            exhaustion.keep(name, address, None).close()
        except (OSError, RecursionError) as error:
            return type(error).__name__
    return "connected"


def exhaust_in_a_thread():
    with faults.listener(port=50000) as server:
        safedial.safe_connect(server.getsockname()).close()  # the range of the main thread is remembered
    found = {}

    def other_namespace():
        namespace.enter_network(exhaustion.RANGE)
        with faults.listener(port=40000) as server:
            held = []
            try:
                for _ in range(30):
                    held += [safedial.safe_connect(server.getsockname(), policy=None)]
            except safedial.PortsExhaustedError as error:
                found["in use"] = error.usage.in_use
                found["range"] = [error.usage.low, error.usage.high]
            found["connected"] = len(held)
            for sock in held:
                sock.close()

    thread = threading.Thread(target=other_namespace)
    thread.start()
    thread.join()
    return found


def guarded(address, *options):
    with safedial.guard():
        sock = socket.socket()
        for option in options:
            sock.setsockopt(*option)
        sock.connect(address)
    return sock


def guarded_in_asyncio(address, *options):
    async def dial():
        with safedial.guard():
            sock = socket.socket()
            sock.setblocking(False)
            for option in options:
                sock.setsockopt(*option)
            await asyncio.get_running_loop().sock_connect(sock, address)
        return sock

    return asyncio.run(dial())


def dialed(address, *options, **kwds):
    return safedial.safe_connect(address, socket_options=options, policy=None, **kwds)


def dialed_in_asyncio(address, *options):
    return asyncio.run(safedial.Dialer(socket_options=options, policy=None).dial_async(address))


def not_steered(address, *options):
    return dialed(address, *options, steer=False)


WAYS = {
    "dial": dialed,
    "not steered": not_steered,
    "dial_async": dialed_in_asyncio,
    "guard": guarded,
    "guard, asyncio": guarded_in_asyncio,
}


class TestHalfInUse:
    """A port outside of the range needs no steering, but past half of the range a connect walks a long way."""

    @pytest.fixture(autouse=True)
    def _needs_steering_in_a_namespace(self):
        namespace.require()
        faults.require_option()

    def test_socket_gets_the_whole_range(self):
        # The ports of one parity come first. The first dial after them shows that, and is remembered for a second.
        parities, ranges = [0, 0, 0, 0, 0, 1] + [1] * 4, [None] * 6 + [(40000, 40009)] * 4
        found = namespace.call(fill, port_range=(40000, 40009))
        assert found == {name: (parities, [None] * 10 if name == "not steered" else ranges) for name in WAYS}

    def test_is_known_though_another_dial_forgot_it_meanwhile(self):
        found = namespace.call(fill, True, port_range=(40000, 40009))
        assert {name: ranges[7:] for name, (_, ranges) in found.items() if name != "not steered"} == {
            name: [(40000, 40009)] * 3 for name in WAYS if name != "not steered"
        }

    def test_range_of_the_caller_stays(self):
        found = namespace.call(dial_from_a_range_of_its_own, port_range=(40000, 40009))
        assert found == {name: ([1, 0, 1, 0], [(40001, 40001), None, (40003, 40003), None]) for name in WAYS}

    def test_wider_range_is_used(self):
        # Not in an event loop, where the range is read a second later.
        assert set(namespace.call(widen_after_the_half, port_range=(40000, 40009))) <= {39998, 39999}


def shown(socks):
    """Return the parity of each local port, and the ranges that the sockets have been given."""
    ranges = [steering.own_range(sock) for sock in socks]
    return [sock.getsockname()[1] % 2 for sock in socks], [own and tuple(own) for own in ranges]


@contextlib.contextmanager
def held_sockets(number):
    """A server of its own for each way to dial, and a stack for the sockets."""
    steering._RANGE_AGE = 60.0
    steering.read_anew()
    with faults.listener(port=30000 + number) as server, contextlib.ExitStack() as held:
        yield server.getsockname(), held.enter_context


def fill(forgotten=False):
    """Dial until all of ten ports are in use; if *forgotten*, another dial reads the range while the seventh does."""
    found = {}

    def read_meanwhile(sock, address, connect):
        steering.read_anew()
        connect()
        return True

    for number, (name, dial) in enumerate(WAYS.items()):
        with held_sockets(number) as (address, hold):
            socks = [hold(dial(address)) for _ in range(5)]
            steering.read_anew()  # a second later
            socks += [hold(dial(address))]
            with intercepting(read_meanwhile) if forgotten else contextlib.nullcontext():
                socks += [hold(dial(address))]
            socks += [hold(dial(address)) for _ in range(3)]
            found[name] = shown(socks)
    return found


def dial_from_a_range_of_its_own():
    """Dial in turn with a range of the caller's own, from which nothing is learned, and without."""
    found = {}
    for number, (name, dial) in enumerate(WAYS.items()):
        with held_sockets(number) as (address, hold):
            each = ([faults.option(40001, 40001)], [], [faults.option(40003, 40003)], [])
            socks = [hold(dial(address, *options)) for options in each]
            found[name] = shown(socks)
    return found


def widen_after_the_half():
    """Widen the range when it is exhausted; return the first port below it that is then drawn."""
    found = []
    for number, dial in enumerate((dialed, dialed_in_asyncio, guarded)):
        namespace.set_port_range(40000, 40009)
        with held_sockets(number) as (address, hold):
            for dials in range(10):
                if dials == 5:
                    steering.read_anew()
                hold(dial(address))
            namespace.set_port_range(39998, 40009)  # an even number of ports, as in exhaustion.RANGE
            found.append(hold(dial(address)).getsockname()[1])
    return found
