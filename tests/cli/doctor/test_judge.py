from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safedial.cli.doctor.judge import judge, usable_ports
from tests.cli.doctor.made import RANGE, connection, destination, facts, listener, ranges, self_connected

PORT = 40000


def verdict(seen, port=PORT):
    (found,) = (each for each in judge(seen, [port]).verdicts if each.port == port)
    return found


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        (facts(), "at risk"),
        (facts(listeners=(listener(PORT),)), "at risk"),
        (facts(ports=(PORT, PORT)), "at risk"),
        (facts(ports=(PORT + 1, 60999)), "safe"),
        (facts(ports=(32768, PORT - 1)), "safe"),
        (facts(reserved=ranges((PORT, PORT))), "safe"),
        (facts(reserved=ranges((1, 2), (39000, 41000))), "safe"),
        (facts(reserved=ranges((PORT + 1, 60999))), "at risk"),
        (facts(ports=None), "not checked"),
        (facts(ports=None, reserved=ranges((PORT, PORT))), "safe"),
        (facts(reserved=None), "not checked"),
        (facts(ports=(PORT + 1, 60999), reserved=None), "safe"),
        # Whether a socket has the port is not known: it is not "safe".
        (facts(ports=(PORT + 1, 60999), sockets=False), "not checked"),
        (facts(sockets=False), "at risk"),
    ],
)
def test_verdict_by_the_settings(seen, word):
    assert verdict(seen).verdict == word


@pytest.mark.parametrize("machine", [{}, {"ports": (1024, 2000)}, {"reserved": ranges((PORT, PORT))}, {"ports": None}])
@pytest.mark.parametrize(
    "seen",
    [
        {"self_connected": (self_connected(PORT),)},
        {"self_connected": (self_connected(PORT, kind="time_wait"),)},
        {"held": (connection(PORT),)},
        {"held": (connection(PORT, kind="time_wait"),)},
        {"held": (connection(PORT, host="10.0.0.1"),), "listeners": (listener(PORT),)},
        {"self_connected": (self_connected(PORT),), "listeners": (listener(PORT, "0.0.0.0"),)},
    ],
)
def test_taken_whatever_the_settings(machine, seen):
    found = verdict(facts(**machine, **seen))
    assert found.verdict == "taken"
    assert len(found.held_by) == 1


def test_a_port_that_only_a_bound_socket_has_is_taken():
    seen = facts(binds={22: False})
    assert (verdict(seen, 22).verdict, verdict(seen, 22).held_by, judge(seen, [22]).status) == ("taken", (), 1)
    assert judge(seen, []).verdicts == ()


def test_a_self_connected_socket_is_named_once():
    both = (self_connected(PORT),)
    assert verdict(facts(self_connected=both, held=both)).held_by == both


@pytest.mark.parametrize(
    ("machine", "can_bind", "word"),
    [
        ({}, True, "at risk"),
        ({}, False, "taken"),
        ({}, None, "at risk"),
        ({"ports": (1024, 2000)}, True, "safe"),
        ({"ports": (1024, 2000)}, False, "taken"),
        ({"ports": (1024, 2000)}, None, "not checked"),
    ],
)
@pytest.mark.parametrize("held", [(), (connection(PORT),), (connection(PORT, kind="time_wait"),)])
def test_taken_means_that_a_server_can_t_bind(machine, held, can_bind, word):
    """Also if sockets have the port: a server that sets SO_REUSEADDR binds it beside those that one had accepted."""
    found = verdict(facts(**machine, held=held, binds={PORT: can_bind}))
    assert (found.verdict, found.held_by) == (word, held)


def test_a_self_connected_socket_takes_its_port_even_from_nobody():
    assert verdict(facts(self_connected=(self_connected(PORT),), binds={PORT: True})).verdict == "taken"


def test_numbers_are_those_of_the_table():
    """Of many sockets on a port that was asked for, few are kept."""
    few = (connection(PORT), connection(PORT, kind="time_wait"))
    found = verdict(facts(held=few, numbers={(PORT, "connected"): 50, (PORT, "time_wait"): 1}))
    assert (len(found.held_by), found.live, found.time_wait) == (2, 50, 1)
    assert verdict(facts(self_connected=(self_connected(PORT),))).live == 1


def test_several_listeners_on_a_port_are_one_verdict():
    seen = facts(listeners=(listener(PORT), listener(PORT, "::1"), listener(22)))
    assert [(each.port, len(each.listeners), each.asked) for each in judge(seen, ()).verdicts] == [
        (22, 1, False),
        (PORT, 2, False),
    ]


def test_verdicts_are_of_ports_listened_on_asked_for_and_self_connected():
    seen = facts(listeners=(listener(22),), self_connected=(self_connected(PORT),))
    found = judge(seen, [5432, 22])
    assert [(each.port, each.asked) for each in found.verdicts] == [(22, True), (5432, True), (PORT, False)]
    assert found.ports("safe") == (22, 5432)


@pytest.mark.parametrize(
    ("seen", "preferred"),
    [
        (facts(), True),
        (facts(ports=(32769, 60999)), False),
        (facts(ports=(PORT + 1, 60999)), False),
        (facts(reserved=ranges((PORT, PORT))), False),
        (facts(step_width=0), True),
        (facts(step_width=3), None),
        (facts(ports=None), None),
        (facts(reserved=None), None),
    ],
)
def test_preferred_is_the_parity_of_the_low_end(seen, preferred):
    assert verdict(seen).preferred is preferred


@pytest.mark.parametrize(
    ("live", "time_wait", "level"),
    [
        (39, 0, None),
        (40, 0, "near half"),
        (20, 20, "near half"),
        (49, 0, "near half"),
        (0, 50, "past half"),
        (89, 0, "past half"),
        (90, 0, "near the end"),
        (99, 0, "near the end"),
        (60, 40, "used up"),
        (101, 0, "used up"),
    ],
)
def test_level_is_of_the_usable_ports(live, time_wait, level):
    seen = facts(ports=(40000, 40199), reserved=ranges((40100, 50000)), destinations=(destination(live, time_wait),))
    found = judge(seen, ())
    (filled,) = found.destinations
    assert (found.usable, filled.share, filled.level) == (100, (live + time_wait) / 100, level)
    assert found.status == (1 if level in ("near the end", "used up") else 0)


@pytest.mark.parametrize(
    ("host", "waits", "level"),
    [
        ("127.0.0.1", (1.0, 60.0), None),
        ("::1", (1.0, 60.0), None),
        ("10.0.0.2", (1.0, 60.0), "used up"),
        ("10.0.0.2", (1.0, 1.0), None),
        ("127.0.0.1", (60.0, 60.0), "used up"),
        ("127.0.0.1", (None, None), "used up"),
    ],
)
def test_time_wait_is_no_level_where_connect_draws_the_ports_again_soon(host, waits, level):
    seen = facts(ports=(40000, 40099), destinations=(destination(10, 90, host),))
    changed = seen.settings._replace(wait_on_loopback=waits[0], wait=waits[1])
    found = judge(replace(seen, settings=changed), ())
    (filled,) = found.destinations
    assert (filled.share, filled.level, filled.is_of_note) == (1.0, level, True)
    assert found.status == (0 if level is None else 1)


def test_live_connections_make_a_level_on_loopback_too():
    found = judge(facts(ports=(40000, 40099), destinations=(destination(50, 50, "127.0.0.1"),)), ())
    assert [each.level for each in found.destinations] == ["past half"]


def test_connect_passes_over_ports_that_are_listened_on():
    servers = (*map(listener, range(40000, 40005)), listener(40000, "::1"), listener(22), listener(40009))
    seen = facts((40000, 40009), ranges((40009, 40009)), listeners=servers, destinations=(destination(2),))
    found = judge(seen, ())
    assert (found.usable, [each.share for each in found.destinations]) == (4, [0.5])


def test_all_ports_reserved_is_used_up():
    found = judge(facts(ports=(40000, 40009), reserved=ranges((40000, 40009)), destinations=(destination(0, 0),)), ())
    assert [each.level for each in found.destinations] == ["used up"]


@pytest.mark.parametrize("machine", [{"ports": None}, {"reserved": None}])
def test_level_is_unknown_without_the_range(machine):
    found = judge(facts(**machine, destinations=(destination(30000),)), ())
    assert [(each.share, each.level) for each in found.destinations] == [(None, None)]
    assert found.status == 2


@pytest.mark.parametrize(
    ("seen", "ports", "status"),
    [
        (facts(), [], 0),
        (facts(), [22], 0),
        (facts(), [PORT], 1),
        (facts(listeners=(listener(PORT),)), [], 1),
        (facts(held=(connection(22),)), [22], 1),
        (facts(self_connected=(self_connected(22),)), [], 1),
        (facts(sockets=False), [], 2),
        (facts(sockets=False), [22], 2),
        (facts(sockets=False), [PORT], 1),
        (facts(ports=None), [], 2),
        (facts(ports=None), [PORT], 2),
        (facts(reserved=ranges((1, 65535))), [], 1),
        (facts(reserved=None), [], 0),
        (facts(reserved=None), [22], 0),
        (facts(reserved=None), [PORT], 2),
        (facts(reserved=None, self_connected=(self_connected(22),)), [PORT], 1),
    ],
)
def test_status(seen, ports, status):
    assert judge(seen, ports).status == status


def test_nothing_was_seen():
    found = judge(facts(ports=None, reserved=None, sockets=False), [PORT])
    (only,) = found.verdicts
    assert (found.destinations, found.usable, found.status) == (None, None, 2)
    assert only._replace(port=0) == (0, True, None, None, None, "not checked", None, None, 0, 0)


ports = st.integers(1, 65535)
bounds = st.tuples(ports, ports).map(sorted)


@settings(max_examples=50)
@given(bounds, st.lists(bounds, max_size=5))
def test_usable_ports_are_counted_as_sets_are(span, reserved):
    kept = {port for low, high in reserved for port in range(low, high + 1)}
    seen = facts(ports=span, reserved=ranges(*reserved))
    assert usable_ports(seen.settings) == len(set(range(span[0], span[1] + 1)) - kept)


@settings(max_examples=50)
@given(bounds, st.lists(bounds, max_size=5), st.sets(ports, max_size=5))
def test_a_port_is_at_risk_just_if_the_kernel_may_draw_it(span, reserved, asked):
    for each in judge(facts(ports=span, reserved=ranges(*reserved)), asked).verdicts:
        drawn = span[0] <= each.port <= span[1] and not any(low <= each.port <= high for low, high in reserved)
        assert each.verdict == ("at risk" if drawn else "safe")
        assert drawn or each.preferred is False


@settings(max_examples=50)
@given(st.lists(ports.map(listener), max_size=5), st.sets(ports, max_size=3), bounds)
def test_status_follows_from_the_verdicts(listeners, asked, span):
    found = judge(facts(ports=span, listeners=tuple(listeners)), asked)
    assert found.status == bool(found.ports("at risk"))
    assert [each.port for each in found.verdicts] == sorted(asked | {each.local.port for each in listeners})


def test_range_of_a_machine_as_it_comes():
    assert judge(facts(RANGE), ()).usable == 28232
