"""Self-connects behind a socket-level load balancer: the port reached is not the port dialed."""

import asyncio
import contextlib
import errno
import socket
import struct

import pytest

import safedial
from safedial._tcp import procnet, selfconnect, steering
from tests.support import balancer, dials, faults, namespace

# The port dialed lies outside of the range, so that nothing is steered, or inside, so that the other port is drawn.
UNSTEERED = (30000, 40000, (40000, 40000))
STEERED = (40001, 40000, (40000, 40001))
HOSTS = ("127.0.0.1", "::1")


@pytest.fixture(autouse=True)
def _needs_a_balancer():
    balancer.require()


def guarded(host, port):
    with safedial.guard(), socket.create_connection((host, port)):
        pass


def guarded_in_a_loop(host, port):
    async def dial():
        with safedial.guard():
            _, writer = await asyncio.open_connection(host, port)
            writer.close()

    asyncio.run(dial())


def raced(host, port):
    """Race the address against one that never answers."""
    with faults.listener(port=30010, backlog=0) as full, contextlib.ExitStack() as stack:
        for source in range(20000, 20004):  # not from the range, whose ports are few
            filler = stack.enter_context(socket.socket())
            filler.bind(("127.0.0.1", source))
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        infos = [faults.tcp(*full.getsockname()), faults.tcp(host, port)]
        dialer = safedial.Dialer(resolver=lambda *_, **__: infos, happy_eyeballs_delay=0, timeout=0.05, policy=None)
        dialer.dial(("balanced.test", port)).close()


WAYS = {
    **{name: lambda *address, dial=dial: dial(*address, policy=None) for name, dial in dials.DIALS.items()},
    "Dialer, not steered": lambda *address: dials.DIALS["Dialer.dial"](*address, steer=False, policy=None),
    "guard": guarded,
    "guard, asyncio": guarded_in_a_loop,
    "race": raced,
}


def outcomes(dialed, reached, port_range):
    """Dial each host in each way, twice; return what came of it."""
    namespace.enter_network(port_range)
    steering.read_anew()
    found = {}
    with balancer.balancing(dialed, reached):
        for name, dial in WAYS.items():
            for host in HOSTS:
                for number in (1, 2):
                    try:
                        dial(host, dialed)
                        faults.assert_server_can_bind(host, reached)
                        found[name, host, number] = "connected"
                    except OSError as error:
                        found[name, host, number] = type(error).__name__, error.errno
                    faults.assert_server_can_bind(host, reached)
    return found


@pytest.mark.parametrize("ports", [STEERED, UNSTEERED], ids=["steered", "unsteered"])
def test_self_connect_is_seen(ports):
    found = namespace.call_outside(outcomes, *ports)
    expected = ("SelfConnectError", errno.ECONNREFUSED)
    assert found == dict.fromkeys(found, expected)
    assert len(found) == len(WAYS) * len(HOSTS) * 2


def dial_directly_and_balanced():
    namespace.enter_network((40000, 40009))
    steering.read_anew()
    found = []
    with faults.listener(port=30001) as server, balancer.balancing(30000, 30001):
        for port in (30001, 30000):
            safedial.safe_connect(("127.0.0.1", port)).close()
            server.accept()[0].close()
            found.append(("127.0.0.1", port) in steering.reached_as_dialed)
    return found


def test_only_a_port_that_was_reached_as_dialed_is_believed():
    assert namespace.call_outside(dial_directly_and_balanced) == [True, False]


def what_is_left_to_see(dialed, reached, port_range):
    namespace.enter_network(port_range)
    found = []
    with balancer.balancing(dialed, reached, hiding=True):
        for host in HOSTS:
            with safedial.safe_connect((host, dialed)) as sock, sock.dup() as copy:
                addresses = sock.getsockname()[1], sock.getpeername()[1]
                itself = safedial.is_self_connected(sock)
                rows = [row.local == row.peer for row in procnet.sockets_on(reached)]
                found.append((addresses, itself, rows, segments_in(sock)))
                selfconnect.release(copy)
    return found


def segments_in(sock):
    """Return tcpi_segs_in of struct tcp_info (linux/tcp.h)."""
    return struct.unpack_from("=I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144), 140)[0]


def test_balancer_that_hides_the_peer_address_hides_a_self_connect(server):
    """What `selfconnect` says of it. If this test fails, the kernel has become more honest: see whether it helps."""
    found = namespace.call_outside(what_is_left_to_see, *UNSTEERED)
    assert found == [((40000, 30000), False, [True], 3)] * 2
    with socket.create_connection(server.getsockname()) as sock:
        assert segments_in(sock) == 1
