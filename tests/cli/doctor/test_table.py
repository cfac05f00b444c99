"""What the doctor makes of the kernel's table, with real sockets in every state."""

import contextlib
import socket
from io import FileIO
from pathlib import Path

import pytest

from safedial._tcp import procnet
from safedial._tcp.steering import PortRange
from safedial.cli.doctor import table
from safedial.cli.doctor.facts import Destination, Endpoint
from tests.cli.doctor import states
from tests.cli.doctor.states import RANGE
from tests.support import namespace

EPHEMERAL, NARROW = PortRange(*RANGE), PortRange(40002, 40003)


@pytest.fixture(scope="module")
def scenes():
    """What the table tells of the sockets that each function of `SCENES` leaves in a namespace of its own."""
    namespace.require()
    return namespace.call(look_at_all)


def look_at_all():
    found = {}
    for prepare, ports in SCENES.items():
        namespace.enter_network(RANGE)
        with contextlib.ExitStack() as stack:
            prepare(stack)
            found[prepare.__name__] = [table.read(ports, ephemeral) for ephemeral in (EPHEMERAL, NARROW, None)]
    return found


def short(sockets):
    return [(each.kind, *each.local, *each.peer) for each in sockets]


def listeners(stack):
    stack.enter_context(states.server("0.0.0.0", 20001))
    stack.enter_context(states.server("127.0.0.1", 20002))
    stack.enter_context(states.server("::", 20003, dual=True))
    stack.enter_context(states.server("::1", 20004))
    stack.enter_context(states.server("::ffff:127.0.0.1", 20005))
    stack.enter_context(states.server("0.0.0.0", 20006))
    stack.enter_context(states.server("::", 20006))
    bound = stack.enter_context(socket.socket())
    bound.bind(("127.0.0.1", 20007))


def test_listeners_of_each_family(scenes):
    found = scenes["listeners"][0]
    assert [(each.local.host, each.local.port) for each in found.listeners] == [
        ("0.0.0.0", 20001),
        ("127.0.0.1", 20002),
        ("::", 20003),
        ("::1", 20004),
        ("127.0.0.1", 20005),
        ("0.0.0.0", 20006),
        ("::", 20006),
    ]
    assert {(each.kind, each.peer.port) for each in found.listeners} == {("listening", 0)}
    assert {each.peer.host for each in found.listeners} == {"0.0.0.0", "::"}
    assert len({each.inode for each in found.listeners}) == 7
    assert (found.held, found.self_connected, found.destinations, found.count) == ((), (), (), 7)


def self_connects(stack):
    for port, host in enumerate(("127.0.0.1", "::1", "::ffff:127.0.0.1"), 40010):
        stack.enter_context(states.itself(host, port))
    for port, host in enumerate(("127.0.0.1", "::1", "::ffff:127.0.0.1"), 40020):
        states.itself(host, port).close()  # TIME_WAIT
    stack.enter_context(states.itself("127.0.0.1", 30000))  # outside the range
    # A server that set SO_REUSEADDR can listen beside one that has set it too.
    sock = stack.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 40030))
    sock.connect(("127.0.0.1", 40030))
    stack.enter_context(states.server("127.0.0.1", 40030))


def test_self_connects_alive_and_in_time_wait(scenes):
    found = scenes["self_connects"][0]
    expected = [
        ("connected", "127.0.0.1", 30000),
        ("connected", "127.0.0.1", 40010),
        ("connected", "::1", 40011),
        ("connected", "127.0.0.1", 40012),
        ("time_wait", "127.0.0.1", 40020),
        ("time_wait", "::1", 40021),
        ("time_wait", "127.0.0.1", 40022),
        ("connected", "127.0.0.1", 40030),
    ]
    assert short(found.self_connected) == [(*each, *each[1:]) for each in expected]
    assert [bool(each.inode) for each in found.self_connected] == [each[0] == "connected" for each in expected]
    assert [each.local.port for each in found.held] == [40010, 40021], "on 40030 a server listens"
    assert found.destinations == (), "a self-connect takes its port from no other destination"


def connections(stack):
    server = stack.enter_context(states.server("127.0.0.1", 20000))
    for local in (40050, 40051):  # ordinary ones
        for sock in states.pair(server, local):
            stack.enter_context(sock)
    states.time_wait(server, 40052)
    near, far = states.pair(server, 40053)
    stack.enter_context(near)
    far.close()  # CLOSE_WAIT here, FIN_WAIT2 there
    near, far = states.pair(server, 40054)
    stack.enter_context(near)
    stack.enter_context(far)
    near.shutdown(socket.SHUT_WR)  # FIN_WAIT2
    near, far = states.pair(server, 40055)
    stack.enter_context(far)
    near.close()  # FIN_WAIT2, of no process any more
    stack.enter_context(states.unanswered(20100, 40056))  # SYN_SENT


def test_ordinary_connections_in_each_state(scenes):
    found = scenes["connections"][0]
    assert short(found.held) == [
        *(("connected", "127.0.0.1", port, "127.0.0.1", 20000) for port in (40050, 40051)),
        ("time_wait", "127.0.0.1", 40052, "127.0.0.1", 20000),
        *(("connected", "127.0.0.1", port, "127.0.0.1", 20000) for port in (40053, 40054, 40055)),
        ("connected", "127.0.0.1", 40056, "127.0.0.1", 20100),
    ]
    assert [each.local.port for each in found.held if not each.inode] == [40052, 40055]
    assert found.destinations[0] == Destination("127.0.0.1", Endpoint("127.0.0.1", 20000), live=5, time_wait=1)
    assert [destination.peer.port for destination in found.destinations] == [20000, 20100]


def accepted(stack):
    # One is accepted, one waits to be accepted, one has only asked: TCP_DEFER_ACCEPT keeps it in SYN_RECV.
    for port, host in enumerate(("127.0.0.1", "0.0.0.0", "::"), 40030):
        server = stack.enter_context(states.server(host, port, dual=True))
        stack.enter_context(states.client("127.0.0.1", port, port - 20000))
        stack.enter_context(server.accept()[0])
        near, far = states.client("127.0.0.1", port, port - 19000), server.accept()[0]
        far.close()  # the server's side in TIME_WAIT
        near.close()
        stack.enter_context(states.client("127.0.0.1", port, port - 18000))
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)
        stack.enter_context(states.client("127.0.0.1", port, port - 17000))


def test_what_a_listener_accepts_takes_nothing(scenes):
    found = scenes["accepted"][0]
    assert (found.held, found.destinations) == ((), ())
    assert found.count == 3 + 3 * 7


@pytest.mark.parametrize(
    ("at", "local", "accepted"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "10.0.0.1", True),
        ("0.0.0.0", "::ffff:10.0.0.1", True),
        ("0.0.0.0", "::1", False),
        ("::", "::1", True),
        ("::", "10.0.0.1", True),
        ("::1", "::1", True),
        ("::1", "127.0.0.1", False),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
    ],
)
def test_a_listener_accepted_what_is_on_its_address(at, local, accepted):
    served, held = procnet.spell(at, 40000), procnet.spell(local, 40000)
    row = procnet.Row(held, procnet.spell(local, 5432), procnet.ESTABLISHED, b"1")
    assert (table.gather([row], [served], [40000], None).held == ()) == accepted
    if accepted and at == "::":
        v6_only = table.gather([row], [served], [40000], None, v6_only={40000}).held
        assert (v6_only == ()) == (local == "::1")


def other_addresses(stack):
    server = stack.enter_context(states.server("127.0.0.1", 20000))
    for port, host in ((40031, "::1"), (40032, "::"), (40033, "127.0.0.2")):  # the second with IPV6_V6ONLY
        for sock in states.pair(server, port):
            stack.enter_context(sock)
        stack.enter_context(states.server(host, port))


def test_a_listener_hides_nothing_on_other_addresses(scenes):
    found = scenes["other_addresses"][0]
    assert short(found.held) == [("connected", "127.0.0.1", port, "127.0.0.1", 20000) for port in (40031, 40032, 40033)]


def servers_that_ended(stack):
    with states.server("::", 40040, dual=True) as server:
        stack.enter_context(states.client("127.0.0.1", 40040, 20001))
        stack.enter_context(server.accept()[0])


def test_accepted_connections_outlive_their_listener(scenes):
    found = scenes["servers_that_ended"][0]
    assert short(found.held) == [("connected", "127.0.0.1", 40040, "127.0.0.1", 20001)]


def destinations(stack):
    server = stack.enter_context(states.server("127.0.0.1", 20000))
    stack.enter_context(states.server("::1", 20000))
    stack.enter_context(states.client("127.0.0.1", 20000, 40001, source="127.0.0.5"))
    stack.enter_context(states.client("::1", 20000, 40003))
    stack.enter_context(states.client("127.0.0.1", 20000, 30000))  # its port is outside the range
    stack.enter_context(server.accept()[0])
    stack.enter_context(server.accept()[0])
    states.time_wait(server, 40004)
    for local, host in ((40001, "127.0.0.1"), (40002, "::ffff:127.0.0.1")):
        stack.enter_context(states.client(host, 20000, local))


def test_destinations_are_by_source_and_destination(scenes):
    v4, v6 = Endpoint("127.0.0.1", 20000), Endpoint("::1", 20000)
    whole, narrow, none = (each.destinations for each in scenes["destinations"])
    assert whole[0] == Destination("127.0.0.1", v4, live=2, time_wait=1), "the fullest comes first"
    assert sorted(whole[1:]) == [Destination("127.0.0.5", v4, 1, 0), Destination("::1", v6, 1, 0)]
    assert sorted(narrow) == [Destination("127.0.0.1", v4, 1, 0), Destination("::1", v6, 1, 0)]
    assert none == (), "without a range, nobody knows which ports were drawn"


def many(stack):
    server = stack.enter_context(states.server("127.0.0.1", 20000))
    for number in range(table.MOST_DESTINATIONS + 5):
        host = f"127.0.1.{number}"
        near = stack.enter_context(states.client("127.0.0.1", 20000, 40000 + number % 100, source=host))
        stack.enter_context(server.accept()[0])
    for number in range(25):
        near, far = states.pair(server, 40050, f"127.0.2.{number}")
        near.close()
        far.close()


def test_of_many_only_the_fullest_and_some_are_kept(scenes):
    found = scenes["many"][0]
    assert len(found.destinations) == table.MOST_DESTINATIONS
    kinds = [each.kind for each in found.held]
    assert (kinds.count("connected"), kinds.count("time_wait")) == (1, 20)
    assert found.numbers == {(40050, "connected"): 1, (40050, "time_wait"): 25}


def test_listeners_that_do_not_come_first(monkeypatch, tmp_path):
    """In the tables of other kernels than Linux that have them (gVisor)."""
    with socket.create_server(("127.78.0.3", 0)) as server:
        near = socket.create_connection(address := server.getsockname())
        with server.accept()[0], near:  # the client closes first: the next run finds nothing of the server's
            for name in ("tcp", "tcp6"):
                head, *rows = Path("/proc/thread-self/net", name).read_text().splitlines(keepends=True)
                (tmp_path / name).write_text("".join([head, *reversed(rows)]))
    monkeypatch.setattr(procnet, "FileIO", lambda path: FileIO(tmp_path / Path(path).name))
    found = table.read([address[1]], PortRange(1, 65535))
    assert address in [each.local for each in found.listeners]
    assert (found.held, [each for each in found.destinations if each.source == address[0]]) == ((), [])


def test_without_ipv6(scenes):
    found = scenes["v4_only"][0]
    assert [each.local.port for each in (*found.listeners, *found.held)] == [20001, 40010]


def v4_only(stack):
    Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
    stack.enter_context(states.server("0.0.0.0", 20001))
    stack.enter_context(states.itself("127.0.0.1", 40010))


SCENES = {
    listeners: [20001, 20007],
    self_connects: [40010, 40021, 40030],
    connections: range(40050, 40060),
    accepted: [40030, 40031, 40032],
    other_addresses: [40031, 40032, 40033],
    servers_that_ended: [40040],
    many: [40050],
    v4_only: [40010],
    destinations: (),
}
