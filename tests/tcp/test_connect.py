"""The guarded connect on the real kernel: self-connects detected and released, EADDRNOTAVAIL told apart."""

import errno
import socket

import pytest

import safedial
from safedial import testing
from safedial._tcp import connect, selfconnect, steering
from tests.support import dials, faults, namespace

HOSTS = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"]


@pytest.mark.parametrize("host", HOSTS)
def test_forced_self_connect_is_refused_and_the_port_is_free_at_once(dial, force, steer, host, dead_port):
    force(dead_port)
    with pytest.raises(safedial.SelfConnectError) as caught:
        dial(host, dead_port, steer=steer, policy=None)
    assert caught.value.errno == errno.ECONNREFUSED
    assert (caught.value.host, caught.value.port) == (host, dead_port)
    assert host in str(caught.value)
    assert str(dead_port) in str(caught.value)
    faults.assert_server_can_bind(host, dead_port)


def test_other_systems_catch_it_too(monkeypatch, dial, force, dead_port):
    monkeypatch.setattr(steering, "ON_LINUX", False)
    monkeypatch.setattr(steering, "_steerable", False)
    force(dead_port)
    with pytest.raises(safedial.SelfConnectError):
        dial("127.0.0.1", dead_port, policy=None)
    faults.assert_server_can_bind("127.0.0.1", dead_port)


def test_recovery_after_a_self_connect_reaches_the_server(dial, force, steer, dead_port):
    servers = []

    def start_server(event):
        # Listening from within the dial proves that the port is free before the next attempt.
        if event.kind == "self_connect":
            servers.append(socket.create_server(("127.0.0.1", dead_port)))

    force(dead_port, times=1)
    ends = dial("127.0.0.1", dead_port, steer=steer, on_event=start_server)
    assert ends.peer == ("127.0.0.1", dead_port)
    assert ends.local != ends.peer
    servers[0].close()


def test_explicit_source_port_is_not_guarded(dial, steer, dead_port):
    # A deliberate simultaneous open, as in Go, where laddr.Port is not 0.
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


def test_a_healthy_connection_is_never_lingered(dial, steer, server, monkeypatch):
    lingered = []
    monkeypatch.setattr(connect, "release", lingered.append)
    monkeypatch.setattr(selfconnect, "release", lingered.append)
    dial("127.0.0.1", server.getsockname()[1], steer=steer)
    assert lingered == []
    with safedial.safe_connect(server.getsockname(), steer=steer) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == bytes(8)


def test_interrupt_between_connect_and_check_frees_the_port(dial, force, dead_port, monkeypatch):
    def interrupted(sock, port):
        raise KeyboardInterrupt

    monkeypatch.setattr("safedial._tcp.connect.reached_itself", interrupted)
    force(dead_port)
    with pytest.raises(KeyboardInterrupt):
        dial("127.0.0.1", dead_port)
    faults.assert_server_can_bind("127.0.0.1", dead_port)


class TestInANarrowRange:
    """Two ports in the range: the kernel itself draws the destination's, nothing is forced."""

    # connect() prefers the parity of the range's low end, so the port at risk is the low one.
    @pytest.mark.parametrize("port_range", [(40000, 40001), (40001, 40002)])
    @pytest.mark.parametrize("name", dials.DIALS)
    def test_unsteered_it_happens_and_is_caught(self, name, port_range):
        namespace.require()
        for found in namespace.call(dial_both_families, name, port_range[0], False, port_range=port_range):
            assert found["SelfConnectError"] > 0
            assert found["connected"] == 0
            assert found["bind"] == "free"

    @pytest.mark.parametrize("port", [40000, 40001], ids=["low edge", "high edge"])
    @pytest.mark.parametrize("name", dials.DIALS)
    def test_steered_it_cannot_happen(self, name, port):
        namespace.require()
        if not faults.kernel_steers():
            pytest.skip("this kernel has no IP_LOCAL_PORT_RANGE (Linux 6.3)")
        for found in namespace.call(dial_both_families, name, port, True, port_range=(40000, 40001)):
            assert found == {"ConnectionRefusedError": 60, "SelfConnectError": 0, "connected": 0, "bind": "free"}

    @pytest.mark.parametrize("steer", [True, False])
    def test_range_of_one_port(self, steer):
        namespace.require()
        found = namespace.call(dial_often, "safe_connect", "127.0.0.1", 40000, steer, 10, port_range=(40000, 40000))
        assert found == {"ConnectionRefusedError": 0, "SelfConnectError": 10, "connected": 0, "bind": "free"}

    @pytest.mark.parametrize("name", ["safe_connect", "open_connection"])
    def test_range_that_moved_since_it_was_read(self, name):
        namespace.require()
        found = namespace.call(dial_after_range_moved, name, port_range=(32768, 60999))
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


def dial_after_range_moved(name):
    with faults.listener(port=50000) as server:
        dials.DIALS[name](*server.getsockname())  # now the range is believed for a while
    namespace.set_port_range(1024, 1025)
    return dial_often(name, "127.0.0.1", 1024, True, 60)


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

    @pytest.mark.parametrize("name", dials.DIALS)
    def test_ipv6_switched_off_is_permanent(self, name):
        namespace.require()
        errno_, name, notes = namespace.call(dial_ipv6, name, ipv6=False)
        assert (errno_, name) == (errno.EADDRNOTAVAIL, "OSError")
        assert "1 round," in notes[0]

    def test_next_address_is_tried_where_ipv6_is_off(self):
        namespace.require()
        assert namespace.call(dial_name_with_dead_ipv6, ipv6=False) == ["127.0.0.1", "127.0.0.1"]


def dial_ipv6(name):
    try:
        dials.DIALS[name]("::1", 40000, policy=safedial.reconnect())
    except OSError as error:
        return [error.errno, type(error).__name__, error.__notes__]
    return None


def dial_name_with_dead_ipv6():
    with faults.listener() as server:
        socket.getaddrinfo = two_addresses("::1", "127.0.0.1", server.getsockname()[1])
        return [dials.DIALS[name]("db", 1).peer[0] for name in ("safe_connect", "open_connection")]


def two_addresses(first, second, port):
    """A getaddrinfo that names two hosts; the resolver is what a test can't own."""

    def getaddrinfo(*args, **kwds):
        return [
            (socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
            for host in (first, second)
        ]

    return getaddrinfo


@pytest.mark.skipif(not faults.kernel_steers(), reason="this kernel has no IP_LOCAL_PORT_RANGE (Linux 6.3)")
def test_exhausted_towards_every_address(dial, steer):
    with testing.refused_port() as held, faults.listener() as one, faults.listener() as two:
        resolver = two_addresses("127.0.0.1", "127.0.0.1", one.getsockname()[1])
        answers = [*resolver()[:1], *two_addresses("127.0.0.1", "127.0.0.1", two.getsockname()[1])()[:1]]
        options = {"resolver": lambda *args, **hints: answers, "socket_options": [faults.option(held, held)]}
        with pytest.raises(safedial.PortsExhaustedError):
            dial("db", 1, steer=steer, policy=None, **options)
