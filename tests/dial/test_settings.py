"""Invalid arguments raise TypeError or ValueError that names them, before a socket is made."""

import dataclasses
from decimal import Decimal

import pytest

import safedial
from tests.support import dials

NAN = float("nan")


async def coroutine_hook(event):
    pass


COMMON = [
    ({"policy": "reconnect"}, TypeError, "policy"),
    ({"policy": safedial.reconnect}, TypeError, "policy"),
    ({"policy": 3}, TypeError, "policy"),
    ({"on_event": "print"}, TypeError, "on_event"),
    ({"steer": 1}, TypeError, "steer"),
    ({"steer": None}, TypeError, "steer"),
    ({"socket_options": 1}, TypeError, "socket_options"),
    ({"socket_options": [(1, 2, 2**31)]}, ValueError, "socket_options"),
    ({"on_event": coroutine_hook}, TypeError, "on_event"),
    ({"socket_options": "abc"}, TypeError, "socket_options"),
    ({"socket_options": [1]}, TypeError, "socket_options"),
    ({"socket_options": [(1, 2)]}, TypeError, "socket_options"),
    ({"socket_options": [(1, 2, 3.0)]}, TypeError, "socket_options"),
    ({"retries": 3}, TypeError, "retries"),
]


TIMES = [
    (-1, ValueError),
    (-0.001, ValueError),
    (NAN, ValueError),
    (float("inf"), ValueError),
    (1e300, ValueError),
    (10**400, ValueError),
    (int, TypeError),
    ("5", TypeError),
    ([], TypeError),
    (1j, TypeError),
    (Decimal(3), TypeError),
]


ADDRESSES = [
    (("127.0.0.1", 65536), ValueError),
    (("127.0.0.1", -1), ValueError),
    (("127.0.0.1", "65536"), ValueError),
    (("localhost", 65536), ValueError),
    (("127.0.0.1", 80.0), TypeError),
    (("127.0.0.1", True), TypeError),
    (("127.0.0.1", []), TypeError),
    (("127.0.0.1", bytearray(b"80")), TypeError),
    ((80, "127.0.0.1"), TypeError),
    (([], 80), TypeError),
    (("local\0host", 80), ValueError),
    ((b"local\0host", 80), ValueError),
]


SOURCES = [
    (("127.0.0.1", 65536), ValueError),
    (("127.0.0.1",), ValueError),
    ("127.0.0.1", TypeError),
    (80, TypeError),
    ((80, 80), TypeError),
]


@pytest.mark.parametrize(("address", "error"), ADDRESSES)
def test_invalid_address_is_an_error(no_sockets, address, error):
    no_sockets()
    with pytest.raises(error, match="address"):
        safedial.safe_connect(address)
    with pytest.raises(error, match="address"):
        safedial.Dialer().dial(address)


@pytest.mark.parametrize(
    "address", ["localhost:80", "ab", b"ab", 80, None, ("localhost",), ("localhost", 80, 0, 0), {}]
)
def test_address_that_is_no_pair_is_an_error(no_sockets, address):
    no_sockets()
    with pytest.raises((TypeError, ValueError), match="address must be a"):
        safedial.safe_connect(address)


@pytest.mark.parametrize(("address", "error"), ADDRESSES)
def test_invalid_host_and_port_are_errors(no_sockets, address, error):
    async def main():
        no_sockets()
        with pytest.raises(error, match=r"host|port"):
            await safedial.open_connection(*address)

    dials.run(main())


@pytest.mark.parametrize(("time", "error"), TIMES)
def test_invalid_times_are_errors(no_sockets, time, error):
    async def main():
        no_sockets()
        with pytest.raises(error, match="timeout"):
            await safedial.open_connection("127.0.0.1", 80, timeout=time)
        with pytest.raises(error, match="happy_eyeballs_delay"):
            await safedial.open_connection("127.0.0.1", 80, happy_eyeballs_delay=time)
        for name in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
            with pytest.raises(error, match=name):
                await safedial.open_connection("127.0.0.1", 80, ssl=True, **{name: time})

    dials.run(main())
    no_sockets()
    with pytest.raises(error, match="timeout"):
        safedial.safe_connect(("127.0.0.1", 80), time)
    for name in ("timeout", "total_timeout", "happy_eyeballs_delay"):
        with pytest.raises(error, match=rf"^{name} must"):
            safedial.Dialer(**{name: time})


def test_times_may_be_any_object_with_index(server):
    """As in socket.settimeout()."""

    class Five:
        def __index__(self):
            return 5

    dialer = safedial.Dialer(timeout=Five(), total_timeout=Five(), happy_eyeballs_delay=Five())
    with dialer.dial(server.getsockname()) as sock:
        assert sock.gettimeout() == 5
    with safedial.safe_connect(server.getsockname(), Five()) as sock:
        assert sock.gettimeout() == 5


@pytest.mark.parametrize(("source", "error"), SOURCES)
def test_invalid_source_address_is_an_error(no_sockets, source, error):
    async def main():
        no_sockets()
        with pytest.raises(error, match="local_addr"):
            await safedial.open_connection("127.0.0.1", 80, local_addr=source)

    dials.run(main())
    assert_source_rejected(no_sockets, source, error)


# asyncio's local_addr accepts these; bind() does not.
@pytest.mark.parametrize("source", [("127.0.0.1", "80"), ("127.0.0.1", None), ["127.0.0.1", 0], (None, 0)])
def test_source_address_that_bind_would_reject_is_an_error(no_sockets, source):
    assert_source_rejected(no_sockets, source, TypeError)


def assert_source_rejected(no_sockets, source, error):
    no_sockets()
    with pytest.raises(error, match="source_address"):
        safedial.safe_connect(("127.0.0.1", 80), None, source)
    with pytest.raises(error, match="source_address"):
        safedial.Dialer(source_address=source)


def test_unknown_option_is_named_with_the_known_ones(no_sockets):
    async def main():
        no_sockets()
        with pytest.raises(TypeError, match=r"create_connection\(\).*source_address"):
            await safedial.open_connection("127.0.0.1", 80, source_address=("127.0.0.1", 0))

    dials.run(main())
    with pytest.raises(TypeError, match=r"safe_connect\(\).*polcy.*policy"):
        safedial.safe_connect(("127.0.0.1", 80), polcy=None)


def test_address_is_checked_first(no_sockets):
    no_sockets()
    with pytest.raises(TypeError, match="address must be a"):
        safedial.safe_connect("localhost", 80, 5)


def test_socket_options_may_be_none(dial, server):
    dial(*server.getsockname(), socket_options=None)


@pytest.mark.parametrize(("options", "error", "name"), COMMON)
def test_invalid_options_are_errors(no_sockets, options, error, name):
    async def main():
        no_sockets()
        with pytest.raises(error, match=name):
            await safedial.open_connection("127.0.0.1", 80, **options)

    dials.run(main())
    no_sockets()
    with pytest.raises(error, match=name):
        safedial.safe_connect(("127.0.0.1", 80), **options)
    with pytest.raises(error, match=name):
        safedial.Dialer(**options)


@pytest.mark.parametrize(
    ("family", "error"), [(99, ValueError), ("AF_INET", TypeError), (None, TypeError), (True, TypeError)]
)
def test_invalid_family_is_an_error(no_sockets, family, error):
    no_sockets()
    with pytest.raises(error, match="family"):
        safedial.safe_connect(("127.0.0.1", 80), family=family)


def test_a_subclass_may_have_fields_of_its_own():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Named(safedial.Dialer):
        name: str = ""

    assert Named(name="db", timeout=3).timeout == 3
    with pytest.raises(TypeError, match="steer"):
        Named(name="db", steer=3)
