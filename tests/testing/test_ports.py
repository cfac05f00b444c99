"""Ports where nobody listens."""

import contextlib
import errno
import socket
from pathlib import Path

import pytest

from safedial import testing
from safedial._tcp import steering
from tests.support import namespace


class TestPorts:
    def test_refused_port_always_refuses(self, client):
        with testing.refused_port() as port:
            for _ in range(100):
                with pytest.raises(OSError, match=r"address|refused|SO_ERROR|connect_ex|Connect") as caught:
                    client("127.0.0.1", port)
                assert caught.value.errno == errno.ECONNREFUSED

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_the_kernel_may_draw_the_port(self, host):
        low, high = steering.read_range()
        for port in [testing.dead_port(host)]:
            assert low <= port <= high
            assert (port - low) % 2 == 0
        with testing.refused_port(host) as port:
            assert low <= port <= high
            assert (port - low) % 2 == 0

    def test_each_call_returns_another_port(self):
        with contextlib.ExitStack() as stack:
            found = [testing.dead_port()]
            for _ in range(9):
                found.append(stack.enter_context(testing.refused_port()))
                found.append(testing.dead_port())
            assert len(set(found)) == len(found)

    def test_a_port_of_the_other_family_is_not_dead(self):
        with contextlib.ExitStack() as stack:
            high = steering.read_range().high
            taken = testing.dead_port()
            for port in range(taken + 2, min(high, taken + 200), 2):
                sock = stack.enter_context(socket.socket())
                with contextlib.suppress(OSError):
                    sock.bind(("127.0.0.1", port))
            assert not taken < testing.dead_port("::1") < taken + 200

    @pytest.mark.parametrize("host", ["192.0.2.1", "fe80::1", "::1%no-such"])
    @pytest.mark.parametrize("make", [testing.dead_port, lambda host: testing.server_port(host).__enter__()])
    def test_address_that_is_not_this_hosts(self, host, make):
        with pytest.raises(OSError, match=f"host must be an address of this host, not {host}$") as caught:
            make(host)
        assert caught.value.errno == errno.EADDRNOTAVAIL

    def test_a_call_begins_behind_all_that_the_last_one_has_passed(self):
        with contextlib.ExitStack() as stack:
            first = testing.dead_port()
            for port in range(first + 2, min(first + 12, steering.read_range().high), 2):
                with contextlib.suppress(OSError):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            assert testing.dead_port() != testing.dead_port()


def _among_reserved_ports():
    Path("/proc/sys/net/ipv4/ip_local_reserved_ports").write_text("40000")
    assert testing.dead_port() == 40002
    Path("/proc/sys/net/ipv4/ip_local_reserved_ports").write_text("40000-40002")
    with pytest.raises(OSError, match=r"no port of 40000 to 40003 is free on 127.0.0.1 and not in net"):
        testing.dead_port()
    return True


def test_a_reserved_port_is_not_at_risk():
    namespace.require()
    assert namespace.call(_among_reserved_ports, port_range=(40000, 40003))


def test_dead_port_is_the_default_of_an_outage():
    low, high = steering.read_range()
    assert low <= testing.Outage().port <= high
