"""A resolver's answer comes from outside: its length is bounded, and work grows linearly with it."""

import itertools
import logging
import math
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import safedial
from safedial._dial import resolve
from safedial._dial.race import Race
from tests.support import dials

DIALS = {name: dial for name, dial in dials.DIALS.items() if "uvloop" not in name}


def loopback_addresses(count, port):
    return [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.1.{number >> 8}.{number & 255}", port))
        for number in range(count)
    ]


def dialed(dial, infos, port, **options):
    """Return the addresses that were dialed, in order."""
    events = []
    with pytest.raises(ConnectionRefusedError):
        dial("name", port, resolver=lambda *args, **kwds: infos, on_event=events.append, policy=None, **options)
    return [event.address for event in events if event.kind == "failed"]


@pytest.mark.parametrize("dial", DIALS.values(), ids=DIALS)
def test_first_hundred_addresses_are_used(dial, dead_port, caplog):
    caplog.set_level(logging.DEBUG, "safedial")
    infos = loopback_addresses(1000, dead_port)
    assert dialed(dial, infos, dead_port) == [info[4] for info in infos[:100]]
    assert f"name port {dead_port}: only the first 100 addresses are used" in caplog.text


@pytest.mark.parametrize("dial", DIALS.values(), ids=DIALS)
def test_hundred_addresses_are_all_used(dial, dead_port, caplog):
    caplog.set_level(logging.DEBUG, "safedial")
    assert len(dialed(dial, loopback_addresses(100, dead_port), dead_port)) == 100
    assert "only the first" not in caplog.text


def test_first_hundred_of_the_wanted_family_are_used(dead_port):
    others = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", dead_port, 0, 0))] * 150
    infos = others + loopback_addresses(150, dead_port)
    assert len(dialed(DIALS["safe_connect"], infos, dead_port, family=socket.AF_INET)) == 100


def test_systems_answer_is_bounded_too(dial, dead_port, monkeypatch):
    infos = loopback_addresses(1000, dead_port)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwds: infos)
    events = []
    with pytest.raises(ConnectionRefusedError):
        dial("127.0.0.2", dead_port, on_event=events.append, policy=None)
    assert [event.kind for event in events].count("failed") in (100, 1)  # uvloop asks its own


def calls_of(dial, count, port, **options):
    """Return the number of calls that a dial of *count* addresses makes."""
    calls = 0

    def count_call(frame, event, arg):
        nonlocal calls
        calls += event in ("call", "c_call")

    infos = loopback_addresses(count, port)
    sys.setprofile(count_call)
    try:
        with pytest.raises(ConnectionRefusedError):
            dial("name", port, resolver=lambda *args, **kwds: infos, **options)
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("name", DIALS)
@pytest.mark.parametrize("policy", [None, safedial.redial()])
def test_work_grows_linearly(name, policy, dead_port, monkeypatch):
    monkeypatch.setattr(resolve, "MOST_ADDRESSES", 10_000)
    few, many = (calls_of(DIALS[name], count, dead_port, policy=policy) for count in (100, 800))
    assert many < 10 * few


def test_race_finds_the_next_time_out_without_a_search():
    """With 10,000 attempts under way at once, each step looks at a few of them."""
    race = Race(10_000, 0.0, 5.0)
    while race.start(0.0):
        pass
    looked = 0

    def counted(view):
        nonlocal looked
        for each in view:
            looked += 1
            yield each

    class Counted(dict):
        def values(self):
            return counted(super().values())

        def items(self):
            return counted(super().items())

    race.running = Counted(race.running)
    for number in range(10_000):
        race.wait(1.0)
        race.overdue(1.0)
        race.failed(number, 1.0)
    assert looked < 100_000


@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=30),
    st.none() | st.floats(0, 20),
    st.floats(0, 100) | st.just(math.inf),
)
def test_attempt_that_started_first_is_overdue_first(pauses, timeout, end):
    race, now = Race(len(pauses), 0.0, timeout, end), 0.0
    for pause in pauses:
        now += pause
        race.start(now)
    ends = list(race.running.values())
    assert all(earlier <= later + 1e-9 for earlier, later in itertools.pairwise(ends))
