"""Pure functions on addresses."""

import ipaddress
import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import safedial
import safedial.adapters.httpx
import safedial.adapters.requests
from safedial import _address, testing

V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(str)
PORTS = st.integers(0, 65535)


@given(V4 | V6, V4 | V6, PORTS, PORTS)
def test_same_endpoint_agrees_with_ipaddress(a, b, port, other):
    def plain(host):
        address = ipaddress.ip_address(host)
        return getattr(address, "ipv4_mapped", None) or address

    expected = plain(a) == plain(b) and port == other
    assert _address.same_endpoint((a, port), (b, other)) is expected
    assert _address.same_endpoint((b, other), (a, port)) is expected, "symmetric"


@given(V4 | V6, PORTS)
def test_endpoint_equals_itself(host, port):
    assert _address.same_endpoint((host, port), (host, port))


@given(V4, PORTS)
def test_v4_mapped_equals_v4(host, port):
    assert _address.same_endpoint((host, port), (f"::ffff:{host}", port, 0, 0))


@pytest.mark.parametrize(
    ("local", "peer", "same"),
    [
        (("fe80::1%eth0", 80, 0, 2), ("fe80::1%eth0", 80, 0, 2), True),
        (("fe80::1%eth0", 80, 0, 2), ("fe80::1%eth1", 80, 0, 3), False),
        (("fe80::1%eth0", 80, 0, 2), ("fe80::1", 80, 0, 0), True),
        (("fe80::1", 80, 7, 2), ("fe80::1", 80, 0, 2), True),  # the flow label is not part of the address
    ],
)
def test_endpoints_with_scopes(local, peer, same):
    assert _address.same_endpoint(local, peer) is same


@given(V4 | V6, PORTS, st.sampled_from([0, socket.AF_INET, socket.AF_INET6]))
@example("::ffff:0:0", 0, socket.AF_INET)
def test_numeric_agrees_with_getaddrinfo(host, port, family):
    found = _address.numeric(host, port, family)
    try:
        expected = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        expected = []
    if ipaddress.ip_address(host).version == (6 if family == socket.AF_INET6 else 4) or (not family and ":" in host):
        assert found, "a numeric host of the right family is known"
    if not found:
        return  # glibc finds an IPv4 address in a v4-mapped one; safedial leaves that to the resolver
    assert [i[:3] for i in found] == [i[:3] for i in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[4][1:] == theirs[4][1:]
        # The resolver may spell the address in another way.
        assert ipaddress.ip_address(ours[4][0]) == ipaddress.ip_address(theirs[4][0])


@pytest.mark.parametrize("host", ["localhost", "127.1", "0x7f.1", "fe80::1%lo", "", None, b"127.0.0.1", "1.2.3.4.5"])
def test_other_hosts_need_the_resolver(host):
    assert _address.numeric(host, 80, 0) == ()


def test_cache_keeps_types_apart():
    assert _address.numeric("127.0.0.1", 80, 0)
    for port in (80.0, True):
        with pytest.raises(TypeError, match="port"):
            _address.numeric("127.0.0.1", port, 0)


INFOS = st.lists(
    st.tuples(st.sampled_from([socket.AF_INET, socket.AF_INET6]), st.integers()).map(
        lambda pair: (pair[0], socket.SOCK_STREAM, 6, "", (str(pair[1]), 80))
    )
)


@given(INFOS, st.integers(0, 5))
def test_interleave_agrees_with_asyncio(infos, count):
    from asyncio import base_events

    found = list(_address.interleave(infos, count))
    if count and infos:
        assert found == base_events._interleave_addrinfos(list(infos), count)
    else:
        assert found == infos


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("db", 5432, "db port 5432"),
        (b"db", 5432, "db port 5432"),
        (bytearray(b"db"), 80, "db port 80"),
        (None, 80, "localhost port 80"),
    ],
)
def test_host_and_port_are_described(host, port, words):
    assert _address.describe(host, port) == words


@pytest.mark.parametrize(
    ("host", "family"),
    [
        ("127.0.0.1", 2),
        (b"127.0.0.1", 2),
        ("::1", 10),
        ("fe80::1%lo", 10),
        ("::ffff:127.0.0.1", 10),
        ("127.1", 0),
        ("localhost", 0),
        ("", 0),
        (b"\xff", 0),
    ],
)
def test_family_of_a_numeric_host(host, family):
    assert _address.family_of(host) == family


URL = "redis://:secret@127.0.0.1:1"


@pytest.mark.parametrize(
    "call",
    [
        lambda: safedial.safe_connect(URL),
        lambda: safedial.Dialer().dial(URL),
        lambda: safedial.Dialer(policy=URL),
        lambda: safedial.hold(URL).__enter__(),
        lambda: safedial.wrap(print, address=URL),
        lambda: safedial.wrap(print, address=lambda: URL)(),
        lambda: safedial.wrap(print, policy=URL),
        lambda: safedial.is_self_connected(URL),
        lambda: testing.is_self_connected(URL),
        lambda: testing.assert_resilient(URL),
        lambda: testing.Outage(URL),
        lambda: safedial.adapters.requests.protect(URL),
        lambda: safedial.adapters.httpx.protect(URL),
    ],
)
def test_error_about_a_url_hides_its_password(call):
    with pytest.raises(TypeError, match="str") as caught:
        call()
    assert "secret" not in str(caught.value)
