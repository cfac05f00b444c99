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
from safedial.cli.doctor.remedies import as_value, merged, remedies
from tests.cli.doctor.made import connection, crowd, facts, listener, ranges, self_connected
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
    (line,) = one("persist", seen).lines
    assert f"'net.ipv4.ip_local_reserved_ports = {value}' > /etc/sysctl.d/" in line
    assert one("kubernetes", seen).lines[-1] == f'      value: "{value}"'
    assert one("docker", seen).lines == (f"docker run --sysctl net.ipv4.ip_local_reserved_ports={value} IMAGE",)
    assert ("replaces the present one" in said(one("reserve", seen))) == bool(reserved)


@pytest.mark.parametrize(
    ("seen", "ports"),
    [
        (facts(), [22]),
        (facts(reserved=ranges((PORT, PORT)), listeners=(listener(PORT),)), [PORT]),
        (facts(ports=None), [PORT]),
        # To write a list without what is reserved already would do harm.
        (facts(reserved=None), [PORT]),
        (facts(sockets=False), [22]),
        (facts(crowds=(crowd(100), crowd(13000))), ()),
    ],
)
def test_no_remedy_without_a_cause(seen, ports):
    assert found(seen, ports) == ()


def test_first_reserve_then_free():
    seen = facts(self_connected=(self_connected(PORT),))
    assert kinds(seen) == ["reserve", "free", "persist", "kubernetes", "docker", "move"]


def test_what_is_taken_but_never_drawn_is_only_freed():
    assert kinds(facts(taken=(connection(22),)), [22]) == ["free"]


@pytest.mark.parametrize(
    ("taken", "lines", "words"),
    [
        (
            [self_connected(PORT)],
            ["ss -K -t src '127.0.0.1:40000' dst '127.0.0.1:40000'"],
            ["a self-connected socket has it", "kill 123.", "TIME_WAIT for 60 s"],
        ),
        (
            [self_connected(PORT, "::1", pids=(5, 4)), self_connected(PORT)],
            [
                "ss -K -t src '[::1]:40000' dst '[::1]:40000'",
                "ss -K -t src '127.0.0.1:40000' dst '127.0.0.1:40000'",
            ],
            ["2 self-connected sockets have it", "kill 4 5 123."],
        ),
        (
            [self_connected(PORT, kind="time_wait")],
            ["ss -K -t state time-wait 'sport = :40000'"],
            ["it is in TIME_WAIT", "wait: TIME_WAIT lasts 60 s"],
        ),
        (
            [connection(PORT, kind="time_wait")],
            ["ss -K -t state time-wait 'sport = :40000'"],
            ["one with SO_REUSEADDR can bind the port now"],
        ),
        (
            [connection(PORT), connection(PORT, 5433, kind="time_wait")],
            ["ss -K -t src '127.0.0.1:40000' dst '127.0.0.1:5432'", "ss -K -t state time-wait 'sport = :40000'"],
            ["an ordinary connection has it", "breaks a connection that works"],
        ),
        ([self_connected(PORT, pids=())], None, ["Or wait: no process has it any more."]),
        ([self_connected(PORT)._replace(processes=None)], None, ["Or end the program that has it."]),
    ],
)
def test_how_a_port_is_freed(taken, lines, words):
    remedy = one("free", facts(taken=tuple(taken)), [PORT])
    assert lines is None or list(remedy.lines) == lines
    assert [word for word in words if word not in said(remedy)] == []


def test_how_a_port_is_freed_that_is_only_bound():
    free = one("free", facts(bound=(22,)), [22])
    assert free.title == "Free port 22: end the program that has bound it."
    assert free.lines == ("ss -tanp --bound-inactive 'sport = :22'",)
    assert len(free.notes) == 1
    elsewhere = one("free", facts(bound=(22,), system="darwin"), [22])
    assert (elsewhere.title, elsewhere.lines, elsewhere.notes) == (free.title, (), ())


@pytest.mark.parametrize(
    ("many", "named"), [(10, "Reserve ports 40000, 40002, .*, 40018: "), (11, "Reserve 11 ports: ")]
)
def test_a_sentence_names_few_ports(many, named):
    asked = range(40000, 40000 + 2 * many, 2)
    reserve = one("reserve", facts(), asked)
    assert re.match(named, reserve.title)
    assert reserve.lines == (RESERVE + ",".join(map(str, asked)),)


def test_so_reuseaddr_does_not_help_against_a_self_connect():
    remedy = one("free", facts(self_connected=(self_connected(PORT, kind="time_wait"),)))
    assert "SO_REUSEADDR" not in said(remedy)


def test_no_lines_of_linux_elsewhere():
    seen = facts(system="darwin", taken=(self_connected(PORT),))
    assert [(each.kind, each.lines) for each in found(seen, [PORT])] == [("free", ()), ("move", ())]


def test_lines_for_another_process_s_namespace_are_run_there():
    seen = facts(self_connected=(self_connected(PORT),), crowds=(crowd(28000),))
    lines = [line for each in found(seen, pid=42) for line in each.lines]
    commands = [line for line in lines if "sysctl -w" in line or "ss -K" in line]
    assert len(commands) == 4
    assert all(line.startswith("nsenter -t 42 -n ") for line in commands)
    # The host's file says nothing of it.
    assert "persist" not in kinds(seen, pid=42)


@pytest.mark.parametrize(
    ("span", "where"),
    [
        ((32768, 60999), "a port below 32768,"),
        ((1024, 60999), "a port above 60999,"),
        ((1024, 65535), "a port below 1024, for which most systems ask for a privilege"),
    ],
)
def test_where_to_move_a_server(span, where):
    assert (
        f"If you can't reserve ports, give the server of port 40000 {where}"
        in one("move", facts(ports=span), [PORT]).title
    )


def test_no_port_is_outside_the_range():
    assert "move" not in kinds(facts(ports=(1, 65535)), [PORT])


@pytest.mark.parametrize(("reserved", "left"), [((1, 2), 9), ((40006, 40009), 5), ((40005, 40009), 4)])
def test_how_many_ports_the_list_leaves(reserved, left):
    text = said(one("reserve", facts(ports=(40000, 40009), reserved=ranges(reserved)), [40001]))
    assert f" {left} of the 10 ports of the range are left." in text
    assert ("That is few" in text) == (left < 5)


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
        (crowd(16000), ["Share connections to 10.0.0.2:5432 from 10.0.0.1", "16,000 are open"]),
        (crowd(1, 16000), ["Reuse connections to", "16,000 closed ones", "again after 60 s."]),
        (crowd(1, 16000, "127.0.0.1"), ["again after 1 s (net.ipv4.tcp_tw_reuse)."]),
        (crowd(16000, host="2001:db8::1"), ["[2001:db8::1]:5432"]),
    ],
)
def test_pool(full, words):
    text = said(one("pool", facts(crowds=(full,))))
    assert [word for word in words if word not in text] == []


def test_reserve_fewer():
    seen = facts(ports=(40000, 49999), reserved=ranges((40000, 45999)), crowds=(crowd(4000),))
    assert one("unreserve", seen).title == "Reserve fewer ports: 6,000 of the 10,000 ports of the range are reserved."
    assert "unreserve" not in kinds(facts(crowds=(crowd(28000),)))


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
    seen = facts(reserved=reserved, listeners=tuple(map(listener, listened)), crowds=(crowd(28000),))
    remedy = one("widen", seen)
    assert list(remedy.lines) == [*lines, "sysctl -w net.ipv4.ip_local_port_range='16384 65535'"]
    assert words in said(remedy)


def test_widening_reserves_a_port_that_was_asked_for():
    assert one("widen", facts(crowds=(crowd(28000),)), [20000, 5432]).lines[0] == f"{RESERVE}20000"


@settings(max_examples=50)
@given(bounds, st.lists(bounds, max_size=3), st.lists(ports, max_size=10))
def test_widening_puts_no_listening_port_at_risk(span, reserved, listened):
    seen = facts(ports=span, reserved=ranges(*reserved), listeners=tuple(map(listener, listened)))
    seen = replace(seen, sockets=replace(seen.sockets, crowds=(crowd(65535),)))
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
    assert "widen" not in kinds(facts(**changed, crowds=(crowd(65535),)))


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
def test_the_kernel_frees_the_port():
    assert namespace.call_with_accounts(free_for_real) == [False, True, True] * 2
