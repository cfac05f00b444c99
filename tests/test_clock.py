"""Clocks that nobody stops: dials in a test that freezes its own clock, with freezegun or time-machine."""

import asyncio
import importlib.metadata
import subprocess
import sys
import textwrap
import threading
import time

import freezegun
import pytest
import tenacity
import time_machine
import trio

import safedial
from safedial import _clock, _steps, testing
from safedial._steps import sleep, within
from safedial._tcp import settings_thread, steering
from tests.support import dials, exhaustion, faults, namespace
from tests.support.resolvers import servers

NEW_YEAR = "2026-01-01"
HOUR = 3600
WITHIN = 0.03  # seconds after which a policy gives up
FREEZERS = {
    "freezegun": lambda: freezegun.freeze_time(NEW_YEAR),
    "freezegun, tick": lambda: freezegun.freeze_time(NEW_YEAR, tick=True),
    "freezegun, auto_tick_seconds": lambda: freezegun.freeze_time(NEW_YEAR, auto_tick_seconds=HOUR),
    "freezegun, real_asyncio": lambda: freezegun.freeze_time(NEW_YEAR, real_asyncio=True),
    "time-machine": lambda: time_machine.travel(NEW_YEAR),
    "time-machine, tick=False": lambda: time_machine.travel(NEW_YEAR, tick=False),
}
STOP = ("freezegun", "time-machine, tick=False")
TIME_MACHINE_STOPS_LOOPS = importlib.metadata.version("time-machine").startswith("2.")  # 3 leaves time.monotonic alone


@pytest.fixture(params=STOP)
def freeze(request):
    """Both libraries that stop a clock. To freeze costs freezegun a look at all modules."""
    return FREEZERS[request.param]


@pytest.fixture(params=[pytest.param(name, marks=[] if name in STOP else pytest.mark.storm) for name in FREEZERS])
def freeze_somehow(request):
    return FREEZERS[request.param]


def refuse():
    raise ConnectionRefusedError


async def refused():
    raise ConnectionRefusedError


def each_connection(policy, address):
    for connection in safedial.connections(address, policy=policy):
        with connection:
            pass


def each_attempt(policy):
    for attempt in policy:
        with attempt:
            refuse()


class TestBlocking:
    def test_race_ends(self, freeze_somehow):
        with faults.black_hole_and_server() as (hole, server), freeze_somehow():
            resolver = servers(hole, server)
            with safedial.safe_connect(("db", 1), 5, resolver=resolver, happy_eyeballs_delay=0.01) as sock:
                assert sock.getpeername() == server.getsockname()

    @pytest.mark.parametrize("addresses", [1, 2])
    @pytest.mark.parametrize("limit", ["timeout", "total_timeout"])
    def test_time_limit_ends_a_dial(self, freeze, black_hole, addresses, limit):
        resolver = servers(*[black_hole] * addresses)
        with freeze(), pytest.raises(TimeoutError):
            safedial.safe_connect(("db", 1), **{limit: 0.05}, resolver=resolver, happy_eyeballs_delay=0.01, policy=None)

    def test_time_limit_ends_the_rounds(self, freeze, dead_port):
        with freeze(), pytest.raises(TimeoutError, match=r"within total_timeout, 0\.1 s"):
            safedial.safe_connect(("127.0.0.1", dead_port), total_timeout=0.1, policy=safedial.reconnect())

    def test_clock_that_a_test_moves_ends_no_dial(self, server):
        def resolver(*args, **hints):
            clock.move_to("2036-01-01")
            return servers(server)()

        with freezegun.freeze_time(NEW_YEAR) as clock:
            safedial.safe_connect(("db", 1), 60, total_timeout=60, resolver=resolver).close()


class TestReconnect:
    """`reconnect` counts its time by a clock that runs, in loops of tenacity's too."""

    policy = safedial.reconnect(within=WITHIN)

    def test_dial_gives_up(self, freeze_somehow, dead_port, events):
        with freeze_somehow(), pytest.raises(ConnectionRefusedError):
            safedial.safe_connect(("127.0.0.1", dead_port), policy=self.policy, on_event=events.append)
        assert events[-1].elapsed >= WITHIN

    def test_each_dial_gives_up(self, freeze, dial, dead_port, events):
        with freeze(), pytest.raises(ConnectionRefusedError):
            dial("127.0.0.1", dead_port, policy=self.policy, on_event=events.append)
        assert events[-1].elapsed >= WITHIN

    def test_connections_give_up(self, freeze, dead_port):
        with freeze(), pytest.raises(ConnectionRefusedError):
            each_connection(self.policy, ("127.0.0.1", dead_port))

    @pytest.mark.parametrize(
        "loop",
        [
            lambda policy: safedial.wrap(refuse, policy=policy)(),
            lambda policy: dials.run(safedial.wrap(refused, policy=policy)()),
            lambda policy: trio.run(safedial.wrap(refused, policy=policy)),
            lambda policy: policy(refuse),
            each_attempt,
        ],
        ids=["wrap", "wrap, asyncio", "wrap, trio", "tenacity", "tenacity, for"],
    )
    def test_loop_gives_up(self, freeze, loop):
        with freeze(), pytest.raises(ConnectionRefusedError):
            loop(self.policy)

    def test_last_wait_of_a_loop_of_tenacity_is_cut(self, freeze):
        slept = []

        def pause(seconds):
            slept.append(seconds)
            time.sleep(seconds)

        with freeze(), pytest.raises(ConnectionRefusedError):
            safedial.reconnect(within=0.1, first=0.07, cap=0.07).copy(sleep=pause)(refuse)
        assert sum(slept) <= 0.1

    def test_fast_retries_inside(self, freeze, dead_port):
        with freeze(), testing.fast_retries() as waits, pytest.raises(ConnectionRefusedError):
            safedial.safe_connect(("127.0.0.1", dead_port), policy=safedial.reconnect(within=HOUR, cap=600))
        assert sum(waits) == pytest.approx(HOUR, abs=60)

    def test_fast_retries_around(self, freeze):
        with testing.fast_retries() as waits, freeze(), pytest.raises(ConnectionRefusedError):
            each_attempt(safedial.reconnect(within=HOUR, cap=600))
        assert sum(waits) == pytest.approx(HOUR, abs=60)

    def test_sleep_that_an_event_ends_early_does_not_count(self, dead_port, events):
        """The time is that which has passed, and not the sum of the waits."""
        event = threading.Event()
        event.set()
        policy = safedial.reconnect(within=0.2, first=0.1).copy(sleep=tenacity.sleep_using_event(event))
        with pytest.raises(ConnectionRefusedError):
            safedial.safe_connect(("127.0.0.1", dead_port), policy=policy, on_event=events.append)
        assert events[-1].elapsed >= 0.2


# Dials in asyncio that a time limit ends.
LIMITED = {
    "timeout": lambda hole: safedial.Dialer(timeout=0.05).dial_async(hole.getsockname()[:2]),
    "total_timeout": lambda hole: safedial.open_connection(*hole.getsockname()[:2], total_timeout=0.05),
    "race": lambda hole: safedial.Dialer(
        total_timeout=0.05, resolver=servers(hole, hole), happy_eyeballs_delay=0.01
    ).dial_async(("db", 1)),
}


class TestEventLoops:
    """Their timers stand still with the clock. A dial's own waits end."""

    def test_wait_ends(self, freeze_somehow, loop_factory):
        with freeze_somehow():
            dials.run(sleep(0.01), loop_factory)

    def test_wait_of_trio_ends(self, freeze):
        with freeze():
            trio.run(sleep, 0.01)

    @pytest.mark.parametrize("kind", LIMITED)
    def test_time_limit_ends_a_dial(self, freeze, black_hole, kind, loop_factory):
        with freeze(), pytest.raises(TimeoutError):
            dials.run(LIMITED[kind](black_hole), loop_factory)

    def test_race_ends(self, freeze, loop_factory):
        async def main():
            dialer = safedial.Dialer(timeout=5, resolver=servers(hole, server), happy_eyeballs_delay=0.01)
            with await dialer.dial_async(("db", 1)) as sock:
                return sock.getpeername()

        with faults.black_hole_and_server() as (hole, server), freeze():
            assert dials.run(main(), loop_factory) == server.getsockname()

    def test_alarm_of_a_step_that_is_over_does_nothing(self, freeze):
        async def main():
            assert await within(0.001, asyncio.sleep(0, "done")) == "done"
            await sleep(0.02)

        with freeze():
            dials.run(main())

    def test_other_tasks_have_turns_during_a_wait(self, freeze):
        async def main():
            turns, task = [], asyncio.create_task(count())
            for seconds in (0, 0.03):
                before = len(counted)
                await sleep(seconds)
                turns.append(len(counted) - before)
            task.cancel()
            return turns

        async def count():
            while True:
                counted.append(1)
                await asyncio.sleep(0)

        counted = []
        with freeze():
            of_none, of_some = dials.run(main())
        assert of_none > 0
        assert of_some > 2

    @pytest.mark.parametrize(
        ("freezer", "stops"),
        [
            (FREEZERS["freezegun"], True),
            pytest.param(lambda: freezegun.freeze_time("1970-01-01"), True, marks=pytest.mark.storm),
            (FREEZERS["freezegun, real_asyncio"], False),
            pytest.param(FREEZERS["freezegun, tick"], False, marks=pytest.mark.storm),
            (FREEZERS["time-machine, tick=False"], TIME_MACHINE_STOPS_LOOPS),
        ],
    )
    def test_sees_whether_the_clock_stands_still(self, freezer, stops):
        async def main():
            return _steps.clock_of(asyncio.get_running_loop()) is _clock.real

        with freezer():
            assert dials.run(main(), asyncio.new_event_loop) == stops

    @pytest.mark.storm
    def test_wait_for_a_local_port_ends(self):
        """The default policy waits, where asyncio's own dial raises its error at once."""
        namespace.require()
        assert namespace.call(dial_without_ports, port_range=exhaustion.RANGE) == [1, 2]


def dial_without_ports():
    """Return the rounds in which a dial without free ports failed."""
    events = []
    with exhaustion.used_up(testing.dead_port()) as address, freezegun.freeze_time(NEW_YEAR):
        dialer = safedial.Dialer(policy=safedial.redial(2), on_event=events.append)
        with pytest.raises(safedial.PortsExhaustedError):
            dials.run(dialer.dial_async(address))
    return [event.round for event in events if event.kind == "failed"]


def test_nothing_is_believed_for_56_years(freeze):
    """What is known of the system when the clock runs again is as old as it may be."""
    with freeze():
        steering.read_anew()
        settings_thread._looks.clear()
        settings_thread.last_look(0)
    now = _clock.real()
    until = [steering._believed[0], *(until for until, _ in settings_thread._looks.values())]
    assert len(until) == 2
    assert all(now - 60 < each <= now + 1 for each in until)


def test_macos_has_another_clock_that_is_monotonic(monkeypatch):
    monkeypatch.setattr(time, "CLOCK_UPTIME_RAW", time.CLOCK_MONOTONIC_RAW, raising=False)
    assert _clock._unstoppable().args == (time.CLOCK_MONOTONIC_RAW,)


class TestFirstImport:
    """safedial, and what it loads later, may be imported while the clock stands still."""

    @pytest.mark.parametrize(
        "begin",
        [
            "import freezegun; frozen = freezegun.freeze_time('2026-01-01')",
            pytest.param(
                "import freezegun; frozen = freezegun.freeze_time('2026-01-01'); del time.clock_gettime",
                marks=pytest.mark.storm,
            ),
            "import time_machine; frozen = time_machine.travel('2026-01-01', tick=False)",
        ],
        ids=["freezegun", "freezegun, as on Windows", "time-machine"],
    )
    def test_clock_runs(self, begin, dead_port):
        code = f"""
            import time
            {begin}
            with frozen:
                import safedial
                for _ in range(2):
                    try:
                        safedial.safe_connect(("127.0.0.1", {dead_port}), policy=safedial.reconnect(within=0.05))
                    except ConnectionRefusedError as error:
                        print(error.__notes__[0])
            with frozen:
                before = safedial._clock.real()
                time.sleep(0.01)
                assert safedial._clock.real() > before
            assert abs(safedial._clock.real() - time.monotonic()) < 60
        """
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 0, result.stderr
        rounds = [int(line.split(" after ")[1].split()[0]) for line in result.stdout.splitlines()]
        assert len(rounds) == 2
        assert all(each > 1 for each in rounds)
