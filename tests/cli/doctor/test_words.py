"""The sentences of the report, of facts made by hand."""

from dataclasses import replace

import pytest

from safedial.cli.doctor import words
from safedial.cli.doctor.facts import Destination, Endpoint, Facts, Process
from safedial.cli.doctor.judge import Filled, judge
from tests.cli.doctor.made import connection, destination, facts, listener, ranges, self_connected

SERVER, CLIENT = Process(7, "server"), Process(123, "client")
RISKY = "at risk, inside the ephemeral range, not reserved"


def diagnose(*ports, **fields):
    return judge(facts(**fields), ports)


def only(port=40000, **fields):
    """Return the one verdict, on a *port* that was asked for."""
    (verdict,) = diagnose(port, **fields).verdicts
    return verdict


@pytest.mark.parametrize(
    ("diagnosis", "said"),
    [
        (diagnose(), ["Nothing is at risk."]),
        (diagnose(listeners=(listener(5432),)), ["Nothing is at risk."]),
        (diagnose(listeners=(listener(40000), listener(40002))), ["At risk: ports 40000, 40002."]),
        (
            diagnose(listeners=(listener(40000),), self_connected=(self_connected(5432),)),
            ["Taken now: port 5432.", "At risk: port 40000."],
        ),
        (diagnose(ports=None), ["Not checked: see below."]),
        (diagnose(listeners=(listener(40000),), reserved=None), ["Not checked: port 40000."]),
        (
            diagnose(reserved=ranges((1, 65535)), destinations=(destination(1),)),
            ["No port is left to connect from: all are reserved or listened on."],
        ),
        (
            diagnose(destinations=(destination(28000), destination(15000, host="10.0.0.3"))),
            ["Local ports run out: to 10.0.0.2 port 5432."],
        ),
        (
            diagnose(listeners=tuple(map(listener, range(40002, 42026, 2)))),
            ["At risk: ports 40002, 40004, 40006, 40008, 40010, 40012, 40014, 40016, 40018, 40020 and 1,002 more."],
        ),
    ],
)
def test_the_verdict_comes_first(diagnosis, said):
    assert [each.said for each in words.verdict(diagnosis)] == said


@pytest.mark.parametrize(
    ("diagnosis", "said"),
    [
        (diagnose(22, 5432), ["Safe: ports 22, 5432.", "Nothing else is at risk."]),
        (diagnose(40000), ["At risk: port 40000.", "Nothing else is at risk."]),
        (diagnose(5432, listeners=(listener(40000),)), ["Safe: port 5432.", "Others at risk: port 40000."]),
        (
            diagnose(5432, binds={5432: False}, listeners=(listener(80), listener(40000))),
            ["Taken now: port 5432.", "Others at risk: port 40000."],
        ),
        (diagnose(5432, ports=None), ["Not checked: port 5432.", "Others not checked: see below."]),
        (
            diagnose(5432, sockets=False, reserved=None),
            ["Not checked: port 5432.", "Others not checked: see below."],
        ),
        (
            diagnose(22, reserved=ranges((1, 65535))),
            ["Safe: port 22.", "No port is left to connect from: all are reserved or listened on."],
        ),
        (
            diagnose(5432, listeners=(listener(5432, "0.0.0.0"), listener(5432, "::"))),
            [
                "Port 5432 has a server: server (pid 7) listens on 0.0.0.0, ::. No other can bind it there.",
                "Nothing else is at risk.",
            ],
        ),
        (
            diagnose(40000, 40002, listeners=(listener(40000), listener(5432))),
            [
                "Port 40000 has a server: server (pid 7) listens on 127.0.0.1. No other can bind it there.",
                "At risk: ports 40000, 40002.",
                "Nothing else is at risk.",
            ],
        ),
    ],
)
def test_the_ports_that_the_user_named_come_first(diagnosis, said):
    assert [each.said for each in words.verdict(diagnosis)] == said


def test_of_many_named_ports_with_a_server_few_have_a_line():
    served = tuple(map(listener, range(100, 120)))
    assert len(words.verdict(diagnose(*range(100, 120), listeners=served))) == 11


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (only(40000), f"Port 40000: {RISKY}, first to be drawn; nobody listens."),
        (only(40001), f"Port 40001: {RISKY}, last to be drawn; nobody listens."),
        (only(step_width=4), f"Port 40000: {RISKY}; nobody listens."),
        (
            only(reserved=ranges((40000, 40000))),
            "Port 40000: safe, inside the ephemeral range, reserved; nobody listens.",
        ),
        (
            only(22, listeners=(listener(22), listener(22, "::"))),
            "Port 22: safe, outside the ephemeral range; server (pid 7) listens on 127.0.0.1, ::.",
        ),
        (only(reserved=None), "Port 40000: not checked, inside the ephemeral range; nobody listens."),
        (only(ports=None, sockets=False), "Port 40000: not checked; who listens was not checked."),
        (
            only(self_connected=(self_connected(40000),)),
            "Port 40000: taken by a socket of client (pid 123) that is connected to itself.",
        ),
        (
            only(self_connected=(self_connected(40000, kind="time_wait"),)),
            "Port 40000: taken by TIME_WAIT after a self-connect.",
        ),
        (
            only(held=(connection(40000),), numbers={(40000, "connected"): 50}),
            "Port 40000: taken by a socket of client (pid 123) that is connected to 127.0.0.1 port 5432 and 49 more.",
        ),
        (
            only(22, held=(connection(22, kind="time_wait"),), binds={22: True}),
            "Port 22: safe, outside the ephemeral range; nobody listens; "
            "held by TIME_WAIT after a connection to 127.0.0.1 port 5432, so that its server needs SO_REUSEADDR.",
        ),
        (
            only(22, held=(connection(22, kind="time_wait"),), binds={22: None}),
            "Port 22: not checked, outside the ephemeral range; nobody listens; "
            "held by TIME_WAIT after a connection to 127.0.0.1 port 5432.",
        ),
        (
            only(held=(connection(40000, pids=()),)),
            "Port 40000: taken by a connection to 127.0.0.1 port 5432 that is still closing.",
        ),
        (
            only(22, binds={22: False}),
            "Port 22: taken by a socket that is bound, and neither listens nor is connected. "
            "No table shows its process.",
        ),
        (
            only(
                held=(
                    connection(40000, host="::1")._replace(processes=None),
                    connection(40000, kind="time_wait"),
                )
            ),
            "Port 40000: taken by a socket of an unseen process that is connected to ::1 port 5432, "
            "by TIME_WAIT after a connection to 127.0.0.1 port 5432.",
        ),
    ],
)
def test_a_port_is_a_line(verdict, said):
    assert words.port(verdict) == said


@pytest.mark.parametrize(
    ("verdict", "cells"),
    [
        (only(), ("at risk", "yes", "no", "first", "nobody")),
        (only(listeners=(listener(40000),)), ("at risk", "yes", "no", "first", "server (pid 7)")),
        (only(step_width=4), ("at risk", "yes", "no", "not checked", "nobody")),
        (only(reserved=ranges((40000, 40000))), ("safe", "yes", "yes", "", "nobody")),
        (only(ports=None, reserved=None, sockets=False), (*["not checked"] * 3, "", "not checked")),
        (only(self_connected=(self_connected(40000),)), ("taken", "yes", "no", "", "client (pid 123), to itself")),
        (
            only(held=(connection(40000),), numbers={(40000, "connected"): 50}),
            ("taken", "yes", "no", "", "client (pid 123), to 127.0.0.1:5432 and 49 more"),
        ),
        (only(binds={40000: False}), ("taken", "yes", "no", "", "a bound socket")),
        (
            only(held=(connection(40000, host="::1", kind="time_wait"), connection(40000))),
            ("taken", "yes", "no", "", "TIME_WAIT, to [::1]:5432 and 1 more"),
        ),
    ],
)
def test_a_port_is_a_row(verdict, cells):
    assert words.row(verdict) == ("40000", *cells)
    assert len(words.row(verdict)) == len(words.HEADERS)


@pytest.mark.parametrize(
    ("processes", "named"),
    [
        ((SERVER,), "server (pid 7)"),
        ((SERVER, Process(5, "server"), CLIENT), "server (pid 5, 7), client (pid 123)"),
        (tuple(Process(pid, "nginx") for pid in range(1, 21)), "nginx (pid 1, 2, 3 and 17 more)"),
        ((Process(9, ""),), "process (pid 9)"),
        (None, "an unseen process"),
        ((), "no process"),
    ],
)
def test_processes_are_named(processes, named):
    verdict = only(5432, listeners=(listener(5432)._replace(processes=processes),))
    verb = "listen" if CLIENT in (processes or ()) else "listens"
    assert f"; {named} {verb} on 127.0.0.1." in words.port(verdict)


@pytest.mark.parametrize(
    ("live", "time_wait", "said"),
    [
        (1, 0, "1 local port; 0 % of the usable ones."),
        (10000, 2000, "12,000 local ports, 2,000 of them in TIME_WAIT; 43 % of the usable ones, near half"),
        (20000, 0, "20,000 local ports; 71 % of the usable ones, past half"),
        (0, 28000, "28,000 local ports, 28,000 of them in TIME_WAIT; 99 % of the usable ones, near the end"),
        (28232, 0, "28,232 local ports; 100 % of the usable ones, used up"),
    ],
)
def test_a_destination_is_a_line(live, time_wait, said):
    (filled,) = diagnose(destinations=(destination(live, time_wait),)).destinations
    assert words.destination(filled).startswith(f"From 10.0.0.1 to 10.0.0.2 port 5432: {said}")


def test_ports_that_are_drawn_again_soon_are_a_figure():
    (filled,) = diagnose(destinations=(destination(2000, 26232, "127.0.0.1"),)).destinations
    assert words.destination(filled) == (
        "From 10.0.0.1 to 127.0.0.1 port 5432: 28,232 local ports, 26,232 of them in TIME_WAIT; "
        "100 % of the usable ones, but connect() takes those in TIME_WAIT again after 1 s."
    )


def test_of_time_wait_that_is_not_there_nothing_is_said():
    (filled,) = diagnose(destinations=(destination(2000, 0, "127.0.0.1"),)).destinations
    assert words.destination(filled).endswith("2,000 local ports; 7 % of the usable ones.")


def test_a_destination_without_a_known_range():
    filled = Filled(Destination("10.0.0.9", Endpoint("10.0.0.5", 5432), 2, 0), None, None)
    assert words.destination(filled) == "From 10.0.0.9 to 10.0.0.5 port 5432: 2 local ports."


def test_details():
    assert words.details(facts()) == [
        "Ephemeral range: 32768 to 60999, 28,232 ports; drawn first: even ones",
        "Reserved ports: none",
        "Steering: works (IP_LOCAL_PORT_RANGE)",
        "TIME_WAIT: keeps a port for 60 s, towards loopback for 1 s (tcp_tw_reuse = 2)",
        "IPv6: on, with ::1",
        "System: Linux 6.18.5; 100 TCP sockets, 5 in TIME_WAIT",
    ]


def with_settings(**changes):
    return replace(facts(), settings=facts().settings._replace(**changes))


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (facts((1025, 65535)), "Ephemeral range: 1025 to 65535, 64,511 ports; drawn first: odd ones"),
        (
            facts(step_width=4),
            "Ephemeral range: 32768 to 60999, 28,232 ports; drawn in steps of 4 (net.ipv4.ip_local_port_step_width)",
        ),
        (facts(reserved=ranges((80, 80), (8080, 8090))), "Reserved ports: 80, 8080-8090"),
        (
            facts(reserved=ranges(*((low, low + 1) for low in range(1, 100, 3)))),
            "Reserved ports: 1-2, 4-5, 7-8, 10-11, 13-14, 16-17, 19-20, 22-23, 25-26, 28-29 and 23 more",
        ),
        (
            replace(facts(), steering=False),
            "Steering: does not work here (no IP_LOCAL_PORT_RANGE): safedial releases self-connected sockets",
        ),
        (with_settings(wait_on_loopback=60.0), "TIME_WAIT: keeps a port for 60 s (tcp_tw_reuse = 2)"),
        (with_settings(time_wait=None), "System: Linux 6.18.5; 100 TCP sockets"),
        (replace(facts(), ipv6=False), "IPv6: no IPv6 address"),
        (replace(facts(), loopback_v6=False), "IPv6: on, but without ::1"),
        (replace(facts(), loopback_v6=None), "IPv6: on, ::1 not checked"),
    ],
)
def test_a_detail(seen, said):
    assert said in words.details(seen)


def test_what_was_not_looked_at_is_not_checked():
    said = [line.partition(": ")[2] for line in words.details(Facts("freebsd14"))]
    assert said == [*["not checked"] * 5, "freebsd14; TCP sockets not checked"]


def test_ports_that_the_report_leaves_out_are_counted():
    rest = diagnose(listeners=(listener(22), listener(40000), *map(listener, range(2000, 2100)))).verdicts
    said = "Other ports: 101 safe, 1 at risk. --json has them all."
    assert words.more(rest) == said
