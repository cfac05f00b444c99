"""The guarded connect on the real kernel: self-connects, and the two meanings of EADDRNOTAVAIL."""

import asyncio
import concurrent.futures
import errno
import socket
import threading

import pytest

import safedial
from safedial import testing
from safedial._tcp import connect, exhaustion, selfconnect, steering
from tests.support import dials, faults, namespace
from tests.support.resolvers import hosts, servers

HOSTS = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"]


@pytest.mark.parametrize("host", HOSTS)
def test_self_connect_is_an_error_and_the_port_is_free_at_once(dial, force, steer, host, dead_port):
    force(dead_port)
    with pytest.raises(safedial.SelfConnectError) as caught:
        dial(host, dead_port, steer=steer, policy=None)
    assert caught.value.errno == errno.ECONNREFUSED
    assert (caught.value.host, caught.value.port) == (host, dead_port)
    assert host in str(caught.value)
    assert str(dead_port) in str(caught.value)
    faults.assert_server_can_bind(host, dead_port)


def test_self_connect_is_detected_on_other_systems(monkeypatch, dial, force, dead_port):
    monkeypatch.setattr(steering, "ON_LINUX", False)
    monkeypatch.setattr(steering, "_steerable", False)
    force(dead_port)
    with pytest.raises(safedial.SelfConnectError):
        dial("127.0.0.1", dead_port, policy=None)
    faults.assert_server_can_bind("127.0.0.1", dead_port)


def test_next_round_reaches_a_server_that_starts_after_a_self_connect(dial, force, steer, dead_port, start_server):
    # The server starts within the dial: the port is free before the next round.
    force(dead_port, times=1)
    ends = dial("127.0.0.1", dead_port, steer=steer, on_event=start_server(dead_port, "self_connect"))
    assert ends.peer == ("127.0.0.1", dead_port)
    assert ends.local != ends.peer


def test_explicit_source_port_is_not_guarded(dial, steer, dead_port):
    # The caller may want a simultaneous open. Go does not check it either if laddr.Port is not 0.
    ends = dial("127.0.0.1", dead_port, source=("127.0.0.1", dead_port), steer=steer)
    assert ends.local == ends.peer == ("127.0.0.1", dead_port)


def test_source_address_with_port_0_is_guarded(dial, steer, dead_port):
    with pytest.raises(safedial.SelfConnectError):
        dial(
            "127.0.0.1",
            dead_port,
            source=("127.0.0.1", 0),
            steer=steer,
            socket_options=[faults.option(dead_port, dead_port)],
            policy=None,
        )
    faults.assert_server_can_bind("127.0.0.1", dead_port)


def test_connection_to_a_server_is_never_released(dial, steer, server, monkeypatch):
    released = []
    monkeypatch.setattr(connect, "release", released.append)
    monkeypatch.setattr(selfconnect, "release", released.append)
    dial("127.0.0.1", server.getsockname()[1], steer=steer)
    assert released == []
    with safedial.safe_connect(server.getsockname(), steer=steer) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == bytes(8)


def test_interrupt_between_connect_and_check_frees_the_port(dial, force, dead_port, monkeypatch):
    def interrupted(sock, sockaddr):
        raise KeyboardInterrupt

    monkeypatch.setattr("safedial._tcp.connect.reached_itself", interrupted)
    force(dead_port)
    with pytest.raises(KeyboardInterrupt):
        dial("127.0.0.1", dead_port)
    faults.assert_server_can_bind("127.0.0.1", dead_port)


class TestInANarrowRange:
    """The range has two ports, so the kernel draws the destination's port without being forced."""

    # connect() prefers ports with the parity of the low end, so it draws the low port.
    @pytest.mark.parametrize("port_range", [(40000, 40001), pytest.param((40001, 40002), marks=pytest.mark.storm)])
    @pytest.mark.parametrize("name", dials.DIALS)
    def test_unsteered_self_connects_are_detected(self, name, port_range):
        namespace.require()
        for found in namespace.call(dial_both_families, name, port_range[0], False, port_range=port_range):
            assert found["SelfConnectError"] > 0
            assert found["connected"] == 0
            assert found["bind"] == "free"

    @pytest.mark.parametrize("port", [40000, 40001], ids=["low edge", "high edge"])
    @pytest.mark.parametrize("name", dials.DIALS)
    def test_steered_dials_never_self_connect(self, name, port):
        namespace.require()
        faults.require_option()
        for found in namespace.call(dial_both_families, name, port, True, port_range=(40000, 40001)):
            assert found == {"ConnectionRefusedError": 60, "SelfConnectError": 0, "connected": 0, "bind": "free"}

    @pytest.mark.parametrize("steer", [True, False])
    def test_every_dial_in_a_range_of_one_port_is_a_self_connect(self, steer):
        namespace.require()
        found = namespace.call(dial_often, "safe_connect", "127.0.0.1", 40000, steer, 10, port_range=(40000, 40000))
        assert found == {"ConnectionRefusedError": 0, "SelfConnectError": 10, "connected": 0, "bind": "free"}

    @pytest.mark.parametrize("name", ["safe_connect", "open_connection"])
    def test_self_connects_are_detected_after_the_range_changed(self, name):
        namespace.require()
        found = namespace.call(dial_after_the_range_changed, name, port_range=(32768, 60999))
        assert found["connected"] == 0
        assert found["bind"] == "free"


def dial_both_families(name, port, steer):
    return [dial_often(name, host, port, steer, 60) for host in ("127.0.0.1", "::1")]


def dial_often(name, host, port, steer, times):
    found = {"ConnectionRefusedError": 0, "SelfConnectError": 0, "connected": 0}
    for _ in range(times):
        try:
            dials.DIALS[name](host, port, steer=steer, policy=None)
        except ConnectionRefusedError as error:
            found[type(error).__name__] += 1
        else:
            found["connected"] += 1
    try:
        faults.assert_server_can_bind(host, port)
        found["bind"] = "free"
    except OSError as error:
        found["bind"] = str(error)
    return found


def dial_after_the_range_changed(name):
    with faults.listener(port=50000) as server:
        dials.DIALS[name](*server.getsockname())  # the range is remembered for a second
    namespace.set_port_range(1024, 1025)
    return dial_often(name, "127.0.0.1", 1024, True, 60)


class TestAddressNotAvailable:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_exhausted_ports_are_explained(self, dial, steer, host):
        with testing.refused_port() as held, faults.listener(host) as server:
            port = server.getsockname()[1]
            if ":" in host:
                held = port  # the kernel never draws the port of a listener
            with pytest.raises(safedial.PortsExhaustedError) as caught:
                dial(host, port, steer=steer, policy=None, socket_options=[faults.option(held, held)])
        assert caught.value.errno == errno.EADDRNOTAVAIL
        assert (caught.value.host, caught.value.port) == (host, port)
        assert (caught.value.usage.low, caught.value.usage.high) == (held, held)
        for part in (host, str(port), "ss -tan", "IP_LOCAL_PORT_RANGE"):
            assert part in str(caught.value)
        assert isinstance(caught.value.__cause__, OSError), "the kernel's own error is the cause"

    def test_bad_source_address_is_permanent(self, dial, steer, server):
        policy = safedial.reconnect(names=False)
        with pytest.raises(OSError, match="assign requested address") as caught:
            dial(*server.getsockname(), source=("192.0.2.1", 0), steer=steer, policy=policy)
        assert caught.value.errno == errno.EADDRNOTAVAIL
        assert not isinstance(caught.value, safedial.PortsExhaustedError)
        notes = "".join(caught.value.__notes__)
        assert "1 round," in notes
        assert "192.0.2.1" in str(caught.value) + notes

    @pytest.mark.parametrize("name", dials.DIALS)
    def test_ipv6_switched_off_is_permanent(self, name):
        namespace.require()
        code, kind, notes = namespace.call(dial_ipv6, name, ipv6=False)
        assert (code, kind) == (errno.EADDRNOTAVAIL, "OSError")
        assert "1 round," in notes[0]

    def test_next_address_is_tried_if_ipv6_is_off(self):
        namespace.require()
        assert namespace.call(dial_name_with_dead_ipv6, ipv6=False) == ["127.0.0.1", "127.0.0.1"]


def dial_ipv6(name):
    try:
        dials.DIALS[name]("::1", 40000, policy=safedial.reconnect(names=False))
    except OSError as error:
        return [error.errno, type(error).__name__, error.__notes__]
    return None


def dial_name_with_dead_ipv6():
    with faults.listener() as server:
        socket.getaddrinfo = hosts("::1", "127.0.0.1", port=server.getsockname()[1])
        return [dials.DIALS[name]("db", 1).peer[0] for name in ("safe_connect", "open_connection")]


def test_exhausted_ports_towards_every_address_are_explained(dial, steer):
    with testing.refused_port() as held, faults.listener() as one, faults.listener() as two:
        options = {"resolver": servers(one, two), "socket_options": [faults.option(held, held)]}
        with pytest.raises(safedial.PortsExhaustedError):
            dial("db", 1, steer=steer, policy=None, **options)


@pytest.mark.parametrize("option", ["timeout", "total_timeout"])
def test_busy_executor_delays_no_explanation(option):
    """Nothing that explains the error runs in the loop's executor."""
    over = threading.Event()

    async def main(port, held):
        loop = asyncio.get_running_loop()
        loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
        busy = loop.run_in_executor(None, over.wait, 10)
        try:
            await safedial.open_connection(
                "127.0.0.1", port, policy=None, socket_options=[faults.option(held, held)], **{option: 1}
            )
        finally:
            assert not busy.done()
            over.set()
            await busy

    with (
        testing.refused_port() as held,
        faults.listener() as server,
        pytest.raises(safedial.PortsExhaustedError) as caught,
    ):
        dials.run(main(server.getsockname()[1], held))
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_figures_that_cannot_be_counted_are_unknown():
    """A name under the guard may no longer resolve when its failed connect is explained."""
    unavailable = OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
    with socket.socket() as sock:
        error = exhaustion.explained(sock, ("no.such.host.invalid", 80), steering.UNSTEERED, unavailable)
    assert isinstance(error, safedial.PortsExhaustedError)
    assert (error.usage.in_use, error.usage.time_wait) == (None, None)
    assert error.__cause__ is unavailable
