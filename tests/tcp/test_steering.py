"""Steering: the two sides of the ephemeral range, and a range that changes between dials."""

import asyncio
import errno
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import safedial
from safedial._tcp import destinations, steering
from tests.support import dials, exhaustion, faults, namespace

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


def test_refusal_by_one_socket_is_not_the_kernels(monkeypatch):
    monkeypatch.setattr(steering, "_steerable", True)
    steering.refused(PermissionError(errno.EPERM, "Operation not permitted"))
    assert steering._steerable


def test_number_of_destinations_is_bounded(monkeypatch):
    monkeypatch.setattr(destinations, "_MOST_REMEMBERED", 2)
    for port in (1, 2, 3):
        destinations.note_reached(("127.0.0.1", port), port)
    assert destinations.reached_as_dialed == {("127.0.0.1", 1), ("127.0.0.1", 2)}


def test_range_that_moved_is_believed(monkeypatch):
    monkeypatch.setattr(steering, "_believed", (float("inf"), None))
    ports = steering.PortRange(40000, 40009)
    assert steering.moved_sides(ports, 40004, (1,)) == steering._side_options(40004, ports)
    assert steering.known_range() == ports


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

    @pytest.mark.parametrize(
        ("name", "port"),
        [("guard", 40003), pytest.param("guard", 40001, marks=pytest.mark.storm), ("open_connection", 40001)],
    )
    def test_every_port_of_a_wider_range_is_used_in_an_event_loop(self, name, port):
        """The file is not read there."""
        namespace.require()
        found = namespace.call(dial_in_a_loop_after_widening, name, port, port_range=(40000, 40003))
        assert found == {"connected": 100, "refused": True}

    @pytest.mark.parametrize("name", ["Dialer.dial_async", pytest.param("safe_connect", marks=pytest.mark.storm)])
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


def dial_in_a_loop_after_widening(name, port):
    """Dial a server until no port of the narrow range is free, and go on in a wide one; then dial a dead port."""
    found = {"connected": 0}

    async def dial(port):
        if name == "guard":
            with safedial.guard():
                return (await asyncio.open_connection("127.0.0.1", port))[1]
        return (await safedial.open_connection("127.0.0.1", port, policy=None))[1]

    async def main():
        writers = [await dial(port) for _ in range(3)]
        with pytest.raises(safedial.PortsExhaustedError):
            await dial(port)
        namespace.set_port_range(39990, 41000)
        steering._believe(steering.PortRange(40000, 40003))  # it is some milliseconds ago
        writers += [await dial(port) for _ in range(100)]
        found["connected"] = len(writers) - 3
        try:
            await dial(40002)
        except ConnectionRefusedError:
            found["refused"] = True
        for writer in writers:
            writer.transport.abort()

    with faults.listener(port=port):
        dials.run(main())
    return found


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
