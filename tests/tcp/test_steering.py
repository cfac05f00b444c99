"""EADDRNOTAVAIL told apart, sides swapped, exhaustion explained: on the real kernel."""

import contextlib
import errno
import shutil
import socket
import subprocess
import threading

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

import safedial
from safedial import testing
from safedial._tcp import procnet, selfconnect, steering
from tests.support import faces, faults, namespace

PORTS = st.integers(1, 65535)
RANGES = st.tuples(PORTS, PORTS).map(lambda pair: steering.PortRange(min(pair), max(pair)))


@given(PORTS, RANGES)
def test_sides_cover_the_range_but_for_the_port(port, port_range):
    found = steering.sides(port, port_range)
    if not port_range.low <= port <= port_range.high:
        assert found == ()
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
    assert steering.sides(port, None) == ()
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
    assert [tuple(side) for side in steering.sides(port, steering.PortRange(32768, 60999))] == expected


def test_range_is_read_from_the_kernel():
    found = steering.read_range()
    assert found is None or 0 < found.low <= found.high <= 65535


@pytest.mark.parametrize("content", ["", "rubbish", "1 2 3", None])
def test_unreadable_range_leaves_the_guard(monkeypatch, tmp_path, force, dead_port, content):
    file = tmp_path / "range"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(steering, "_RANGE_FILE", str(file))
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


def test_other_systems_are_not_given_linux_numbers(monkeypatch, dial, server):
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


def test_other_systems_catch_it_too(monkeypatch, dial, force, dead_port):
    monkeypatch.setattr(steering, "ON_LINUX", False)
    monkeypatch.setattr(steering, "_steerable", False)
    force(dead_port)
    with pytest.raises(safedial.SelfConnectError):
        dial("127.0.0.1", dead_port, policy=None)
    faults.assert_server_can_bind("127.0.0.1", dead_port)


class TestAddressNotAvailable:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_forced_exhaustion(self, dial, steer, host):
        with testing.refused_port() as held, faults.listener(host) as server:
            port = server.getsockname()[1]
            if ":" in host:
                held = port  # a listener's port is never drawn either
            with pytest.raises(safedial.PortsExhaustedError) as caught:
                dial(host, port, steer=steer, policy=None, socket_options=[faults.option(held, held)])
        assert caught.value.errno == errno.EADDRNOTAVAIL
        assert (caught.value.host, caught.value.port) == (host, port)
        assert (caught.value.usage.low, caught.value.usage.high) == (held, held)
        for part in (host, str(port), "ss -tan", "ip_local_port_range"):
            assert part in str(caught.value)
        assert isinstance(caught.value.__cause__, OSError), "the kernel's own error is the cause"

    def test_bad_source_address_is_permanent(self, dial, steer, server):
        policy = safedial.reconnect()
        with pytest.raises(OSError, match="assign requested address") as caught:
            dial(*server.getsockname(), source=("192.0.2.1", 0), steer=steer, policy=policy)
        assert caught.value.errno == errno.EADDRNOTAVAIL
        assert not isinstance(caught.value, safedial.PortsExhaustedError)
        notes = "".join(caught.value.__notes__)
        assert "1 round," in notes
        assert "192.0.2.1" in str(caught.value) + notes

    @pytest.mark.parametrize("face", faces.FACES)
    def test_ipv6_switched_off_is_permanent(self, face):
        namespace.require()
        errno_, name, notes = namespace.call(dial_ipv6, face, ipv6=False)
        assert (errno_, name) == (errno.EADDRNOTAVAIL, "OSError")
        assert "1 round," in notes[0]

    def test_next_address_is_tried_where_ipv6_is_off(self):
        namespace.require()
        assert namespace.call(dial_name_with_dead_ipv6, ipv6=False) == ["127.0.0.1", "127.0.0.1"]


def dial_ipv6(face):
    try:
        faces.FACES[face]("::1", 40000, policy=safedial.reconnect())
    except OSError as error:
        return [error.errno, type(error).__name__, error.__notes__]
    return None


def two_addresses(first, second, port):
    """A getaddrinfo that names two hosts; the resolver is what a test can't own."""

    def getaddrinfo(*args, **kwds):
        return [
            (socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
            for host in (first, second)
        ]

    return getaddrinfo


def dial_name_with_dead_ipv6():
    with faults.listener() as server:
        socket.getaddrinfo = two_addresses("::1", "127.0.0.1", server.getsockname()[1])
        return [faces.FACES[face]("db", 1).peer[0] for face in ("safe_connect", "open_connection")]


@pytest.mark.skipif(not faults.kernel_steers(), reason="this kernel has no IP_LOCAL_PORT_RANGE (Linux 6.3)")
def test_exhausted_towards_every_address(dial, steer):
    with testing.refused_port() as held, faults.listener() as one, faults.listener() as two:
        resolver = two_addresses("127.0.0.1", "127.0.0.1", one.getsockname()[1])
        answers = [*resolver()[:1], *two_addresses("127.0.0.1", "127.0.0.1", two.getsockname()[1])()[:1]]
        options = {"resolver": lambda *args, **hints: answers, "socket_options": [faults.option(held, held)]}
        with pytest.raises(safedial.PortsExhaustedError):
            dial("db", 1, steer=steer, policy=None, **options)


@pytest.mark.skipif(shutil.which("ss") is None, reason="compares with ss (Debian: iproute2)")
class TestEveryPortButOne:
    @pytest.mark.storm
    @pytest.mark.parametrize("source", [None, ("127.0.0.1", 0)])
    @pytest.mark.parametrize("face", ["safe_connect", "open_connection", "Dialer.dial_async"])
    @pytest.mark.parametrize("port", [40000, 40004, 40009])
    def test_steered_dials_use_both_sides(self, face, source, port):
        """Ten ports in the range, one of them the server's: nine connections, then exhaustion."""
        namespace.require()
        found = namespace.call(exhaust, face, port, source, port_range=(40000, 40009))
        assert found["connected"] == 9
        assert found["local ports"] == [p for p in range(40000, 40010) if p != port]
        assert found["error"] == "PortsExhaustedError"
        assert found["range"] == [40000, 40009]
        assert found["in use"] == found["ss"] == 9
        assert "pool" in found["text"]

    @pytest.mark.parametrize("host", ["::ffff:127.0.0.1", "0.0.0.0", "::1", "::"])
    def test_other_spellings_of_the_destination_are_counted(self, host):
        namespace.require()
        found = namespace.call(exhaust, "safe_connect", 40000, None, host, port_range=(40000, 40009))
        assert found["in use"] == found["ss"] == 9

    def test_v4_mapped_clients_are_counted(self):
        namespace.require()
        assert namespace.call(usage_of_a_v4_mapped_client) == [1, 1]

    def test_time_wait_is_counted(self):
        namespace.require()
        found = namespace.call(exhaust_with_time_wait, port_range=(40000, 40009))
        assert found["in use"] == 9
        assert found["time wait"] == found["ss time wait"] == 4

    def test_default_policy_waits_until_a_port_is_free(self):
        namespace.require()
        assert namespace.call(wait_for_a_port, port_range=(40000, 40009))

    @pytest.mark.parametrize("face", ["safe_connect", "Dialer.dial", "Dialer.dial_async", "open_connection"])
    def test_policy_that_waits_gets_the_first_port_that_is_free(self, face, steer):
        namespace.require()
        found = namespace.call(dial_while_ports_come_free, face, steer, port_range=(40000, 40009))
        assert found == ["failed", "failed", "retry", "failed", "failed", "retry", "failed", "connected"]


def dial_while_ports_come_free(face, steer):
    """Two addresses, each with all its ports in use; before the third round one is given back."""
    told = []
    with contextlib.ExitStack() as stack:
        answers, held = [], []
        for host in ("127.0.0.1", "127.0.0.2"):
            server = stack.enter_context(faults.listener(host, 40000))
            answers.append(faults.tcp(*server.getsockname()))
            with contextlib.suppress(safedial.PortsExhaustedError):
                while True:
                    sock = safedial.safe_connect(server.getsockname(), policy=None, steer=False)
                    held.append(stack.enter_context(sock))

        def hook(event):
            told.append(event.kind)
            if event.kind == "retry" and event.round == 2:
                selfconnect.release(held.pop())  # without TIME_WAIT

        policy = tenacity.Retrying(
            retry=safedial.retry_if_spurious, wait=tenacity.wait_fixed(0.01), stop=tenacity.stop_after_attempt(9)
        )
        options = {"resolver": lambda *args, **hints: answers, "policy": policy, "on_event": hook, "steer": steer}
        faces.FACES[face]("db", 1, happy_eyeballs_delay=60, **options)
    return told


class TestRangeThatMoved:
    """The believed range is a second old at most, and never the last word."""

    @pytest.mark.parametrize("face", ["safe_connect", "Dialer.dial_async"])
    def test_no_port_of_the_new_range_is_lost(self, face):
        namespace.require()
        assert namespace.call(dial_after_widening, face, port_range=(40000, 40003)) == 10

    def test_nor_where_the_port_is_not_in_it_any_more(self):
        namespace.require()
        assert namespace.call(dial_after_moving_away, port_range=(40000, 40009)) == 8

    @pytest.mark.parametrize("face", ["safe_connect", "Dialer.dial_async"])
    def test_range_that_moved_and_is_used_up(self, face):
        namespace.require()
        assert namespace.call(dial_into_a_used_up_range, face, port_range=(40000, 40009)) == "PortsExhaustedError"

    def test_threads_in_namespaces_of_their_own(self):
        namespace.require()
        found = namespace.call(exhaust_in_a_thread, port_range=(50000, 50009))
        assert found == {"connected": 9, "in use": 9, "range": [40000, 40009]}


def dial_after_widening(face):
    with faults.listener(port=40001) as server:
        address = server.getsockname()
        _keep(face, address, None).close()  # now the narrow range is believed
        namespace.set_port_range(32768, 60999)
        held = [_keep(face, address, None) for _ in range(10)]
        for sock in held:
            sock.close()
        return len(held)


def dial_after_moving_away():
    with faults.listener(port=40009) as server:
        address = server.getsockname()
        safedial.safe_connect(address).close()  # now ports 40000 to 40008 are drawn from
        namespace.set_port_range(39992, 40003)
        held = [safedial.safe_connect(address, policy=None) for _ in range(8)]
        for sock in held:
            sock.close()
        return len(held)


def dial_into_a_used_up_range(face):
    with faults.listener(port=40005) as server, socket.socket() as one, socket.socket() as other:
        address = server.getsockname()
        _keep(face, address, None).close()  # now a range with the server's port in it is believed
        for port, holder in ((39992, one), (39993, other)):
            holder.bind(("127.0.0.1", port))
        namespace.set_port_range(39992, 39993)
        try:
            _keep(face, address, None).close()
        except (OSError, RecursionError) as error:
            return type(error).__name__
    return "connected"


def exhaust_in_a_thread():
    with faults.listener(port=50000) as server:
        safedial.safe_connect(server.getsockname()).close()  # the first thread's range is believed
    found = {}

    def other_namespace():
        namespace.enter_network((40000, 40009))
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


def exhaust(face, port, source, host="127.0.0.1"):
    source = source and tuple(source)
    listening = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host.removeprefix("::ffff:"))
    with faults.listener(listening, port):
        address, held, found = (host, port), [], {}
        try:
            for _ in range(30):
                held += [_keep(face, address, source)]
        except OSError as error:
            found["error"] = type(error).__name__
            usage = error.usage
            found["text"] = str(error)
            found |= {"range": [usage.low, usage.high], "in use": usage.in_use, "time wait": usage.time_wait}
        found["ss"] = _ss("dport", port)
        found["connected"] = len(held)
        found["local ports"] = sorted(sock.getsockname()[1] for sock in held)
        for sock in held:
            sock.close()
    return found


def _keep(face, address, source):
    dialer = safedial.Dialer(source_address=source, policy=None)
    if face == "Dialer.dial_async":
        return faces.run(dialer.dial_async(address))
    if face == "open_connection":
        return faces.run(_open_and_keep(address, source))
    return safedial.safe_connect(address, None, source, policy=None)


async def _open_and_keep(address, source):
    _, writer = await safedial.open_connection(*address, local_addr=source, policy=None)
    return writer.get_extra_info("socket")._sock.dup()


def usage_of_a_v4_mapped_client():
    """What another program's IPv6 socket has connected to an IPv4 server."""
    with faults.listener() as server, socket.socket(socket.AF_INET6) as client:
        address = server.getsockname()
        client.connect((f"::ffff:{address[0]}", address[1]))
        outside = procnet.usage(address, steering.PortRange(1, 2)).in_use
        assert outside == 0, "only the range that ran out counts"
        return [procnet.usage(address, None).in_use, _ss("dport", address[1])]


def _ss(column, port, state="all"):
    command = ["ss", "-Htn", "state", state, f"( {column} = :{port} )"]
    return len(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())


def exhaust_with_time_wait():
    with faults.listener(port=40000) as server:
        address = server.getsockname()
        held = [safedial.safe_connect(address) for _ in range(9)]
        accepted = [server.accept()[0] for _ in held]
        for near, far in zip(held[:4], accepted[:4], strict=True):
            near.close()  # the side that closes first is the one in TIME_WAIT
            far.close()
        try:
            safedial.safe_connect(address, policy=None).close()
        except safedial.PortsExhaustedError as error:
            usage = error.usage
            return {
                "in use": usage.in_use,
                "time wait": usage.time_wait,
                "ss time wait": _ss("dport", 40000, "time-wait"),
            }
        finally:
            for sock in held[4:] + accepted[4:]:
                sock.close()
    return None


def wait_for_a_port():
    with faults.listener(port=40000) as server:
        address, waits = server.getsockname(), []
        held = [(safedial.safe_connect(address), server.accept()[0]) for _ in range(9)]

        def free_one(event):
            if event.kind == "retry":
                waits.append(event.wait)
                for end in held.pop():
                    end.close()

        safedial.safe_connect(address, on_event=free_one).close()
        for near, far in held:
            near.close()
            far.close()
        return waits
