"""Holding one port: which addresses need it, what may have the port at the time, and what it is in the way of."""

import contextlib
import errno
import os
import resource
import socket
import subprocess
from pathlib import Path

import pytest

from safedial import testing
from safedial._tcp import holding, port_settings, steering
from tests.support import holds, left, namespace

HOST = "127.0.0.1"
PORT = 40000
HERE = [HOST, "127.0.0.2", "10.1.2.3", "0.0.0.0"]
HERE += ["::1", "fd00::1", "fe80::5", "::", "::ffff:127.0.0.1", "::ffff:10.1.2.3"]
ELSEWHERE = ["192.0.2.1", "2001:db8::1", "fe80::6", "::ffff:192.0.2.1"]


def socket_address(host, port=PORT):
    scope = socket.if_nametoindex("lo") if host.startswith("fe80") else 0
    return (host, port, 0, scope) if ":" in host else (host, port)


def held(sockaddr):
    return contextlib.closing(holding.hold(sockaddr))


class TestLocality:
    def test_addresses(self):
        """Also of a link-local address, which needs its scope, and of one that a load balancer may bind already."""
        namespace.require()
        found = namespace.call(locality)
        assert found.pop("ip_nonlocal_bind") is True
        assert found == {host: host in HERE for host in [*HERE, *ELSEWHERE]}

    def test_missing_family_is_elsewhere(self):
        namespace.require()
        assert namespace.call(holding.is_local, socket_address("::1"), ipv6=False) is False

    def test_anything_may_be_local_if_a_sandbox_forbids_to_ask(self, monkeypatch):
        def forbidden(*args):
            raise PermissionError(errno.EPERM, "no")

        monkeypatch.setattr(holding, "_new", forbidden)
        assert holding.is_local(("192.0.2.1", PORT))


def locality():
    for host in ("10.1.2.3", "fd00::1", "fe80::5"):
        holds.add_address(host)
    found = {host: holding.is_local(socket_address(host)) for host in [*HERE, *ELSEWHERE]}
    Path("/proc/sys/net/ipv4/ip_nonlocal_bind").write_text("1")
    return found | {"ip_nonlocal_bind": holding.is_local(socket_address("192.0.2.1"))}


BESIDE = {
    "nothing": contextlib.nullcontext,
    "a connection": lambda: holds.ordinary_connection(PORT),
    "an IPv6 connection": lambda: holds.ordinary_connection(PORT, "::1"),
    "a connection that reuses addresses": lambda: holds.ordinary_connection(PORT, reuse=True),
    "a server that has gone": contextlib.nullcontext,
    "TIME_WAIT": lambda: holds.time_wait(PORT),  # the last: it stays
}
HOSTS = [HOST, "::1", "0.0.0.0", "::", "::ffff:127.0.0.1"]


class TestKernelNeverDrawsAHeldPort:
    """In a range of two to four ports, of which an ordinary dial often draws PORT."""

    @pytest.mark.parametrize("times", [200, pytest.param(5_000, marks=pytest.mark.storm)])
    @pytest.mark.parametrize("ports", [2, pytest.param(4, marks=pytest.mark.storm)])
    def test_whatever_has_it_too(self, times, ports):
        namespace.require()
        found = namespace.call(dial_plain_and_held, times, port_range=(PORT, PORT + ports - 1))
        assert {what for what, _, _ in found} == set(BESIDE)
        for what, plain, held in found:
            assert sum(held.values()) == 0, what
            assert all(plain.values()), what

    def test_bind_of_the_destination_itself_fails_beside_a_connection(self):
        """What hold() did before: nothing was held, and dials connected to themselves."""
        namespace.require()
        assert namespace.call(hold_the_destination, port_range=(PORT, PORT + 1)) > 10


def dial_plain_and_held(times):
    """Count the self-connects by the host that was dialed, without and with a hold."""
    return [(what, *dial_beside(what, times)) for what in BESIDE]


def dial_beside(what, times):
    # Otherwise no TIME_WAIT may shield the port.
    Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text("9" if what == "TIME_WAIT" else "0")
    with BESIDE[what](), contextlib.ExitStack() as stack:
        # While 127.0.0.1 has the port in TIME_WAIT, IPv4 is safe.
        plain = {host: holds.count_self_connects(host, PORT, times) for host in (HOSTS, ["::1"])[what == "TIME_WAIT"]}
        with holds.listening(HOST, PORT) if what == "a server that has gone" else contextlib.nullcontext():
            stack.enter_context(held((HOST, PORT)))
        return plain, {host: holds.count_self_connects(host, PORT, times) for host in HOSTS}


def hold_the_destination():
    with holds.ordinary_connection(PORT), socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            holder.bind((HOST, PORT))
        return holds.count_self_connects(HOST, PORT, 200)


class TestServersBesideAHold:
    @pytest.mark.parametrize("host", [HOST, "::1", "0.0.0.0", "::"])
    def test_server_that_reuses_addresses_starts(self, host, dead_port):
        with held((HOST, dead_port)):
            for _ in range(2):
                assert holds.can_start(host, dead_port, reuse=True)

    @pytest.mark.parametrize(("host", "starts"), [(HOST, True), ("::1", True), ("0.0.0.0", False), ("::", False)])
    def test_server_that_does_not(self, host, starts, dead_port):
        with held((HOST, dead_port)):
            assert holds.can_start(host, dead_port, reuse=False) is starts
        assert holds.can_start(host, testing.dead_port(), reuse=False), "without a hold it starts"

    @pytest.mark.parametrize("host", [HOST, "::1", "0.0.0.0"])
    def test_server_that_is_there_already(self, host, dead_port):
        with holds.listening(host, dead_port), held((HOST, dead_port)) as holder:
            assert holder.getsockname()[1] == dead_port

    def test_nothing_can_be_bound_beside_a_server_on_all_addresses(self, dead_port):
        with holds.listening("::", dead_port):
            assert holding.hold((HOST, dead_port)) is None


class TestHolders:
    def test_address_that_nobody_uses(self, dead_port):
        hosts = set()
        for _ in range(100):
            with held((HOST, dead_port)) as holder:
                hosts.add(holder.getsockname()[0])
        assert len(hosts) > 95
        for host in hosts:
            network, second, _, last = map(int, host.split("."))
            assert network == 127
            assert 1 <= second <= 254
            assert 1 <= last <= 254

    def test_two_that_draw_the_same_address(self, dead_port, monkeypatch):
        drawn = [b"abc", b"abc", b"xyz"]
        monkeypatch.setattr(os, "urandom", lambda size: drawn.pop(0))
        with held((HOST, dead_port)) as one, held((HOST, dead_port)) as other:
            assert one.getsockname()[0] != other.getsockname()[0]

    def test_two_processes(self, dead_port):
        """They hold the port at the same time, and a server starts all the same."""
        program = (
            "from safedial._tcp import holding\n"
            f"holder = holding.hold(('{HOST}', {dead_port})); print(holder.getsockname()[0], flush=True); input()"
        )
        with contextlib.ExitStack() as stack:
            processes = []
            for _ in range(2):
                process = subprocess.Popen(
                    [os.sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
                stack.enter_context(process)
                stack.callback(process.communicate, "\n")
                processes.append(process)
            first, second = (process.stdout.readline().strip() for process in processes)
            assert len({first, second} - {""}) == 2
            assert holds.can_start(HOST, dead_port, reuse=True)

    def test_plain_socket_whatever_stands_in_its_place(self, dead_port, monkeypatch):
        monkeypatch.setattr(socket, "socket", None)
        holding.hold((HOST, dead_port)).close()

    def test_not_inherited_by_programs_that_are_started(self, dead_port):
        with held((HOST, dead_port)) as holder:
            assert not os.get_inheritable(holder.fileno())

    def test_failed_bind_leaves_no_descriptor(self, dead_port):
        before = left.open_descriptors()
        with holds.listening("::", dead_port):
            holding.hold((HOST, dead_port))
        assert left.open_descriptors() == before

    @pytest.mark.parametrize("call", [holding.is_local, holding.hold])
    def test_no_descriptor_is_free(self, call, dead_port):
        """An error: nothing is known of the port."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(OSError, match="Too many open files") as caught:
                call((HOST, dead_port))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert caught.value.errno in holding.SHORTAGE


def test_without_an_ipv4_loopback():
    """The holder is bound to ::1. If that fails too, the port can't be held."""
    namespace.require()
    found = namespace.call(hold_without_ipv4, port_range=(PORT, PORT + 1))
    assert found == {"holders": ["::1", "::1"], "self-connects": 0, "beside a connection": "EADDRINUSE"}


def hold_without_ipv4():
    holds.add_address("fd00::1")
    holds.remove_ipv4()
    found = {"holders": []}
    for host in ("::1", "fd00::1"):
        with held(socket_address(host)) as holder:
            found["holders"].append(holder.getsockname()[0])
            found["self-connects"] = holds.count_self_connects("::1", PORT, 200)
    with holds.ordinary_connection(PORT, "::1"):
        try:
            holding.hold(socket_address("::1"))
        except OSError as error:
            found["beside a connection"] = errno.errorcode[error.errno]
    return found


class TestOtherSystems:
    """They draw ports for each address on its own, so the address itself is bound."""

    @pytest.fixture(autouse=True)
    def _not_linux(self, monkeypatch):
        monkeypatch.setattr(holding, "ON_LINUX", False)

    @pytest.mark.parametrize("host", [HOST, "::1"])
    def test_address_itself_is_bound(self, host, dead_port):
        with held(socket_address(host, dead_port)) as holder:
            assert holder.getsockname()[:2] == (host, dead_port)
            assert holds.can_start(host, dead_port, reuse=True)

    def test_windows_sets_no_option(self, dead_port, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(os, "name", "nt")
            holder = holding.hold((HOST, dead_port))
        with contextlib.closing(holder):
            assert not holder.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)

    def test_port_that_is_taken(self, dead_port):
        with holds.ordinary_connection(dead_port), pytest.raises(OSError, match="in use"):
            holding.hold((HOST, dead_port))


class TestRisk:
    """Which ports the kernel may draw."""

    def test_range_and_reserved_ports(self):
        namespace.require()
        assert namespace.call(risks, port_range=(40000, 40003)) == {
            "": [40000, 40001, 40002, 40003],
            "40001": [40000, 40002, 40003],
            "40000-40001,40003": [40002],
        }

    def test_unreadable_settings(self, monkeypatch, tmp_path):
        monkeypatch.setattr(port_settings, "sysctl", lambda name: None)
        assert holding.may_be_drawn(steering.read_range().low)
        monkeypatch.setattr(steering, "_RANGE_FILE", str(tmp_path / "none"))
        assert holding.may_be_drawn(5432)
        monkeypatch.setattr(holding, "ON_LINUX", False)
        assert [holding.may_be_drawn(port) for port in (5432, 50000)] == [False, True]


def risks():
    found = {}
    for reserved in ("", "40001", "40000-40001,40003"):
        Path("/proc/sys/net/ipv4/ip_local_reserved_ports").write_text(f"{reserved}\n")
        found[reserved] = [port for port in range(39990, 40010) if holding.may_be_drawn(port)]
    return found
