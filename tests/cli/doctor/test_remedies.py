import contextlib
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safedial._tcp.port_settings import read_reserved
from safedial._tcp.steering import PortRange
from safedial.cli.doctor.judge import judge
from safedial.cli.doctor.remedies import remedies
from safedial.cli.doctor.remedy import as_value, merged
from tests.cli.doctor.made import connection, destination, facts, listener, ranges, self_connected
from tests.support import namespace

PORT = 40000
RESERVE = "sysctl -w net.ipv4.ip_local_reserved_ports="


def found(seen, ports=(), **options):
    return remedies(seen, judge(seen, ports), **options)


def kinds(seen, ports=(), **options):
    return [each.kind for each in found(seen, ports, **options)]


def one(kind, seen, ports=(), **options):
    (only,) = (each for each in found(seen, ports, **options) if each.kind == kind)
    return only


def said(remedy):
    return " ".join((remedy.title, *remedy.notes))


def parsed(value):
    """Read *value* as the kernel does."""
    parts = [part.partition("-") for part in value.split(",")]
    return ranges(*((int(low), int(high or low)) for low, _, high in parts))


def ports_of(spans):
    return {port for low, high in spans for port in range(low, high + 1)}


ports = st.integers(1, 65535)
bounds = st.tuples(ports, ports).map(sorted)


@settings(max_examples=50)
@given(st.lists(bounds, max_size=5), st.lists(ports, min_size=1, max_size=20))
def test_merged_is_exact_and_as_short_as_can_be(reserved, more):
    short = merged(ranges(*reserved), more)
    assert parsed(as_value(short)) == short
    assert ports_of(short) == ports_of(reserved) | set(more)
    assert all(before.high + 1 < after.low for before, after in itertools.pairwise(short))


@settings(max_examples=50)
@given(bounds, st.lists(bounds, max_size=5), st.sets(ports, min_size=1, max_size=20))
def test_what_is_reserved_then_is_safe_and_what_was_reserved_stays(span, reserved, asked):
    seen = facts(ports=span, reserved=ranges(*reserved))
    for remedy in found(seen, asked):
        if remedy.kind != "reserve":
            continue
        (line,) = remedy.lines
        after = parsed(line.removeprefix(RESERVE))
        assert ports_of(reserved) <= ports_of(after)
        healed = replace(seen, settings=seen.settings._replace(reserved=after))
        diagnosis = judge(healed, asked)
        assert (diagnosis.ports("safe"), diagnosis.status) == (tuple(sorted(asked)), 0)
        assert remedies(healed, diagnosis) == ()


@pytest.mark.parametrize(
    ("reserved", "listened", "value"),
    [
        ((), [40000], "40000"),
        ((), [40000, 40001], "40000-40001"),
        ((), [22, 40000, 40002, 50001], "40000,40002,50001"),
        (ranges((8080, 8080), (50000, 50010)), [50011, 40000], "8080,40000,50000-50011"),
        (ranges((39999, 39999), (40001, 40005)), [40000], "39999-40005"),
    ],
)
def test_each_way_to_reserve_has_the_merged_list(reserved, listened, value):
    seen = facts(reserved=reserved, listeners=tuple(map(listener, listened)))
    assert one("reserve", seen).lines == (f"{RESERVE}{value}",)
    assert one("persist", seen).lines == (
        f"echo 'net.ipv4.ip_local_reserved_ports = {value}' > /etc/sysctl.d/90-reserved-ports.conf",
        f"docker run --sysctl net.ipv4.ip_local_reserved_ports={value} IMAGE",
        f'securityContext: {{sysctls: [{{name: net.ipv4.ip_local_reserved_ports, value: "{value}"}}]}}',
    )
    assert ("replaces the present one" in said(one("reserve", seen))) == bool(reserved)


def test_a_port_that_a_server_may_have_drawn_is_told_of():
    told = "Leave out the port of a server that binds port 0"
    assert told in said(one("reserve", facts(listeners=(listener(PORT),))))
    assert told not in said(one("reserve", facts(listeners=(listener(22),)), [PORT]))


@pytest.mark.parametrize(
    ("seen", "ports"),
    [
        (facts(), [22]),
        (facts(reserved=ranges((PORT, PORT)), listeners=(listener(PORT),)), [PORT]),
        (facts(ports=None), [PORT]),
        # To write a list without what is reserved already would do harm.
        (facts(reserved=None), [PORT]),
        (facts(sockets=False), [22]),
        (facts(destinations=(destination(100), destination(13000))), ()),
    ],
)
def test_no_remedy_without_a_cause(seen, ports):
    assert found(seen, ports) == ()


def test_first_reserve_then_free():
    seen = facts(self_connected=(self_connected(PORT),))
    assert kinds(seen) == ["reserve", "free", "persist", "move"]


def test_what_is_taken_but_never_drawn_is_only_freed():
    assert kinds(facts(held=(connection(22),)), [22]) == ["free"]


@pytest.mark.parametrize(
    ("taken", "lines", "words"),
    [
        (
            [self_connected(PORT)],
            ["ss -K -t src '127.0.0.1:40000' dst '127.0.0.1:40000'"],
            ["it is taken by a self-connected socket", "kill 123.", "TIME_WAIT for 60 s"],
        ),
        (
            [self_connected(PORT, "::1", pids=(5, 4)), self_connected(PORT)],
            ["ss -K -t 'sport = :40000'"],
            ["it is taken by 2 self-connected sockets", "kill 4 5 123."],
        ),
        (
            [self_connected(PORT, kind="time_wait")],
            ["ss -K -t state time-wait 'sport = :40000'"],
            ["it is in TIME_WAIT", "wait: TIME_WAIT lasts 60 s"],
        ),
        (
            [connection(PORT, kind="time_wait")],
            ["ss -K -t state time-wait 'sport = :40000'"],
            ["it is in TIME_WAIT", "wait: TIME_WAIT lasts 60 s"],
        ),
        (
            [connection(PORT), connection(PORT, 5433, kind="time_wait")],
            ["ss -K -t src '127.0.0.1:40000' dst '127.0.0.1:5432'", "ss -K -t state time-wait 'sport = :40000'"],
            ["it is taken by an ordinary connection", "breaks a connection that works"],
        ),
        ([self_connected(PORT, pids=())], None, ["Or wait: no process has it any more."]),
        ([self_connected(PORT)._replace(processes=None)], None, ["Or end the program that has it."]),
    ],
)
def test_how_a_port_is_freed(taken, lines, words):
    remedy = one("free", facts(held=tuple(taken)), [PORT])
    assert lines is None or list(remedy.lines) == lines
    assert [word for word in words if word not in said(remedy)] == []


def test_how_a_port_is_freed_that_many_have():
    few = tuple(connection(PORT, to) for to in range(20))
    seen = facts(held=few, numbers={(PORT, "connected"): 1500, (PORT, "time_wait"): 2})
    remedy = one("free", seen, [PORT])
    assert remedy.title == "Free port 40000: it is taken by 1,500 connections."
    assert remedy.lines == ("ss -K -t 'sport = :40000'", "ss -K -t state time-wait 'sport = :40000'")


def test_what_a_listener_on_another_address_accepted_is_not_freed():
    held = (*(connection(PORT, to) for to in range(3)), connection(PORT, host="::1"))
    remedy = one("free", facts(held=held, listeners=(listener(PORT, "10.0.0.1"),), binds={PORT: False}), [PORT])
    assert remedy.lines == ("ss -K -t src '127.0.0.1:40000'", "ss -K -t src '[::1]:40000'")


@pytest.mark.parametrize(("taker", "warned"), [(connection(PORT), True), (self_connected(PORT), False)])
def test_a_connection_that_works_is_broken_with_a_warning(taker, warned):
    assert ("This breaks a connection that works" in said(one("free", facts(held=(taker,)), [PORT]))) == warned


def test_a_port_that_a_server_can_bind_is_not_freed():
    assert kinds(facts(held=(connection(22),), binds={22: True}), [22]) == []


def test_how_a_port_is_freed_that_is_only_bound():
    free = one("free", facts(binds={22: False}), [22])
    assert free.title == "Free port 22: it is bound by a program."
    assert free.lines == ("ss -tanp --bound-inactive 'sport = :22'",)
    assert free.notes[0].startswith("End that program. As root, ss shows it")
    assert free.notes[1].endswith("lsof -nP | grep 'protocol: TCP'")
    elsewhere = one("free", facts(binds={22: False}, system="darwin"), [22])
    assert (elsewhere.title, elsewhere.lines, elsewhere.notes) == (free.title, (), ("End that program.",))


def test_ports_that_are_freed_alike_are_one_remedy():
    waiting = tuple(self_connected(port, kind="time_wait") for port in (PORT, 40004))
    alive = (self_connected(50000, pids=(5,)), self_connected(50002, pids=(5,)), self_connected(50004, pids=(6,)))
    seen = facts(self_connected=(*waiting, *alive), held=(connection(40002, kind="time_wait"),))
    frees = [(each.title, len(each.lines)) for each in found(seen, [40002]) if each.kind == "free"]
    assert frees == [
        ("Free ports 40000, 40002, 40004: each is in TIME_WAIT.", 3),
        ("Free ports 50000, 50002: each is taken by a self-connected socket.", 2),
        ("Free port 50004: it is taken by a self-connected socket.", 1),
    ]


@pytest.mark.parametrize(
    ("many", "named"), [(10, "Reserve ports 40000, 40002, .*, 40018: "), (11, "Reserve 11 ports: ")]
)
def test_a_sentence_names_few_ports(many, named):
    asked = range(40000, 40000 + 2 * many, 2)
    reserve = one("reserve", facts(), asked)
    assert re.match(named, reserve.title)
    assert reserve.lines == (RESERVE + ",".join(map(str, asked)),)


@pytest.mark.parametrize(
    ("taker", "system", "helps"),
    [(connection, "linux", False), (connection, "darwin", True), (self_connected, "darwin", False)],
)
def test_so_reuseaddr_helps_where_nobody_tried_to_bind(taker, system, helps):
    remedy = one("free", facts(held=(taker(PORT, kind="time_wait"),), system=system), [PORT])
    assert ("one with SO_REUSEADDR can bind the port now" in said(remedy)) == helps


@pytest.mark.parametrize(
    ("rights", "told"),
    [
        ({}, set()),
        ({"can_set": True, "can_close": True}, set()),
        ({"can_set": False}, {"reserve", "widen"}),
        ({"can_close": False}, {"free"}),
    ],
)
def test_what_root_can_t_do_in_a_container_is_for_the_host(rights, told):
    seen = facts(self_connected=(self_connected(PORT),), destinations=(destination(28000),), binds={22: False})
    remedies = found(replace(seen, **rights), [22])
    assert {each.kind for each in remedies if "Not from in here, where root " in said(each)} == told
    bound = next(each for each in remedies if "bound by a program" in each.title)
    assert "Not from in here" not in said(bound)


def test_no_lines_of_linux_elsewhere():
    seen = facts(system="darwin", held=(self_connected(PORT),))
    assert [(each.kind, each.lines) for each in found(seen, [PORT])] == [("free", ()), ("move", ())]


def test_lines_for_another_process_s_namespace_are_run_there():
    seen = facts(self_connected=(self_connected(PORT),), destinations=(destination(28000),))
    lines = [line for each in found(seen, pid=42) for line in each.lines]
    commands = [line for line in lines if "sysctl -w" in line or "ss -K" in line]
    assert len(commands) == 4
    assert all(line.startswith("nsenter -t 42 -n ") for line in commands)
    # The host's file says nothing of it.
    assert [line.split()[0] for line in one("persist", seen, pid=42).lines] == ["docker", "securityContext:"]
    assert "until the network namespace ends" in said(one("reserve", seen, pid=42))


@pytest.mark.parametrize(
    ("span", "where"),
    [
        ((32768, 60999), "a port below 32768,"),
        ((1024, 60999), "a port above 60999,"),
        ((1024, 65535), "a port below 1024 (most systems ask for a privilege there),"),
    ],
)
def test_where_to_move_a_server(span, where):
    title = f"If you can't reserve ports, move the server of port 40000 to {where} which connect() never draws."
    assert one("move", facts(ports=span), [PORT]).title == title


def test_where_to_move_servers():
    move = "move the servers of ports 40000, 40002 to ports below 32768, which connect() never draws."
    assert move in one("move", facts(), [PORT, 40002]).title


def test_no_port_is_outside_the_range():
    assert "move" not in kinds(facts(ports=(1, 65535)), [PORT])


@pytest.mark.parametrize(("reserved", "left"), [((1, 2), 9), ((40006, 40009), 5), ((40005, 40009), 4)])
def test_how_many_ports_the_list_leaves(reserved, left):
    text = said(one("reserve", facts(ports=(40000, 40009), reserved=ranges(reserved)), [40001]))
    assert (f"Only {left} of the 10 ports of the range are then left" in text) == (left < 5)


def test_the_last_port_is_not_reserved():
    seen = facts(ports=(40000, 40001), reserved=ranges((40001, 40001)))
    assert kinds(seen, [PORT]) == ["move"]
    assert "no port to connect from would be left" in said(one("move", seen, [PORT]))


def test_a_list_that_linux_cuts_off_is_no_line():
    asked = range(32768, 32768 + 2 * 683, 2)
    reserve = one("reserve", facts(), asked)
    assert reserve.lines == ()
    assert "4,094 characters" in said(reserve)
    assert kinds(facts(), asked) == ["reserve", "move"]
    (line,) = one("reserve", facts(), asked[:-1]).lines
    assert len(line.removeprefix(RESERVE)) == 682 * 6 - 1 == 4091


@pytest.mark.parametrize(
    ("full", "words"),
    [
        (destination(16000), ["Share connections to 10.0.0.2:5432 from 10.0.0.1", "16,000 are open"]),
        (destination(1, 16000), ["Reuse connections to", "16,000 closed ones", "again after 60 s."]),
        (destination(16000, host="2001:db8::1"), ["[2001:db8::1]:5432"]),
    ],
)
def test_pool(full, words):
    text = said(one("pool", facts(destinations=(full,))))
    assert [word for word in words if word not in text] == []


def test_pool_where_ports_are_drawn_again_after_a_long_delay():
    seen = with_waits(facts(destinations=(destination(1, 16000, "127.0.0.1"),)), 5.0, 60.0)
    assert "again after 5 s (net.ipv4.tcp_tw_reuse)." in said(one("pool", seen))


@pytest.mark.parametrize(("host", "waits"), [("127.0.0.1", (1.0, 60.0)), ("10.0.0.2", (1.0, 1.0))])
def test_no_remedy_for_time_wait_that_ends_soon(host, waits):
    assert found(with_waits(facts(destinations=(destination(1, 28000, host),)), *waits)) == ()


def with_waits(seen, on_loopback, others):
    return replace(seen, settings=seen.settings._replace(wait_on_loopback=on_loopback, wait=others))


def test_reserve_fewer():
    seen = facts(ports=(40000, 49999), reserved=ranges((40000, 45999)), destinations=(destination(4000),))
    assert one("unreserve", seen).title == "Reserve fewer ports: 6,000 of the 10,000 ports of the range are reserved."
    assert "unreserve" not in kinds(facts(destinations=(destination(28000),)))


def test_ports_that_are_listened_on_are_not_reserved_ones():
    servers = tuple(map(listener, range(40000, 40006)))
    assert "unreserve" not in kinds(facts(ports=(40000, 40009), listeners=servers, destinations=(destination(4),)))


def test_if_no_port_is_left_no_pool_helps():
    full = {"ports": (40000, 49999), "reserved": ranges((40000, 49999))}
    assert kinds(facts(**full, destinations=(destination(40),))) == ["unreserve", "widen"]
    assert kinds(facts(**full, sockets=False)) == ["unreserve"]


@pytest.mark.parametrize(
    ("reserved", "listened", "lines", "words"),
    [
        ((), [22], [], "No server listens in what is added."),
        ((), [22, 20000, 61000], [f"{RESERVE}20000,61000"], "It puts ports 20000, 61000 at risk"),
        (ranges((8080, 8080)), [20000], [f"{RESERVE}8080,20000"], "It puts port 20000 at risk"),
        (ranges((20000, 20001)), [20000], [], "No server listens in what is added."),
        # What is at risk today stays in the list.
        ((), [20000, 40000], [f"{RESERVE}20000,40000"], "It puts port 20000 at risk"),
    ],
)
def test_the_range_is_widened_only_after_what_this_puts_at_risk_is_reserved(reserved, listened, lines, words):
    seen = facts(reserved=reserved, listeners=tuple(map(listener, listened)), destinations=(destination(28000),))
    remedy = one("widen", seen)
    assert list(remedy.lines) == [*lines, "sysctl -w net.ipv4.ip_local_port_range='16384 65535'"]
    assert words in said(remedy)


def test_widening_reserves_a_port_that_was_asked_for():
    assert one("widen", facts(destinations=(destination(28000),)), [20000, 5432]).lines[0] == f"{RESERVE}20000"


@pytest.mark.parametrize(("start", "low"), [(1024, 16384), (20000, 20000), (20001, 20002), (50000, 32768)])
def test_the_range_is_not_widened_to_ports_that_are_root_s(start, low):
    seen = replace(facts(destinations=(destination(28000),)), unprivileged_start=start)
    assert one("widen", seen).lines == (f"sysctl -w net.ipv4.ip_local_port_range='{low} 65535'",)


def test_the_range_is_not_widened_if_linux_cuts_off_what_is_to_be_reserved():
    def seen(many):
        kept = ranges(*((port, port) for port in range(10001, 10001 + 2 * many, 2)))
        return facts(reserved=kept, listeners=(listener(20000),), destinations=(destination(28000),))

    (reserve, _) = one("widen", seen(681)).lines
    assert len(reserve.removeprefix(RESERVE)) == 682 * 6 - 1
    assert "widen" not in kinds(seen(682))


@settings(max_examples=50)
@given(bounds, st.lists(bounds, max_size=3), st.lists(ports, max_size=10))
def test_widening_puts_no_listening_port_at_risk(span, reserved, listened):
    seen = facts(ports=span, reserved=ranges(*reserved), listeners=tuple(map(listener, listened)))
    seen = replace(seen, sockets=replace(seen.sockets, destinations=(destination(65535),)))
    for remedy in found(seen):
        if remedy.kind != "widen":
            continue
        changed = seen.settings
        for line in remedy.lines:
            if line.startswith(RESERVE):
                changed = changed._replace(reserved=parsed(line.removeprefix(RESERVE)))
            else:
                low, high = map(int, line.partition("'")[2].rstrip("'").split())
                assert low <= span[0] <= span[1] <= high
                changed = changed._replace(ports=PortRange(low, high))
        assert judge(replace(seen, settings=changed), ()).ports("at risk") == ()


@pytest.mark.parametrize(
    "changed", [{"ports": None}, {"reserved": None}, {"system": "darwin"}, {"ports": (10000, 65535)}]
)
def test_no_widening_if_something_is_unknown_or_nothing_is_wider(changed):
    assert "widen" not in kinds(facts(**changed, destinations=(destination(65535),)))


# Root, because a command that is not root's loses what its parent may do in a user namespace.
needs_commands = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not (shutil.which("ss") and shutil.which("sysctl")),
    reason="runs the lines: needs Linux, root, ss and sysctl (Debian: iproute2, procps)",
)


def paste(remedy):
    for line in remedy.lines:
        subprocess.run(line, shell=True, check=True, stdout=subprocess.DEVNULL)


def self_connects(port, host):
    """Dial *port* in a range of two, and return whether that ended in a self-connect."""
    for _ in range(200):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as dialing, contextlib.suppress(ConnectionRefusedError):
            dialing.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            dialing.connect((host, port))
            return True
    return False


def reserve_for_real():
    namespace.set_port_range(PORT, PORT + 1)
    before = [self_connects(PORT, host) for host in ("127.0.0.1", "::1")]
    Path("/proc/sys/net/ipv4/ip_local_reserved_ports").write_text("8080,40002")
    paste(one("reserve", facts(ports=(PORT, PORT + 1), reserved=ranges((8080, 8080), (40002, 40002))), [PORT]))
    return before, [self_connects(PORT, host) for host in ("127.0.0.1", "::1")], read_reserved()


@pytest.mark.storm
@needs_commands
def test_the_kernel_takes_the_reserved_list():
    before, after, reserved = namespace.call_with_accounts(reserve_for_real)
    assert before == [True, True]
    assert after == [False, False]
    assert reserved == ranges((8080, 8080), (40000, 40000), (40002, 40002))


def binds(port):
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def free_for_real():
    """Let a self-connected socket take the port, alive and in TIME_WAIT, and free it. Return whether a server binds."""
    namespace.set_port_range(PORT, PORT)
    answers = []
    for kind in ("connected", "time_wait"):
        with socket.socket() as taking:
            taking.connect(("127.0.0.1", PORT))
            if kind == "time_wait":
                taking.close()
            answers.append(binds(PORT))
            paste(one("free", facts(self_connected=(self_connected(PORT, kind=kind),))))
            answers.append(binds(PORT))
        answers.append(binds(PORT))
    return answers


@needs_commands
@pytest.mark.storm
def test_the_kernel_frees_the_port():
    assert namespace.call_with_accounts(free_for_real) == [False, True, True] * 2
