"""Why no local port is free, made on the kernel: each message names the cause, the figures and what to do."""

import contextlib
import resource
import socket
from io import FileIO
from pathlib import Path

import pytest

import safedial
from safedial import testing
from safedial._tcp import port_settings, procnet, steering
from tests.support import exhaustion, faults, namespace

WIDEN = "widen net.ipv4.ip_local_port_range"
DELAY = Path("/proc/sys/net/ipv4/tcp_tw_reuse_delay")
RANGE = "the ephemeral range is 40000 to 40009"


@pytest.mark.parametrize(
    ("port", "host"), [(40000, "127.0.0.1"), (5000, "::1")], ids=["steered, IPv4", "not steered, IPv6"]
)
def test_each_cause_is_named(port, host):
    namespace.require()
    free = 9 if port == 40000 else 10  # the kernel does not draw the server's own port
    texts = namespace.call(causes, host, port, port_range=(40000, 40009))
    expected = {
        "live": [f"{free} ports in use to this destination (0 in TIME_WAIT). Share connections", WIDEN],
        "time wait": [
            f"{free} ports in use to this destination ({free} in TIME_WAIT). Reuse",
            "60 s (TIME_WAIT)",
        ],
        "reused late": [f"({free} in TIME_WAIT). Reuse", "keeps its port for 20 s (net.ipv4.tcp_tw_reuse_delay)"],
        "no timestamps": ["60 s (TIME_WAIT)"],
        "reserved": ["all of its ports reserved", "0 ports in use", "Reserve fewer ports", WIDEN],
        "nearly all reserved": ["8 of its ports reserved, ", f"{free - 8} port", "Reserve fewer ports", WIDEN],
        "bound": [f"1 port in use to this destination (0 in TIME_WAIT), {free - 1} not in use to it", "see ss -tanp"],
        "free by now": [f", 0 ports in use to this destination, {free} not in use to it", "have become free"],
    }
    for cause, text in texts.items():
        head = (
            f"[Errno 99] Cannot assign requested address: no local port is free to reach {host} port {port} "
            f"(all are in use, in TIME_WAIT, reserved or bound); {RANGE}"
        )
        assert text.startswith(head), cause
        for words in expected.pop(cause):
            assert words in text, cause
    assert not expected or not DELAY.exists()


def causes(host, port):
    """Return the message for each cause."""
    texts = {}

    def tell(cause, address):
        with pytest.raises(safedial.PortsExhaustedError) as caught:
            safedial.safe_connect(address, policy=None).close()
        texts[cause] = str(caught.value)
        exhaustion.forget()

    with exhaustion.used_up(port, host) as address:
        tell("live", address)
        with pytest.raises(safedial.PortsExhaustedError) as late:
            safedial.safe_connect(address, policy=None)
    texts["free by now"] = str(late.value)
    exhaustion.forget()
    with bound_ports(range(40000 + (port == 40000), 40009)), exhaustion.used_up(port, host) as address:
        tell("bound", address)
    exhaustion.sysctl("ip_local_reserved_ports", "40000-40009")
    with exhaustion.used_up(port, host) as address:
        tell("reserved", address)
    exhaustion.sysctl("ip_local_reserved_ports", "40001-40007,40009,50000")
    with exhaustion.used_up(port, host) as address:
        tell("nearly all reserved", address)
    exhaustion.sysctl("ip_local_reserved_ports", "")
    exhaustion.sysctl("tcp_tw_reuse", 0)
    with exhaustion.used_up(port, host, closed=True) as address:
        tell("time wait", address)
        exhaustion.sysctl("tcp_tw_reuse", 2)
        if DELAY.exists():
            DELAY.write_text("20000")
            tell("reused late", address)
            exhaustion.sysctl("tcp_timestamps", 0)
            tell("no timestamps", address)
    return texts


@contextlib.contextmanager
def bound_ports(ports):
    with contextlib.ExitStack() as bound:
        for port in ports:
            bound.enter_context(socket.socket()).bind(("127.0.0.2", port))
        yield


@pytest.mark.parametrize(
    ("sysctls", "on_loopback", "elsewhere"),
    [
        ({"tcp_tw_reuse": "0", "tcp_tw_reuse_delay": "1000"}, 60, 60),
        ({"tcp_tw_reuse": "1", "tcp_tw_reuse_delay": "3000"}, 3, 3),
        ({"tcp_tw_reuse": "2", "tcp_tw_reuse_delay": "3000"}, 3, 60),
        ({"tcp_tw_reuse": "2"}, 1, 60),  # before Linux 6.14
        ({"tcp_tw_reuse": "1", "tcp_timestamps": "0"}, 60, 60),
        ({}, None, None),
    ],
    ids=str,
)
def test_how_long_a_closed_connection_keeps_its_port(monkeypatch, sysctls, on_loopback, elsewhere):
    """As the kernel's documentation of the settings says; the test above asks the kernel."""
    monkeypatch.setattr(port_settings, "sysctl", sysctls.get)
    for host, seconds in {"127.9.9.9": on_loopback, "::1": on_loopback, "192.0.2.1": elsewhere}.items():
        settings = port_settings.read_settings()
        loopback = procnet.is_loopback(host)
        assert (settings.wait_on_loopback if loopback else settings.wait) == seconds


@pytest.mark.parametrize("junk", [b"", b"junk", b"\xff\xfe", b"1-", b"1 2"], ids=repr)
def test_setting_that_makes_no_sense_is_not_known(monkeypatch, tmp_path, junk):
    def read(content, name="tcp_tw_reuse_delay"):
        for each, value in {"tcp_tw_reuse": b"1\n", "tcp_tw_reuse_delay": b"2000\n", name: content}.items():
            (tmp_path / each).write_bytes(value)
        return port_settings.read_settings()

    monkeypatch.setattr(port_settings, "FileIO", lambda path: FileIO(tmp_path / Path(path).name))
    assert read(b"2000").wait == 2
    assert read(junk).wait is None
    assert read(junk, "tcp_tw_reuse").wait is None
    assert read(b"1,2-3\n", "ip_local_reserved_ports").reserved == ((1, 1), (2, 3))
    assert read(junk, "ip_local_reserved_ports").reserved == (None if junk else ())


@contextlib.contextmanager
def no_descriptor_left():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("descriptors", [contextlib.nullcontext, no_descriptor_left])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_host_that_a_client_gives_in_bytes_is_text(server, kind, descriptors):
    host, port = server.getsockname()
    with testing.refused_port() as held, safedial.guard(), socket.socket() as sock:
        sock.setsockopt(*faults.option(held, held))
        with descriptors(), pytest.raises(safedial.PortsExhaustedError) as caught:
            sock.connect((kind(host, "ascii"), port))
    assert caught.value.host == host
    assert f"to reach {host} port {port} (" in str(caught.value)
    assert caught.value.usage.in_use == 0


def test_own_range_is_what_the_kernel_makes_of_it():
    """A bound outside of the ephemeral range leaves that of the namespace."""
    faults.require_option()
    namespace.require()
    found = namespace.call(use_up_own_ranges, port_range=(40000, 40009))
    assert len(found) == 6
    for drawn, known, own in found.values():
        assert known == drawn
        assert own == (drawn != [40000, 40009, 10])


def use_up_own_ranges():
    """Return what was drawn with each range, and what the error says of it."""
    found = {}
    bounds = [(40002, 40005), (0, 40003), (40006, 0), (1000, 40003), (39000, 40001), (1000, 2000)]
    for port, (low, high) in enumerate(bounds, 5000):
        option = (0, steering.IP_LOCAL_PORT_RANGE, steering.option_value(steering.PortRange(low, high)))
        with faults.listener(port=port) as server, contextlib.ExitStack() as stack:
            drawn = []
            try:
                for _ in range(20):
                    sock = safedial.safe_connect(server.getsockname(), policy=None, socket_options=[option])
                    drawn.append(stack.enter_context(sock).getsockname()[1])
            except safedial.PortsExhaustedError as error:
                usage = error.usage
            known = [usage.low, usage.high, usage.in_use]
            found[low, high] = [min(drawn), max(drawn), len(drawn)], known, usage.own_range
    return found


def test_range_of_the_socket_itself_is_named(server):
    with testing.refused_port() as held, pytest.raises(safedial.PortsExhaustedError) as caught:
        safedial.safe_connect(server.getsockname(), policy=None, socket_options=[faults.option(held, held)])
    assert f"; the socket's own range (IP_LOCAL_PORT_RANGE) is {held} to {held}, 0 ports in use" in str(caught.value)
    assert caught.value.usage.own_range


@pytest.mark.parametrize(("source", "in_use"), [(None, 0), (("127.0.0.2", 0), 1)], ids=["not bound", "bound"])
def test_connections_from_another_address_do_not_count(server, source, in_use):
    with testing.refused_port() as held:  # on 127.0.0.1
        options = {"policy": None, "socket_options": [faults.option(held, held)], "source_address": source}
        with socket.create_connection(server.getsockname(), source_address=("127.0.0.2", held)):
            with pytest.raises(safedial.PortsExhaustedError) as caught:
                safedial.safe_connect(server.getsockname(), **options)
            assert caught.value.usage.in_use == in_use


@pytest.mark.parametrize("port", [40000, 5000])
def test_range_of_one_port(port):
    namespace.require()
    text = namespace.call(message_of_a_full_range, port, port_range=(40000, 40000))
    cause = "The range has no port but the dialed one" if port == 40000 else "1 port in use to this destination"
    assert cause in text


def message_of_a_full_range(port):
    with exhaustion.used_up(port) as address:
        with pytest.raises(safedial.PortsExhaustedError) as caught:
            safedial.safe_connect(address, policy=None)
        return str(caught.value)
