"""Self-connects behind a socket-level load balancer: the port reached is not the port dialed."""

import contextlib
import errno
import functools
import socket

import pytest

import safedial
from safedial._tcp import destinations, hidden, procnet, selfconnect, steering
from tests.support import balancer, dials, faults, namespace

# The port dialed lies outside of the range, so that nothing is steered, or inside, so that the other port is drawn.
UNSTEERED = (30000, 40000, (40000, 40000))
STEERED = (40001, 40000, (40000, 40001))
EQUAL = (40000, 40000, (40000, 40000))  # the balancer changes the host alone; the range has no other port
HOSTS = ("127.0.0.1", "::1")


@pytest.fixture(autouse=True)
def _needs_a_balancer():
    balancer.require()


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
    **{name: lambda *address, dial=dial: dial(address).close() for name, dial in dials.GUARDED.items()},
    "race": raced,
}


def outcomes(dialed, reached, port_range, *, hiding=False):
    """Dial each host in each way, twice; return what came of it. A balancer that hides has addresses of its own."""
    namespace.enter_network(port_range)
    steering.read_anew()
    found = {}
    with balancer.balancing(dialed, reached, virtual=hiding, hiding=hiding):
        for name, dial in WAYS.items():
            for host in HOSTS:
                for number in (1, 2):
                    try:
                        dial(balancer.VIRTUAL[host] if hiding else host, dialed)
                        faults.assert_server_can_bind(host, reached)
                        found[name, host, number] = "connected"
                    except OSError as error:
                        found[name, host, number] = type(error).__name__, error.errno
                    faults.assert_server_can_bind(host, reached)
    return found


@pytest.mark.parametrize(
    ("ports", "hiding"),
    [(STEERED, False), (UNSTEERED, False), (STEERED, True), (EQUAL, True)],
    ids=["steered", "unsteered", "steered, hidden", "unsteered, hidden"],
)
def test_self_connect_is_seen(ports, hiding):
    found = namespace.call_outside(functools.partial(outcomes, *ports, hiding=hiding))
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
            found.append(("127.0.0.1", port) in destinations.reached_as_dialed)
    return found


def test_only_a_port_that_was_reached_as_dialed_is_believed():
    assert namespace.call_outside(dial_directly_and_balanced) == [True, False]


def dial_two_backends():
    namespace.enter_network((40000, 40000))
    steering._RANGE_AGE = 60.0  # both are dialed in one "second"
    steering.read_anew()
    address = balancer.VIRTUAL["127.0.0.1"], 30000
    with faults.listener(port=30000), balancer.balancing(30000, 30000, virtual=True):
        safedial.safe_connect(address).close()
    found = [address in destinations.reached_as_dialed]
    with balancer.balancing(30000, 40000, virtual=True):
        for dial in WAYS.values():
            try:
                dial(*address)
                found.append("connected")
            except OSError as error:
                found.append(type(error).__name__)
    return found


def test_balancer_with_two_backends():
    """The first is reached by the port dialed. The second is not."""
    assert namespace.call_outside(dial_two_backends) == [True] + ["SelfConnectError"] * len(WAYS)


def what_is_left_to_see():
    namespace.enter_network((40000, 40000))
    steering.read_anew()
    found = []
    for virtual in (True, False):
        with balancer.balancing(30000, 40000, virtual=virtual, hiding=True):
            for host in HOSTS:
                with socket.create_connection((balancer.VIRTUAL[host] if virtual else host, 30000)) as sock:
                    found.append((sock.getpeername()[1], hidden.is_suspicious(sock), safedial.is_self_connected(sock)))
                    assert [row.local == row.peer for row in procnet.sockets_on(40000)] == [True]
                    selfconnect.release(sock)
    return found


def test_balancer_that_hides_and_rewrites_only_the_port_hides_a_self_connect():
    """What `selfconnect` says of it."""
    seen, missed = (30000, True, True), (30000, True, False)
    assert namespace.call_outside(what_is_left_to_see) == [seen, seen, missed, missed]
