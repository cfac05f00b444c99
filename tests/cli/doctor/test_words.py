"""The sentences of the report, of facts made by hand."""

import pytest

from safedial._tcp.port_settings import PortSettings
from safedial._tcp.steering import PortRange
from safedial.cli.doctor import words
from safedial.cli.doctor.facts import Crowd, Endpoint, Facts, Process
from safedial.cli.doctor.judge import Filled
from tests.support.doctor import CELERY, HERE, REDIS, SETTINGS, connected, diagnose, facts, server


def only(**fields):
    """Return the one verdict on the port 40000, which was asked for."""
    (verdict,) = diagnose(40000, **fields).verdicts
    return verdict


@pytest.mark.parametrize(
    ("diagnosis", "said"),
    [
        (diagnose(5432), "Nothing is at risk."),
        (diagnose(40000), "At risk: port 40000."),
        (diagnose(40002, listeners=[server(40000)]), "At risk: ports 40000, 40002."),
        (diagnose(40000, taken=[connected(5432)]), "Taken now: port 5432. At risk: port 40000."),
        (diagnose(settings=PortSettings()), "Not checked: see below."),
        (diagnose(5432, settings=PortSettings()), "Not checked: port 5432."),
        (
            diagnose(
                crowds=[Crowd(HERE, Endpoint("10.0.0.5", 80), 28000, 0), Crowd(HERE, Endpoint("::1", 81), 15000, 0)]
            ),
            "Local ports run out: to 10.0.0.5 port 80.",
        ),
        (
            diagnose(*range(40002, 42026, 2)),
            "At risk: ports 40002, 40004, 40006, 40008, 40010, 40012, 40014, 40016, 40018, 40020 and 1,002 more.",
        ),
    ],
)
def test_the_verdict_is_one_line(diagnosis, said):
    assert words.verdict(diagnosis) == said


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (only(), "Port 40000: at risk, inside the ephemeral range, not reserved, first to be drawn; nobody listens."),
        (
            diagnose(40003).verdicts[0],
            "Port 40003: at risk, inside the ephemeral range, not reserved, last to be drawn; nobody listens.",
        ),
        (
            only(step_width=4),
            "Port 40000: at risk, inside the ephemeral range, not reserved; nobody listens.",
        ),
        (diagnose(40001).verdicts[0], "Port 40001: safe, inside the ephemeral range, reserved; nobody listens."),
        (
            diagnose(listeners=[server(22), server(22, host="::")]).verdicts[0],
            "Port 22: safe, outside the ephemeral range; redis-server (pid 77) listens on 127.0.0.1, ::.",
        ),
        (
            only(settings=SETTINGS._replace(reserved=None)),
            "Port 40000: not checked, inside the ephemeral range; nobody listens.",
        ),
        (only(settings=PortSettings(), sockets=None), "Port 40000: not checked; who listens was not checked."),
        (
            only(taken=[connected(40000)]),
            "Port 40000: taken by a socket of celery (pid 4242) that is connected to itself.",
        ),
        (only(taken=[connected(40000, kind="time_wait")]), "Port 40000: taken by TIME_WAIT after a self-connect."),
        (
            only(
                taken=[
                    connected(40000, to=("::1", 80), processes=None),
                    connected(40000, kind="time_wait", to=(HERE, 80)),
                ]
            ),
            "Port 40000: taken by a socket of an unseen process that is connected to ::1 port 80, "
            "by TIME_WAIT after a connection to 127.0.0.1 port 80.",
        ),
    ],
)
def test_a_port_is_a_line(verdict, said):
    assert words.port(verdict) == said


@pytest.mark.parametrize(
    ("verdict", "cells"),
    [
        (only(), ("40000", "at risk", "yes", "no", "first", "nobody")),
        (only(listeners=[server(40000)]), ("40000", "at risk", "yes", "no", "first", "redis-server (pid 77)")),
        (only(step_width=4), ("40000", "at risk", "yes", "no", "not checked", "nobody")),
        (diagnose(40001).verdicts[0], ("40001", "safe", "yes", "yes", "", "nobody")),
        (
            only(settings=PortSettings(), sockets=None),
            ("40000", "not checked", "not checked", "not checked", "", "not checked"),
        ),
        (only(taken=[connected(40000)]), ("40000", "taken", "yes", "no", "", "celery (pid 4242), to itself")),
        (
            only(taken=[connected(40000, kind="time_wait", to=("::1", 80)), connected(40000, to=(HERE, 80))]),
            ("40000", "taken", "yes", "no", "", "TIME_WAIT, to [::1]:80 and 1 more"),
        ),
    ],
)
def test_a_port_is_a_row(verdict, cells):
    assert words.row(verdict) == cells
    assert len(cells) == len(words.HEADERS)


@pytest.mark.parametrize(
    ("processes", "named"),
    [
        ((REDIS,), "redis-server (pid 77)"),
        ((REDIS, Process(5, "redis-server"), CELERY), "redis-server (pid 5, 77), celery (pid 4242)"),
        (tuple(Process(pid, "nginx") for pid in range(1, 21)), "nginx (pid 1, 2, 3 and 17 more)"),
        ((Process(9, "\x1b[2Jfake\n"),), "\\x1b[2Jfake\\n (pid 9)"),  # anybody can name a process
        ((Process(9, ""),), "process (pid 9)"),
        (None, "an unseen process"),
        ((), "no process"),
    ],
)
def test_processes_are_named(processes, named):
    (verdict,) = diagnose(listeners=[server(5432, processes=processes)]).verdicts
    assert f"; {named} listens on 127.0.0.1." in words.port(verdict)


@pytest.mark.parametrize(
    ("live", "time_wait", "said"),
    [
        (1, 0, "1 local port; 0 % of the usable ones."),
        (10000, 2000, "12,000 local ports, 2,000 of them in TIME_WAIT; 43 % of the usable ones, near half"),
        (20000, 0, "20,000 local ports; 71 % of the usable ones, past half"),
        (0, 28000, "28,000 local ports, 28,000 of them in TIME_WAIT; 99 % of the usable ones, near the end"),
        (28231, 0, "28,231 local ports; 100 % of the usable ones, used up"),
    ],
)
def test_a_destination_is_a_line(live, time_wait, said):
    (filled,) = diagnose(crowds=[Crowd("10.0.0.9", Endpoint("10.0.0.5", 5432), live, time_wait)]).crowds
    assert words.crowd(filled).startswith(f"From 10.0.0.9 to 10.0.0.5 port 5432: {said}")


def test_a_destination_without_a_known_range():
    filled = Filled(Crowd("10.0.0.9", Endpoint("10.0.0.5", 5432), 2, 0), None, None)
    assert words.crowd(filled) == "From 10.0.0.9 to 10.0.0.5 port 5432: 2 local ports."


def test_details():
    assert words.details(facts(steering=True, ipv6=True, loopback_v6=True)) == [
        "Ephemeral range: 32768 to 60999, 28,232 ports",
        "Reserved ports: 40001",
        "Drawn first: even ports, then odd ones",
        "Steering: works (IP_LOCAL_PORT_RANGE): safedial keeps the kernel off the port that it dials",
        "TIME_WAIT: keeps a port for 60 s, towards loopback for 1 s",
        "IPv6: on, with ::1",
        "TCP sockets: 1,234, 3 of them in TIME_WAIT",
        "System: Linux 6.18.5",
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"settings": SETTINGS._replace(ports=PortRange(1025, 65535))}, "Drawn first: odd ports, then even ones"),
        ({"step_width": 4}, "Drawn first: by steps of 4 (net.ipv4.ip_local_port_step_width)"),
        ({"settings": SETTINGS._replace(reserved=())}, "Reserved ports: none"),
        (
            {"settings": SETTINGS._replace(reserved=tuple(PortRange(low, low + 1) for low in range(1, 100, 3)))},
            "Reserved ports: 1-2, 4-5, 7-8, 10-11, 13-14, 16-17, 19-20, 22-23, 25-26, 28-29 and 23 more",
        ),
        ({"steering": False}, "Steering: does not work here"),
        ({"settings": SETTINGS._replace(wait_on_loopback=60.0)}, "TIME_WAIT: keeps a port for 60 s"),
        ({"settings": SETTINGS._replace(time_wait=None)}, "TCP sockets: 1,234"),
        ({"ipv6": False}, "IPv6: off"),
        ({"ipv6": True, "loopback_v6": False}, "IPv6: on, but without ::1"),
        ({"ipv6": True}, "IPv6: on, ::1 not checked"),
    ],
)
def test_a_detail(fields, said):
    assert any(line.startswith(said) for line in words.details(facts(**fields)))


def test_what_was_not_looked_at_is_not_checked():
    said = [line.partition(": ")[2] for line in words.details(Facts("freebsd14"))]
    assert said == [*["not checked"] * 7, "freebsd14"]


def test_ports_that_the_report_leaves_out_are_counted():
    rest = diagnose(listeners=[server(22), server(40000), *(server(port) for port in range(2000, 3200))]).verdicts
    said = "Other ports that something listens on: 1,201 safe, 1 at risk. --json has them all."
    assert words.more(rest) == said
