"""A port for a server that is restarted: outside of the ephemeral range, and for one test alone."""

import contextlib
import errno
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from safedial import testing
from safedial._tcp import steering
from safedial.testing import never_drawn
from tests.support import namespace

HOSTS = ["127.0.0.1", "::1"]


@pytest.fixture(params=[True, False], ids=["linux", "elsewhere"])
def _on_each_system(request, monkeypatch):
    """Both ways to claim a port."""
    if request.param and not steering.ON_LINUX:
        pytest.skip("only Linux has abstract names")
    monkeypatch.setattr(steering, "ON_LINUX", request.param)


@pytest.mark.parametrize("host", HOSTS)
def test_is_never_drawn_and_nobodys(host):
    low, high = steering.read_range()
    with testing.server_port(host) as port:
        assert port >= 1024
        assert not low <= port <= high
        with pytest.raises(OSError, match="not found"):
            socket.getservbyport(port, "tcp")


@pytest.mark.usefixtures("_on_each_system")
@pytest.mark.parametrize("host", HOSTS)
def test_a_server_may_bind_it_each_time(host):
    """Also one that does not set SO_REUSEADDR, and one on all addresses."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with testing.server_port(host) as port:
        for address in (host, host, "::" if ":" in host else "0.0.0.0"):
            with socket.socket(family) as server:
                server.bind((address, port))
                server.listen()


@pytest.mark.usefixtures("_on_each_system")
def test_is_held_until_the_end():
    with testing.server_port() as port, pytest.raises(OSError, match="in use"):
        never_drawn._claim(port)
    never_drawn._claim(port).close()


def test_each_has_another():
    """In one test, in tests one after the other, and in threads."""
    ports = []

    def take():
        ports.extend(stack.enter_context(testing.server_port()) for _ in range(5))

    with contextlib.ExitStack() as stack:
        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(ports)) == 40
    with testing.server_port() as first:
        pass
    with testing.server_port() as second:
        assert first != second


@pytest.mark.usefixtures("_on_each_system")
def test_taken_ports_are_passed_over(monkeypatch):
    """Claimed, bound at an address of either family, or known for some software (/etc/services)."""
    with contextlib.ExitStack() as stack:
        claimed, *bound, free = [stack.enter_context(testing.server_port()) for _ in range(5)]
        stack.close()
        stack.enter_context(never_drawn._claim(claimed))
        for host, port in zip(("127.0.0.1", "127.0.0.5", "::1"), bound, strict=True):
            holder = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
            holder.bind((host, port))
        known = [port for port in (1433, 3306, 5432) if never_drawn._has_a_name(port)]
        assert known or not Path("/etc/services").exists()
        for host in HOSTS:
            monkeypatch.setattr(never_drawn, "_outside", lambda: iter([claimed, *bound, *known, free]))
            with testing.server_port(host) as port:
                assert port == free


HOLD_ALL = """
import contextlib, sys
from safedial import testing
with contextlib.ExitStack() as stack:
    print(sorted(stack.enter_context(testing.server_port()) for _ in range(3)), flush=True)
    sys.stdin.read()
"""


def _among_three_ports():
    """All ports are in the range, and three are reserved."""
    with pytest.raises(OSError, match=r"outside of the ephemeral range .* reserve ports in it") as caught:
        testing.server_port().__enter__()
    assert caught.value.errno == errno.EADDRINUSE
    Path("/proc/sys/net/ipv4/ip_local_reserved_ports").write_text("40000-40001,50000")
    with subprocess.Popen([sys.executable, "-c", HOLD_ALL], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "[40000, 40001, 50000]\n"
        with pytest.raises(OSError, match="outside"):
            testing.server_port().__enter__()
        other.kill()
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(testing.server_port()) for _ in range(3)]
        assert sorted(ports) == [40000, 40001, 50000]
        with pytest.raises(OSError, match="outside"):
            testing.server_port().__enter__()
    return True


def test_other_processes_and_reserved_ports():
    namespace.require()
    assert namespace.call(_among_three_ports, port_range=(1024, 65535))


def test_range_that_cannot_be_read(monkeypatch):
    """As on other systems, where ports are drawn up to the highest."""
    monkeypatch.setattr(steering, "read_range", lambda: None)
    with testing.server_port() as port:
        assert 1024 <= port < 32768


@pytest.mark.parametrize(("host", "kind"), [("192.0.2.1", OSError), ("localhost", ValueError), (None, TypeError)])
def test_wrong_hosts(host, kind):
    with pytest.raises(kind), testing.server_port(host):
        pass


def test_each_port_outside_of_the_range_is_tried(monkeypatch):
    monkeypatch.setattr(steering, "read_range", lambda: steering.PortRange(1100, 65000))
    for _ in range(2):
        assert {*range(1024, 1100), *range(65001, 65536)} <= set(never_drawn._outside())
