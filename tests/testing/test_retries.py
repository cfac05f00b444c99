"""tenacity's waits, recorded instead of slept."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import itertools
import math
import operator
import sys
import threading
import time
import types
import unittest.mock

import httpx
import pytest
import tenacity
import trio

import safedial
import safedial.adapters.httpx
from safedial import _clock, testing
from safedial._clients import patch
from safedial._deadline import Deadline
from safedial._tcp import steering
from safedial.testing import retries
from safedial.testing.retries import watching_waits
from tests.support import dials, interrupts
from tests.support.policies import retrying
from tests.support.resolvers import servers

HOUR = 3600


def standing():
    return tenacity.RetryCallState.prepare_for_next_attempt, tenacity.DoSleep, tenacity.time


PLAIN = standing()
# Each ends after an hour: after two waits, or a few.
POLICIES = {
    "reconnect": lambda: safedial.reconnect(within=HOUR, first=2400, cap=2400),
    "stop_after_delay": lambda: retrying(wait=1800, stop=tenacity.stop_after_delay(HOUR), reraise=True),
    "stop_before_delay": lambda: retrying(wait=1200, stop=tenacity.stop_before_delay(HOUR), reraise=True),
    "wait_random_exponential": lambda: tenacity.Retrying(
        retry=safedial.retry_if_transient,
        wait=tenacity.wait_random_exponential(multiplier=900, min=900, max=1800),
        stop=tenacity.stop_after_delay(HOUR),
        reraise=True,
    ),
    "sleep_using_event": lambda: an_hour().copy(sleep=tenacity.sleep_using_event(threading.Event())),
    "a sleep of its own": lambda: an_hour().copy(sleep=lambda seconds: None),
}
LONGEST = HOUR + 1800  # tenacity's stop_after_delay begins a wait that ends too late


@pytest.fixture(params=POLICIES)
def policy(request):
    """A policy that ends after an hour."""
    return POLICIES[request.param]()


def an_hour():
    return POLICIES["reconnect"]()


async def refused():
    raise ConnectionRefusedError


def refuse():
    raise ConnectionRefusedError


def each_attempt(policy, port):
    for attempt in policy:
        with attempt:
            refuse()


async def each_attempt_async(policy, port):
    async for attempt in awaiting(policy):
        with attempt:
            refuse()


def awaiting(policy):
    """Return *policy* for coroutines."""
    return tenacity.AsyncRetrying(retry=policy.retry, wait=policy.wait, stop=policy.stop, reraise=True)


def each_connection(policy, port, **options):
    for connection in safedial.connections(("127.0.0.1", port), policy=policy, **options):
        with connection:
            pass


async def each_connection_async(policy, port):
    async for connection in safedial.connections(("127.0.0.1", port), policy=policy):
        async with connection:
            pass


def with_httpx(policy, port):
    with httpx.Client() as client:
        safedial.adapters.httpx.protect(client, dialer=safedial.Dialer(policy=policy))
        try:
            client.get(f"http://127.0.0.1:{port}")
        except httpx.ConnectError as error:
            raise ConnectionRefusedError from error


# By name: dials a port that refuses, under a policy, until the policy gives up.
LOOPS = {
    **{
        name: lambda policy, port, dial=dial: dial("127.0.0.1", port, policy=policy)
        for name, dial in dials.DIALS.items()
    },
    "connections": each_connection,
    "connections, async for": lambda *args: dials.run(each_connection_async(*args)),
    "wrap": lambda policy, port: safedial.wrap(refuse, policy=policy)(),
    "wrap, asyncio": lambda policy, port: dials.run(safedial.wrap(refused, policy=policy)()),
    "wrap, trio": lambda policy, port: trio.run(safedial.wrap(refused, policy=policy)),
    "httpx": with_httpx,
    "tenacity": lambda policy, port: policy(refuse),
    "tenacity, decorator": lambda policy, port: policy.wraps(refuse)(),
    "tenacity, for": each_attempt,
    "tenacity, asyncio": lambda policy, port: dials.run(awaiting(policy)(refused)),
    "tenacity, trio": lambda policy, port: trio.run(awaiting(policy), refused),
    "tenacity, async for": lambda policy, port: dials.run(each_attempt_async(policy, port)),
}


@pytest.fixture(params=LOOPS)
def loop(request):
    return LOOPS[request.param]


def wait_an_hour(port):
    with pytest.raises(ConnectionRefusedError):
        safedial.safe_connect(("127.0.0.1", port), policy=an_hour())


class TestClock:
    """Waits that are not slept count for policies and time limits."""

    def test_policy_ends_with_its_time(self, loop, policy, dead_port):
        with testing.fast_retries() as waits, pytest.raises(ConnectionRefusedError):
            loop(policy, dead_port)
        assert 1800 < sum(waits) <= LONGEST
        assert len(waits) <= 5
        assert all(type(wait) is float for wait in waits)

    def test_last_wait_of_reconnect_is_cut(self, loop, dead_port):
        with testing.fast_retries() as waits, pytest.raises(ConnectionRefusedError):
            loop(an_hour(), dead_port)
        assert sum(waits) == pytest.approx(HOUR, abs=60)  # less what the rounds took

    def test_dials_in_threads_have_their_own_time(self, dead_port):
        def work(_):
            with pytest.raises(ConnectionRefusedError):
                safedial.safe_connect(("127.0.0.1", dead_port), policy=an_hour())

        with testing.fast_retries() as waits, concurrent.futures.ThreadPoolExecutor(10) as pool:
            list(pool.map(work, range(10)))
        assert sum(waits) == pytest.approx(10 * HOUR, abs=600)

    def test_dials_in_tasks_have_their_own_time(self, dead_port):
        async def main():
            dialer = safedial.Dialer(policy=an_hour())
            return await asyncio.gather(
                *(dialer.dial_async(("127.0.0.1", dead_port)) for _ in range(10)), return_exceptions=True
            )

        with testing.fast_retries() as waits:
            assert {*map(type, dials.run(main()))} == {ConnectionRefusedError}
        assert sum(waits) == pytest.approx(10 * HOUR, abs=600)

    def test_dials_in_tasks_of_trio_have_their_own_time(self):
        async def dial():
            with pytest.raises(ConnectionRefusedError):
                await safedial.wrap(refused, policy=an_hour())()

        async def main():
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(dial)

        with testing.fast_retries() as waits:
            trio.run(main)
        assert sum(waits) == pytest.approx(10 * HOUR, abs=600)

    def test_loops_of_tenacity_in_threads_have_their_own_time(self):
        def work(_):
            with pytest.raises(ConnectionRefusedError):
                an_hour()(refuse)

        with testing.fast_retries() as waits, concurrent.futures.ThreadPoolExecutor(10) as pool:
            list(pool.map(work, range(10)))
        assert sum(waits) == pytest.approx(10 * HOUR, abs=600)

    @pytest.mark.parametrize(
        "around",
        [
            lambda dial, stop: safedial.wrap(dial, policy=retrying(stop=stop))(),
            lambda dial, stop: tenacity.Retrying(stop=stop, reraise=True)(dial),
        ],
        ids=["wrap", "tenacity"],
    )
    def test_waits_of_a_dial_count_for_the_loop_around_it(self, around, dead_port):
        """Of two hours, a dial in each round takes one."""
        inner = safedial.Dialer(policy=an_hour())
        stop, rounds = tenacity.stop_after_delay(2 * HOUR - 60), []

        def dial():
            rounds.append(1)
            return inner.dial(("127.0.0.1", dead_port))

        with testing.fast_retries(), pytest.raises(ConnectionRefusedError):
            around(dial, stop)
        assert len(rounds) == 2

    def test_later_dial_has_all_of_its_time(self, loop, dead_port):
        with testing.fast_retries() as waits:
            for _ in range(2):
                waits.clear()
                with pytest.raises(ConnectionRefusedError):
                    loop(an_hour(), dead_port)
                assert sum(waits) == pytest.approx(HOUR, abs=60)

    def test_time_limit_of_a_dial(self, dial, dead_port, events):
        """As if the waits had been slept: the first is cut, and a second would end too late."""
        options = {"policy": retrying(wait=HOUR), "total_timeout": 1000, "on_event": events.append}
        with testing.fast_retries() as waits, pytest.raises(TimeoutError) as caught:
            dial("127.0.0.1", dead_port, **options)
        assert "the wait before the next round, 3600.000 s, would have ended too late" in str(caught.value)
        assert waits == [pytest.approx(999, abs=60)]
        assert [event.wait for event in events if event.kind == "retry"] == waits
        assert events[-1].reason == "time"
        assert events[-1].elapsed == pytest.approx(999, abs=60)

    def test_time_limit_of_the_reconnect_loop(self, dead_port):
        with testing.fast_retries() as waits, pytest.raises(TimeoutError, match="too late"):
            each_connection(retrying(wait=HOUR), dead_port, total_timeout=1000)
        assert waits == [pytest.approx(999, abs=60)]

    def test_deadline_is_the_same_in_every_context(self):
        """Such as in the threads of an executor, some of which have waited and some not."""
        left = {}

        def look(name):
            left[name] = deadline.cap(None)

        with testing.fast_retries():
            _clock.advance(50)
            before, deadline = contextvars.copy_context(), Deadline(1000, _clock.now())
            _clock.advance(100)
            look("here")
            before.run(look, "a context of before")
            thread = threading.Thread(target=look, args=["a thread"])
            thread.start()
            thread.join()
        look("later")
        assert {name: pytest.approx(900, abs=60) for name in left} == left

    def test_other_clocks_are_not_moved(self, dead_port):
        """Neither those of the user nor that of the caches."""
        seen = [time.monotonic(), _clock.real()]
        with testing.fast_retries(), pytest.raises(ConnectionRefusedError):
            safedial.safe_connect(("127.0.0.1", dead_port), policy=an_hour())
        seen += [time.monotonic(), _clock.real()]
        assert all(later - sooner < HOUR for sooner, later in itertools.pairwise(seen))
        assert steering._believed[0] <= _clock.real() + steering._RANGE_AGE

    def test_nothing_is_replaced_afterwards(self):
        one, two = testing.fast_retries(), testing.fast_retries()
        one.__enter__()
        two.__enter__()
        _clock.advance(HOUR)
        one.__exit__(None, None, None)
        assert tenacity.time.monotonic() - _clock.real() > HOUR - 60
        assert not two.__exit__(LookupError, LookupError(), None)
        assert standing() == PLAIN

    @pytest.mark.parametrize(
        "wait",
        [tenacity.wait_exponential(), tenacity.wait_fixed(math.inf), tenacity.wait_fixed(math.nan)],
        ids=["exponential", "infinite", "not a number"],
    )
    def test_dial_after_waits_without_end_has_its_own_time(self, wait, dead_port):
        """A clock that is moved too far stands still: a float loses the seconds."""
        long = tenacity.Retrying(wait=wait, stop=tenacity.stop_after_attempt(70), reraise=True)
        with testing.fast_retries(), pytest.raises(ConnectionRefusedError):
            long(refuse)
        policy = safedial.reconnect(within=60)
        policy.stop |= tenacity.stop_after_attempt(200)
        with testing.fast_retries() as waits, pytest.raises(ConnectionRefusedError):
            safedial.safe_connect(("127.0.0.1", dead_port), policy=policy)
        assert sum(waits) == pytest.approx(60, abs=10)
        assert len(waits) < 60


class TestClockDoesNotLeap:
    """A dial runs on when fast_retries begins or ends, after waits that were not slept."""

    policy = safedial.reconnect(within=0.2, first=0.05, cap=0.05)
    policy.stop |= tenacity.stop_after_attempt(60)

    def events_of_dial(self, port, act):
        """Return the events of a dial that *act* was called in, after its third."""
        events = []

        def on_event(event):
            events.append(event)
            if len(events) == 3:
                act()

        with pytest.raises(ConnectionRefusedError):
            safedial.safe_connect(("127.0.0.1", port), policy=self.policy, on_event=on_event)
        return events

    def check(self, events):
        assert all(0 <= later.elapsed - sooner.elapsed < 60 for sooner, later in itertools.pairwise(events))
        assert 0.2 <= events[-1].elapsed < 60

    def test_end(self, dead_port):
        recording = testing.fast_retries()
        with contextlib.ExitStack() as stack:
            stack.enter_context(recording)
            wait_an_hour(dead_port)
            self.check(self.events_of_dial(dead_port, stack.close))

    def test_begin(self, dead_port):
        with testing.fast_retries():
            wait_an_hour(dead_port)
        with contextlib.ExitStack() as stack:
            self.check(self.events_of_dial(dead_port, lambda: stack.enter_context(testing.fast_retries())))

    def test_end_in_a_race(self, dead_port, black_hole):
        with contextlib.ExitStack() as stack:
            stack.enter_context(testing.fast_retries())
            wait_an_hour(dead_port)

            def resolver(*args, **hints):
                stack.close()
                return servers(black_hole, black_hole)()

            options = {"timeout": 5, "total_timeout": 0.1, "resolver": resolver, "happy_eyeballs_delay": 0.01}
            with pytest.raises(TimeoutError, match="within total_timeout"):
                safedial.safe_connect(("db", 1), **options, policy=None)


class TestOthersReplaceToo:
    """Such as mocks. What they put there comes back, and what they put back does no harm."""

    @pytest.mark.parametrize("name", ["time", "DoSleep", "RetryCallState.prepare_for_next_attempt"])
    def test_before(self, name):
        plain = PLAIN[("RetryCallState.prepare_for_next_attempt", "DoSleep", "time").index(name)]
        other = {"time": types.ModuleType("time"), "DoSleep": type("Other", (tenacity.DoSleep,), {})}.get(
            name, lambda state: plain(state)
        )
        with unittest.mock.patch(f"tenacity.{name}", other):
            with testing.fast_retries() as waits:
                TestFastRetries().fail()
            assert waits == [3600]
            assert operator.attrgetter(name)(tenacity) is other
        assert standing() == PLAIN

    @pytest.mark.parametrize("name", ["time", "DoSleep", "RetryCallState.prepare_for_next_attempt"])
    def test_inside_and_longer(self, name):
        with contextlib.ExitStack() as stack:
            with testing.fast_retries():
                ours = operator.attrgetter(name)(tenacity)
                other = stack.enter_context(unittest.mock.patch(f"tenacity.{name}", mock_of(ours)))
            assert operator.attrgetter(name)(tenacity) is other
            with testing.fast_retries() as waits:  # on top of the mock, which calls the one below
                TestFastRetries().fail()
            assert waits == [3600]
        assert tenacity.DoSleep(3) == 3
        assert abs(tenacity.time.monotonic() - time.monotonic()) < 60
        with testing.fast_retries() as waits:
            TestFastRetries().fail()
        assert waits == [3600]
        assert standing() == PLAIN

    def test_the_rest_of_time_is_there(self):
        with testing.fast_retries():
            assert tenacity.time.sleep is time.sleep


def mock_of(ours):
    """Return something that does as *ours* does."""
    if isinstance(ours, types.ModuleType):
        return types.SimpleNamespace(monotonic=ours.monotonic, sleep=time.sleep)
    return type("Other", (ours,), {}) if isinstance(ours, type) else functools.wraps(ours)(lambda state: ours(state))


@pytest.mark.filterwarnings("ignore:.*was never entered:UserWarning")  # an interrupt may come before it is entered
class TestInterrupts:
    """One at each instant, as of a signal handler that raises: what is left does nothing, and the next use mends it."""

    @pytest.mark.storm
    @pytest.mark.parametrize("setter", [sys.settrace, sys.setprofile])
    @pytest.mark.parametrize("manager", [testing.fast_retries, lambda: watching_waits(print)])
    def test_nothing_counts_that_is_left(self, setter, manager):
        managers = [manager()]

        def act():
            with managers[-1]:  # its __del__ is not interrupted
                pass

        def after():
            managers[:] = [manager()]
            assert tenacity.DoSleep(3) == 3
            assert tenacity.time.monotonic() <= time.monotonic()
            assert not patch.in_use(retries._users)

        _clock.advance(HOUR)
        assert interrupts.interrupt_each(act, setter, after) > 20
        with testing.fast_retries() as waits:
            TestFastRetries().fail()
        assert waits == [3600]
        assert standing() == PLAIN

    @pytest.mark.storm
    @pytest.mark.parametrize("setter", [sys.settrace, sys.setprofile])
    def test_next_use_mends_each(self, setter):
        managers = [testing.fast_retries()]

        def act():
            with managers[-1]:
                pass

        def after():
            managers[:] = [testing.fast_retries()]
            with testing.fast_retries() as waits:
                TestFastRetries().fail()
            assert waits == [3600]
            assert standing() == PLAIN

        assert interrupts.interrupt_each(act, setter, after) > 20


class TestWatchingWaits:
    def test_tells_of_each_wait_and_skips_none(self, loop, dead_port):
        slept, told = [], []
        policy = retrying(3, 0.01, reraise=True, before_sleep=lambda state: slept.append(state.upcoming_sleep))
        with watching_waits(told.append), pytest.raises(ConnectionRefusedError):
            loop(policy, dead_port)
        assert told == [0.01, 0.01]
        assert tenacity.DoSleep(3) == 3

    def test_beside_fast_retries(self, dead_port):
        told = []
        with watching_waits(told.append), testing.fast_retries() as waits, pytest.raises(ConnectionRefusedError):
            safedial.safe_connect(("127.0.0.1", dead_port), policy=an_hour())
        assert told == waits != []

    def test_wait_that_a_time_limit_cuts(self, dead_port):
        told = []
        with watching_waits(told.append), pytest.raises(TimeoutError):
            safedial.safe_connect(("127.0.0.1", dead_port), policy=retrying(wait=HOUR), total_timeout=0.1)
        assert len(told) == 1
        assert told[0] <= 0.1


class TestFastRetries:
    def test_nothing_is_slept(self):
        with testing.fast_retries():
            assert tenacity.DoSleep(3) == 0

    def test_other_tasks_have_a_turn_in_each_wait(self):
        """Though the policy has an event to look at."""
        turns = []

        async def other():
            while True:
                turns.append(1)
                await asyncio.sleep(0)

        async def main():
            task = asyncio.create_task(other())
            policy = safedial.reconnect(within=HOUR, cap=600)
            policy.stop |= tenacity.stop_when_event_set(threading.Event())
            with pytest.raises(ConnectionRefusedError):
                await safedial.wrap(refused, policy=policy)()
            task.cancel()

        with testing.fast_retries() as waits:
            dials.run(main())
        assert len(turns) >= len(waits) > 5

    def test_records_the_waits_of_safedial(self, dial, dead_port):
        policy = tenacity.Retrying(
            retry=safedial.retry_if_transient,
            wait=tenacity.wait_incrementing(start=1000, increment=1000),
            stop=tenacity.stop_after_attempt(4),
        )
        with testing.fast_retries() as waits, pytest.raises(ConnectionRefusedError):
            dial("127.0.0.1", dead_port, policy=policy)
        assert waits == [1000, 2000, 3000]

    def test_nested_and_in_any_order(self):
        policy = tenacity.Retrying(wait=tenacity.wait_fixed(3600), stop=tenacity.stop_after_attempt(2), reraise=True)
        one, two = testing.fast_retries(), testing.fast_retries()
        outer, inner = one.__enter__(), two.__enter__()
        with pytest.raises(KeyError):
            policy({}.__getitem__, "x")
        one.__exit__(None, None, None)
        two.__exit__(None, None, None)
        assert outer == inner == [3600]
        assert tenacity.DoSleep(3) == 3

    @pytest.mark.parametrize("coroutine", [False, True])
    def test_records_the_waits_of_any_policy(self, coroutine):
        options = {"wait": tenacity.wait_fixed(3600), "stop": tenacity.stop_after_attempt(3), "reraise": True}

        async def broken():
            raise LookupError

        def call():
            if coroutine:
                dials.run(tenacity.retry(**options)(broken)())
            else:
                tenacity.retry(**options)({}.__getitem__)("x")

        with testing.fast_retries() as waits, pytest.raises(LookupError):
            call()
        assert waits == [3600, 3600]
        assert isinstance(tenacity.DoSleep, type)

    def fail(self):
        policy = tenacity.Retrying(wait=tenacity.wait_fixed(3600), stop=tenacity.stop_after_attempt(2), reraise=True)
        with pytest.raises(KeyError):
            policy({}.__getitem__, "x")

    def test_nested_and_the_inner_one_ends_first(self):
        """Both lists are equal when the inner one ends; it, not the outer one, must stop recording."""
        plain = tenacity.DoSleep
        with testing.fast_retries() as outer:
            with testing.fast_retries() as inner:
                assert outer == inner
            self.fail()
            assert (outer, inner) == ([3600], [])
        assert tenacity.DoSleep is plain

    def test_restored_after_an_error(self):
        plain = tenacity.DoSleep
        with pytest.raises(LookupError), testing.fast_retries(), testing.fast_retries():
            raise LookupError
        assert tenacity.DoSleep is plain

    def test_again_after_the_end(self):
        for _ in range(2):
            with testing.fast_retries() as waits:
                self.fail()
            assert waits == [3600]
