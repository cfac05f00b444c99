"""hold(): a port that no connect() of this host draws, for libraries that dial in C."""

import asyncio
import contextlib
import logging
import socket

import pytest
import uvloop

import safedial
from safedial import testing
from tests.support import faults, namespace

HOST = "127.0.0.1"


def dial_with_uvloop(port, held, times):
    """Count self-connects in a range of two ports: uvloop dials in C, where no hook of Python reaches."""

    async def dial():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, HOST, port)
        return transport

    safe = safedial.wrap(dial, address=(HOST, port) if held else None, policy=None)
    if not held:
        safe = dial
    count = 0
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for _ in range(times):
            with contextlib.suppress(OSError):
                transport = runner.run(safe())
                count += testing.is_self_connected(transport)
                transport.abort()
                runner.run(asyncio.sleep(0))
    return count


def test_kernel_never_draws_the_port():
    namespace.require()
    assert namespace.call(dial_with_uvloop, 40000, True, 200, port_range=(40000, 40001)) == 0
    assert namespace.call(dial_with_uvloop, 40000, False, 200, port_range=(40000, 40001)) > 0


@pytest.mark.parametrize("host", [HOST, "::1", "localhost", "0.0.0.0", "::"])
def test_dials_are_refused_inside(host, dead_port):
    with safedial.hold((host, dead_port)), pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, dead_port), 5)


def test_ends_with_the_block(dead_port):
    with safedial.hold((HOST, dead_port)), socket.socket() as sock, pytest.raises(OSError, match="in use"):
        sock.bind(("0.0.0.0", dead_port))
    faults.assert_server_can_bind(HOST, dead_port)


def test_server_that_reuses_addresses_can_start(dead_port):
    with safedial.hold((HOST, dead_port)), socket.create_server((HOST, dead_port)) as server:
        socket.create_connection(server.getsockname()).close()


def test_two_may_hold(dead_port, caplog):
    caplog.set_level(logging.DEBUG, "safedial")
    with safedial.hold((HOST, dead_port)), safedial.hold((HOST, dead_port)):
        assert "not held" not in caplog.text


def test_server_that_listens_is_not_disturbed(server):
    with safedial.hold(server.getsockname()):
        socket.create_connection(server.getsockname()).close()


def test_other_hosts_are_not_held(caplog):
    caplog.set_level(logging.DEBUG, "safedial")
    with safedial.hold(("192.0.2.1", 5432)):
        pass
    assert "192.0.2.1 port 5432 is not held" in caplog.text


def test_ipv6_that_is_off_is_not_held():
    namespace.require()
    assert namespace.call(hold_without_ipv6, ipv6=False) == [
        "::1 port 5432 is not held: it is not an address of this host"
    ]


def hold_without_ipv6():
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("safedial").addHandler(handler)
    logging.getLogger("safedial").setLevel(logging.DEBUG)
    with safedial.hold(("::1", 5432)):
        return said


@pytest.mark.parametrize(("address", "error"), [("db", TypeError), ((HOST, -1), ValueError), ((HOST, 1.5), TypeError)])
def test_bad_arguments(address, error):
    with pytest.raises(error, match="address"), safedial.hold(address):
        pass
