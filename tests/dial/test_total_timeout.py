"""`total_timeout` limits the whole dial: resolution, every attempt, every wait and every round."""

import asyncio
import errno
import functools
import re
import socket
import threading
import time

import pytest
import tenacity

import safedial
from safedial import _clock, testing
from tests.support import dials, faults, left, namespace
from tests.support.policies import retrying
from tests.support.resolvers import addresses, servers

FOREVER = 3600  # seconds: no test waits for so long


@pytest.fixture
def clock(monkeypatch):
    """A simulated clock: only sleeps and scripted sockets advance it."""
    now = [1000.0]
    clock = functools.partial(now.__getitem__, 0)
    monkeypatch.setattr(_clock, "real", clock)
    monkeypatch.setattr(_clock, "now", clock)
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


@pytest.fixture
def limits(monkeypatch, clock):
    """The timeouts of blocking attempts. No attempt is ever answered."""
    found = []

    class Unanswered(socket.socket):
        def connect(self, address):
            found.append(self.gettimeout())
            clock[0] += self.gettimeout()
            raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "socket", Unanswered)
    return found


def assert_out_of_time(error, seconds):
    assert type(error) is TimeoutError
    assert f"could not be reached within total_timeout, {seconds:g} s" in str(error)


class TestFairShares:
    """Go's TestDialerPartialDeadline, with a dial. `test_race` tests the shares alone."""

    @pytest.mark.parametrize(
        ("total", "count", "shares"),
        [(12, 1, [12]), (12, 2, [6, 6]), (12, 3, [4, 4, 4]), (5, 999, [2, 2, 1]), (1.9, 999, [1.9])],
    )
    def test_each_attempt_has_its_share(self, limits, total, count, shares):
        dialer = safedial.Dialer(
            total_timeout=total, happy_eyeballs_delay=None, resolver=addresses(*[("127.0.0.1", 9)] * count)
        )
        with pytest.raises(TimeoutError) as caught:
            dialer.dial(("db", 9))
        assert limits == pytest.approx(shares)
        assert_out_of_time(caught.value, total)

    def test_timeout_shorter_than_the_share_counts(self, limits):
        dialer = safedial.Dialer(
            timeout=3, total_timeout=12, happy_eyeballs_delay=None, resolver=addresses(*[("127.0.0.1", 9)] * 2)
        )
        with pytest.raises(TimeoutError, match=r"^timed out\n"):
            dialer.dial(("db", 9))
        assert limits == [3, 3]

    def test_time_of_the_resolver_counts(self, limits, clock):
        def resolver(host, port, **hints):
            clock[0] += 6
            return [faults.tcp("127.0.0.1", 9)] * 2

        with pytest.raises(TimeoutError):
            safedial.Dialer(total_timeout=10, happy_eyeballs_delay=None, resolver=resolver).dial(("db", 9))
        assert limits == pytest.approx([2, 2])

    def test_time_of_earlier_rounds_counts(self, limits, clock):
        policy = retrying(wait=2)
        with pytest.raises(TimeoutError) as caught:
            safedial.safe_connect(("127.0.0.1", 9), 3, total_timeout=11, policy=policy)
        assert limits == pytest.approx([3, 3, 1])
        assert clock[0] == 1011
        assert_out_of_time(caught.value, 11)


class TestLimits:
    def test_attempt_is_cut_short(self, dial, black_hole, steer):
        """Go's TestDialTimeout."""
        with pytest.raises(TimeoutError) as caught:
            dial(*black_hole.getsockname(), timeout=FOREVER, total_timeout=0.05, steer=steer)
        assert_out_of_time(caught.value, 0.05)

    def test_rounds_are_cut_short(self, dial, black_hole, events):
        with pytest.raises(TimeoutError) as caught:
            dial(
                *black_hole.getsockname(),
                timeout=0.02,
                total_timeout=0.5,
                policy=safedial.reconnect(FOREVER, 0.001, 0.001),
                on_event=events.append,
            )
        assert_out_of_time(caught.value, 0.5)
        assert str(caught.value.__cause__) == "timed out"
        assert events[-1].round > 1

    def test_wait_that_would_end_too_late_is_cut(self, dial, dead_port, events):
        policy = retrying(wait=FOREVER)
        with pytest.raises(TimeoutError) as caught:
            dial("127.0.0.1", dead_port, total_timeout=0.5, policy=policy, on_event=events.append)
        assert_out_of_time(caught.value, 0.5)
        assert (
            "the wait before the next round, 3600.000 s, would have ended too late; the last failure: [Errno 111] C"
            in str(caught.value)
        )
        assert type(caught.value.__cause__) is ConnectionRefusedError
        assert [event.kind for event in events] == ["failed", "retry", "failed", "gave_up"]
        assert 0.4 < events[1].wait < 0.5
        assert events[-1].reason == "time"

    def test_async_resolver_is_cut_short(self, loop_factory, events):
        async def never(host, port, **hints):
            await asyncio.sleep(FOREVER)

        dialer = safedial.Dialer(resolver=never, total_timeout=0.05, on_event=events.append)
        with pytest.raises(TimeoutError) as caught:
            dials.run(dialer.dial_async(("db", 1)), loop_factory)
        assert_out_of_time(caught.value, 0.05)
        assert caught.value.__cause__ is None
        assert caught.value.__notes__[1:] == ["safedial: resolving db, round 1: timed out"]

    def test_resolver_in_a_thread_is_cut_short(self, loop_factory):
        answer = threading.Event()

        async def main():
            dialer = safedial.Dialer(resolver=lambda *args, **hints: answer.wait(FOREVER), total_timeout=0.05)
            try:
                with pytest.raises(TimeoutError) as caught:
                    await dialer.dial_async(("db", 1))
                assert_out_of_time(caught.value, 0.05)
            finally:
                answer.set()  # the event loop joins its threads when it closes

        dials.run(main(), loop_factory)

    def test_time_of_a_blocking_resolver_counts(self, limits, clock):
        def slow(host, port, **hints):
            clock[0] += 7
            return [faults.tcp("127.0.0.1", 9)]

        with pytest.raises(TimeoutError) as caught:
            safedial.safe_connect(("db", 9), 5, total_timeout=4, resolver=slow)
        assert_out_of_time(caught.value, 4)
        assert limits == []  # no packet was sent
        assert caught.value.__notes__[1:] == ["safedial: resolving db, round 1: timed out"]

    def test_time_of_the_system_resolver_counts(self, limits, clock, monkeypatch):
        def slow(*args):
            clock[0] += 7
            return [faults.tcp("127.0.0.1", 9)]

        monkeypatch.setattr(socket, "getaddrinfo", slow)
        with pytest.raises(TimeoutError) as caught:
            safedial.safe_connect(("db", 9), 5, total_timeout=4)
        assert_out_of_time(caught.value, 4)
        assert limits == []

    def test_system_resolver_is_cut_short_in_asyncio(self, monkeypatch):
        answer = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwds: answer.wait(FOREVER))

        async def main():
            try:
                with pytest.raises(TimeoutError) as caught:
                    await safedial.open_connection("db", 9, total_timeout=0.05)
                assert_out_of_time(caught.value, 0.05)
            finally:
                answer.set()

        dials.run(main())

    def test_blocking_sleep_is_cut_short_in_asyncio(self, loop_factory, dead_port):
        over = threading.Event()
        policy = retrying(sleep=lambda seconds: over.wait(FOREVER))

        async def main():
            try:
                with pytest.raises(TimeoutError) as caught:
                    await safedial.open_connection("127.0.0.1", dead_port, total_timeout=0.05, policy=policy)
                assert_out_of_time(caught.value, 0.05)
            finally:
                over.set()

        dials.run(main(), loop_factory)

    def test_time_of_a_blocking_sleep_counts(self, clock, dead_port):
        def oversleep(seconds):
            clock[0] += 10

        policy = retrying(sleep=oversleep)
        with pytest.raises(TimeoutError) as caught:
            safedial.safe_connect(("127.0.0.1", dead_port), total_timeout=4, policy=policy)
        assert_out_of_time(caught.value, 4)
        assert caught.value.__notes__[0].endswith("after 1 round, 10.000 s")

    def test_async_sleep_is_cut_short(self, loop_factory, dead_port):
        async def oversleep(seconds):
            await asyncio.sleep(FOREVER)

        policy = retrying(kind=tenacity.AsyncRetrying, sleep=oversleep)
        with pytest.raises(TimeoutError) as caught:
            dials.run(safedial.open_connection("127.0.0.1", dead_port, total_timeout=0.5, policy=policy), loop_factory)
        assert_out_of_time(caught.value, 0.5)
        assert caught.value.__cause__.errno

    @pytest.mark.parametrize("hook", ["before_sleep", "before", "retry"])
    def test_coroutines_of_a_policy_are_cut_short(self, loop_factory, dead_port, hook):
        async def never(state):
            if hook != "before" or state.attempt_number > 1:
                await asyncio.sleep(FOREVER)

        policy = retrying(kind=tenacity.AsyncRetrying, **{hook: never})
        with pytest.raises(TimeoutError) as caught:
            dials.run(safedial.open_connection("127.0.0.1", dead_port, total_timeout=0.05, policy=policy), loop_factory)
        assert_out_of_time(caught.value, 0.05)

    @pytest.mark.storm
    @pytest.mark.parametrize("delay", [None, 0.001])
    @pytest.mark.parametrize("answer", ["refused", "nothing"])
    def test_dial_of_a_thousand_addresses_leaves_nothing(self, delay, answer):
        namespace.call_where_possible(dial_a_thousand, delay, answer)


def dial_a_thousand(delay, answer):
    """Dial addresses that all refuse, or never answer; nothing is left behind."""
    with faults.full_listener("127.0.0.1", testing.dead_port()) as black_hole:
        port = black_hole.getsockname()[1] if answer == "nothing" else testing.dead_port()
        before = left.open_descriptors()
        dialer = safedial.Dialer(
            total_timeout=0.5 if answer == "nothing" else FOREVER,
            happy_eyeballs_delay=delay,
            resolver=addresses(*[("127.0.0.1", port)] * 1000),
        )
        expected = TimeoutError if answer == "nothing" else ConnectionRefusedError
        with pytest.raises(expected) as caught:
            dialer.dial(("db", port))
        with pytest.raises(expected):
            dials.run(dialer.dial_async(("db", port)))
        assert len(caught.value.__notes__) < 10
        del caught
        assert left.open_descriptors() == before


class TestOutcome:
    def test_last_other_failure_is_the_cause(self, dial, dead_port, black_hole, events):
        """Refused once, then cut short: the refusal says more than the timeout."""
        answers = iter([[("127.0.0.1", dead_port)], *[[black_hole.getsockname()]] * 9])

        def resolver(host, port, **hints):
            return [faults.tcp(*address) for address in next(answers)]

        with pytest.raises(TimeoutError) as caught:
            dial("db", 1, resolver=resolver, policy=retrying(), total_timeout=0.5)
        assert_out_of_time(caught.value, 0.5)
        assert type(caught.value.__cause__) is ConnectionRefusedError
        gave_up, refused, cut_off = caught.value.__notes__
        assert re.fullmatch(r"safedial: gave up dialing db port 1 after 2 rounds, \d+\.\d+ s", gave_up)
        assert f"127.0.0.1 port {dead_port}, round 1: " in refused
        assert f"127.0.0.1 port {black_hole.getsockname()[1]}, round 2: timed out" in cut_off

    def test_failure_after_the_end_is_the_cause(self, clock):
        def slow(*args, **hints):
            clock[0] += 5
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

        with pytest.raises(TimeoutError) as caught:
            safedial.safe_connect(("db", 1), total_timeout=4, resolver=slow)
        assert type(caught.value.__cause__) is socket.gaierror

    def test_errno_is_etimedout(self, dial, black_hole):
        with pytest.raises(TimeoutError) as caught:
            dial(*black_hole.getsockname(), total_timeout=0.02)
        assert caught.value.errno == errno.ETIMEDOUT
        assert str(black_hole.getsockname()[1]) in str(caught.value)

    def test_group_of_all_errors_is_the_cause(self, dial, dead_port, black_hole):
        with pytest.raises(TimeoutError) as caught:
            dial(
                "db",
                1,
                resolver=addresses(("127.0.0.1", dead_port), black_hole.getsockname()),
                total_timeout=0.5,
                all_errors=True,
            )
        cause = caught.value.__cause__
        assert isinstance(cause, ExceptionGroup)
        assert [type(error) for error in cause.exceptions] == [ConnectionRefusedError, TimeoutError]

    def test_failure_in_time_is_raised_unchanged(self, dial, dead_port):
        with pytest.raises(ConnectionRefusedError):
            dial("127.0.0.1", dead_port, total_timeout=FOREVER)

    def test_socket_has_timeout_and_not_total_timeout(self, server):
        for timeout in (None, 5):
            with safedial.safe_connect(server.getsockname(), timeout, total_timeout=60) as sock:
                assert sock.gettimeout() == timeout

    def test_default_timeout_of_sockets_does_not_affect_asyncio(self, black_hole, default_timeout):
        default_timeout(0.01)
        with pytest.raises(TimeoutError) as caught:
            dials.run(safedial.Dialer(total_timeout=0.2, policy=None).dial_async(black_hole.getsockname()))
        assert_out_of_time(caught.value, 0.2)

    def test_total_timeout_0_sends_no_packet(self, dial, server):
        """A caller who counts down the time left may reach 0. No packet is sent."""
        with pytest.raises(TimeoutError) as caught:
            dial(*server.getsockname(), total_timeout=0)
        assert_out_of_time(caught.value, 0)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()

    @pytest.mark.parametrize("longest", [2_147_484, 1e8, threading.TIMEOUT_MAX])
    def test_huge_times_do_not_overflow(self, dial, server, longest):
        """Go's TestDialTimeoutMaxDuration. The longest timeout of a socket is 24 days: milliseconds in a C int."""
        with faults.full_listener("::1", server.getsockname()[1]) as black_hole:
            for answers in ([server], [black_hole, server]):
                dial(
                    "db",
                    1,
                    resolver=servers(*answers),
                    timeout=longest,
                    total_timeout=longest,
                    happy_eyeballs_delay=0.01,
                )
