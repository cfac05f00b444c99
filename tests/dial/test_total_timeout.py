"""One budget for the whole dial: resolution, every attempt, every wait and every round."""

import asyncio
import errno
import re
import socket
import threading
import time

import pytest
import tenacity

import safedial
from safedial import testing
from tests.support import dials, faults, left, namespace
from tests.support.resolvers import names, servers

FOREVER = 3600  # seconds: a dial that waits for this long has lost its way


@pytest.fixture
def told():
    return []


@pytest.fixture
def black_hole():
    with faults.full_listener() as server:
        yield server


@pytest.fixture
def clock(monkeypatch):
    """A clock that only sleeps and scripted sockets move."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


@pytest.fixture
def limits(monkeypatch, clock):
    """The timeouts of blocking attempts, none of which is ever answered."""
    found = []

    class Unanswered(socket.socket):
        def connect(self, address):
            found.append(self.gettimeout())
            clock[0] += self.gettimeout()
            raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "socket", Unanswered)
    return found


def gone_after(error, seconds):
    assert type(error) is TimeoutError
    assert f"could not be reached within total_timeout, {seconds:g} s" in str(error)


class TestFairShares:
    """Go's TestDialerPartialDeadline, through a dial; `test_race` has the bare figures."""

    @pytest.mark.parametrize(
        ("total", "addresses", "shares"),
        [(12, 1, [12]), (12, 2, [6, 6]), (12, 3, [4, 4, 4]), (5, 999, [2, 2, 1]), (1.9, 999, [1.9])],
    )
    def test_one_after_the_other(self, limits, total, addresses, shares):
        dialer = safedial.Dialer(
            total_timeout=total, happy_eyeballs_delay=None, resolver=names(*[("127.0.0.1", 9)] * addresses)
        )
        with pytest.raises(TimeoutError) as caught:
            dialer.dial(("db", 9))
        assert limits == pytest.approx(shares)
        gone_after(caught.value, total)

    def test_timeout_where_that_is_less(self, limits):
        dialer = safedial.Dialer(
            timeout=3, total_timeout=12, happy_eyeballs_delay=None, resolver=names(*[("127.0.0.1", 9)] * 2)
        )
        with pytest.raises(TimeoutError, match=r"^timed out\n"):
            dialer.dial(("db", 9))
        assert limits == [3, 3]

    def test_what_the_resolver_took_is_gone(self, limits, clock):
        def resolver(host, port, **hints):
            clock[0] += 6
            return [faults.tcp("127.0.0.1", 9)] * 2

        with pytest.raises(TimeoutError):
            safedial.Dialer(total_timeout=10, happy_eyeballs_delay=None, resolver=resolver).dial(("db", 9))
        assert limits == pytest.approx([2, 2])

    def test_and_of_what_the_rounds_before_took(self, limits, clock):
        policy = tenacity.Retrying(
            retry=safedial.retry_if_transient, wait=tenacity.wait_fixed(2), stop=tenacity.stop_never
        )
        with pytest.raises(TimeoutError) as caught:
            safedial.safe_connect(("127.0.0.1", 9), 3, total_timeout=11, policy=policy)
        assert limits == pytest.approx([3, 3, 1])
        assert clock[0] == 1011
        gone_after(caught.value, 11)


class TestBounds:
    def test_the_attempt(self, dial, black_hole, steer):
        """Go's TestDialTimeout."""
        with pytest.raises(TimeoutError) as caught:
            dial(*black_hole.getsockname(), timeout=FOREVER, total_timeout=0.05, steer=steer)
        gone_after(caught.value, 0.05)

    def test_every_round(self, dial, black_hole, told):
        with pytest.raises(TimeoutError) as caught:
            dial(
                *black_hole.getsockname(),
                timeout=0.02,
                total_timeout=1,
                policy=safedial.reconnect(FOREVER, 0.001, 0.001),
                on_event=told.append,
            )
        gone_after(caught.value, 1)
        assert str(caught.value.__cause__) == "timed out"
        assert told[-1].round > 1

    def test_no_wait_is_begun_that_ends_later(self, dial, dead_port, told):
        policy = tenacity.Retrying(
            retry=safedial.retry_if_transient, wait=tenacity.wait_fixed(FOREVER), stop=tenacity.stop_never
        )
        with pytest.raises(TimeoutError) as caught:
            dial("127.0.0.1", dead_port, total_timeout=60, policy=policy, on_event=told.append)
        gone_after(caught.value, 60)
        assert "the wait before the next round, 3600.000 s, would have ended too late" in str(caught.value)
        assert type(caught.value.__cause__) is ConnectionRefusedError
        assert [event.kind for event in told] == ["failed"]

    def test_an_async_resolver(self, loop_factory, told):
        async def never(host, port, **hints):
            await asyncio.sleep(FOREVER)

        dialer = safedial.Dialer(resolver=never, total_timeout=0.05, on_event=told.append)
        with pytest.raises(TimeoutError) as caught:
            dials.run(dialer.dial_async(("db", 1)), loop_factory)
        gone_after(caught.value, 0.05)
        assert caught.value.__cause__ is None
        assert caught.value.__notes__[1:] == ["safedial: resolving 'db', round 1: timed out"]

    def test_a_resolver_in_a_thread(self, loop_factory):
        answer = threading.Event()

        async def main():
            dialer = safedial.Dialer(resolver=lambda *args, **hints: answer.wait(FOREVER), total_timeout=0.05)
            try:
                with pytest.raises(TimeoutError) as caught:
                    await dialer.dial_async(("db", 1))
                gone_after(caught.value, 0.05)
            finally:
                answer.set()  # the loop waits for its threads when it closes

        dials.run(main(), loop_factory)

    def test_a_blocking_resolver_is_waited_for_and_counted(self, limits, clock):
        def slow(host, port, **hints):
            clock[0] += 7
            return [faults.tcp("127.0.0.1", 9)]

        with pytest.raises(TimeoutError) as caught:
            safedial.safe_connect(("db", 9), 5, total_timeout=4, resolver=slow)
        gone_after(caught.value, 4)
        assert limits == []  # and no packet has left
        assert caught.value.__notes__[1:] == ["safedial: resolving 'db', round 1: timed out"]

    def test_so_is_the_systems(self, limits, clock, monkeypatch):
        def slow(*args):
            clock[0] += 7
            return [faults.tcp("127.0.0.1", 9)]

        monkeypatch.setattr(socket, "getaddrinfo", slow)
        with pytest.raises(TimeoutError) as caught:
            safedial.safe_connect(("db", 9), 5, total_timeout=4)
        gone_after(caught.value, 4)
        assert limits == []

    def test_but_cut_short_in_asyncio(self, monkeypatch):
        answer = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwds: answer.wait(FOREVER))

        async def main():
            try:
                with pytest.raises(TimeoutError) as caught:
                    await safedial.open_connection("db", 9, total_timeout=0.05)
                gone_after(caught.value, 0.05)
            finally:
                answer.set()

        dials.run(main())

    def test_a_blocking_sleep_is_cut_short_in_asyncio(self, loop_factory, dead_port):
        over = threading.Event()
        policy = tenacity.Retrying(
            retry=safedial.retry_if_transient,
            sleep=lambda seconds: over.wait(FOREVER),
            stop=tenacity.stop_never,
            wait=tenacity.wait_none(),
        )

        async def main():
            try:
                with pytest.raises(TimeoutError) as caught:
                    await safedial.open_connection("127.0.0.1", dead_port, total_timeout=0.05, policy=policy)
                gone_after(caught.value, 0.05)
            finally:
                over.set()

        dials.run(main(), loop_factory)

    def test_a_blocking_sleep_of_the_users_own_is_waited_for_and_counted(self, clock, dead_port):
        def oversleep(seconds):
            clock[0] += 10

        policy = tenacity.Retrying(
            retry=safedial.retry_if_transient, sleep=oversleep, stop=tenacity.stop_never, wait=tenacity.wait_none()
        )
        with pytest.raises(TimeoutError) as caught:
            safedial.safe_connect(("127.0.0.1", dead_port), total_timeout=4, policy=policy)
        gone_after(caught.value, 4)
        assert caught.value.__notes__[0].endswith("after 1 round, 10.000 s")

    def test_a_sleep_of_the_users_own(self, loop_factory, dead_port):
        async def oversleep(seconds):
            await asyncio.sleep(FOREVER)

        policy = tenacity.AsyncRetrying(
            retry=safedial.retry_if_transient, sleep=oversleep, stop=tenacity.stop_never, wait=tenacity.wait_none()
        )
        with pytest.raises(TimeoutError) as caught:
            dials.run(safedial.open_connection("127.0.0.1", dead_port, total_timeout=0.5, policy=policy), loop_factory)
        gone_after(caught.value, 0.5)
        assert caught.value.__cause__.errno

    @pytest.mark.parametrize("where", ["before_sleep", "before", "retry"])
    def test_what_a_policy_awaits(self, loop_factory, dead_port, where):
        async def never(state):
            if where != "before" or state.attempt_number > 1:
                await asyncio.sleep(FOREVER)

        options = {"retry": safedial.retry_if_transient, "stop": tenacity.stop_never, "wait": tenacity.wait_none()}
        policy = tenacity.AsyncRetrying(**options | {where: never})
        with pytest.raises(TimeoutError) as caught:
            dials.run(safedial.open_connection("127.0.0.1", dead_port, total_timeout=0.05, policy=policy), loop_factory)
        gone_after(caught.value, 0.05)

    @pytest.mark.parametrize("delay", [None, 0.001])
    @pytest.mark.parametrize("answer", ["refused", "nothing"])
    def test_a_thousand_addresses(self, delay, answer):
        namespace.call_where_possible(dial_a_thousand, delay, answer)


def dial_a_thousand(delay, answer):
    """All refused within their time, or none ever answered; nothing is left behind."""
    with faults.full_listener("127.0.0.1", testing.dead_port()) as black_hole:
        port = black_hole.getsockname()[1] if answer == "nothing" else testing.dead_port()
        before = left.open_descriptors()
        dialer = safedial.Dialer(
            total_timeout=0.5 if answer == "nothing" else FOREVER,
            happy_eyeballs_delay=delay,
            resolver=names(*[("127.0.0.1", port)] * 1000),
        )
        expected = TimeoutError if answer == "nothing" else ConnectionRefusedError
        with pytest.raises(expected) as caught:
            dialer.dial(("db", port))
        with pytest.raises(expected):
            dials.run(dialer.dial_async(("db", port)))
        assert len(caught.value.__notes__) < 10
        del caught
        assert left.open_descriptors() == before


class TestWhatComesOut:
    def test_the_last_real_failure_is_its_cause(self, dial, dead_port, black_hole, told):
        """Refused once, then cut off: the refusal tells more than the end of the time."""
        answers = iter([[("127.0.0.1", dead_port)], *[[black_hole.getsockname()]] * 9])

        def resolver(host, port, **hints):
            return [faults.tcp(*address) for address in next(answers)]

        policy = tenacity.Retrying(
            retry=safedial.retry_if_transient, wait=tenacity.wait_none(), stop=tenacity.stop_never
        )
        with pytest.raises(TimeoutError) as caught:
            dial("db", 1, resolver=resolver, policy=policy, total_timeout=1)
        gone_after(caught.value, 1)
        assert type(caught.value.__cause__) is ConnectionRefusedError
        gave_up, refused, cut_off = caught.value.__notes__
        assert re.fullmatch(r"safedial: gave up dialing db port 1 after 2 rounds, \d+\.\d+ s", gave_up)
        assert f"127.0.0.1 port {dead_port}, round 1: " in refused
        assert f"127.0.0.1 port {black_hole.getsockname()[1]}, round 2: timed out" in cut_off

    def test_a_failure_that_took_too_long_is_one_all_the_same(self, clock):
        def slow(*args, **hints):
            clock[0] += 5
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

        with pytest.raises(TimeoutError) as caught:
            safedial.safe_connect(("db", 1), total_timeout=4, resolver=slow)
        assert type(caught.value.__cause__) is socket.gaierror

    def test_the_kernels_errno(self, dial, black_hole):
        with pytest.raises(TimeoutError) as caught:
            dial(*black_hole.getsockname(), total_timeout=0.02)
        assert caught.value.errno == errno.ETIMEDOUT
        assert str(black_hole.getsockname()[1]) in str(caught.value)

    def test_all_errors_are_its_cause(self, dial, dead_port, black_hole):
        with pytest.raises(TimeoutError) as caught:
            dial(
                "db",
                1,
                resolver=names(("127.0.0.1", dead_port), black_hole.getsockname()),
                total_timeout=0.5,
                all_errors=True,
            )
        cause = caught.value.__cause__
        assert isinstance(cause, ExceptionGroup)
        assert [type(error) for error in cause.exceptions] == [ConnectionRefusedError, TimeoutError]

    def test_a_failure_in_time_stays_itself(self, dial, dead_port):
        with pytest.raises(ConnectionRefusedError):
            dial("127.0.0.1", dead_port, total_timeout=FOREVER)

    def test_a_success_in_time_has_the_timeout_it_would_have(self, server):
        for timeout in (None, 5):
            with safedial.safe_connect(server.getsockname(), timeout, total_timeout=60) as sock:
                assert sock.gettimeout() == timeout

    def test_default_timeout_of_sockets_is_not_asyncios(self, black_hole):
        socket.setdefaulttimeout(0.01)
        try:
            with pytest.raises(TimeoutError) as caught:
                dials.run(safedial.Dialer(total_timeout=0.2, policy=None).dial_async(black_hole.getsockname()))
        finally:
            socket.setdefaulttimeout(None)
        gone_after(caught.value, 0.2)

    def test_no_time_at_all(self, dial, server):
        """A caller who counts his own time down may well give 0. No packet leaves."""
        with pytest.raises(TimeoutError) as caught:
            dial(*server.getsockname(), total_timeout=0)
        gone_after(caught.value, 0)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()

    @pytest.mark.parametrize("longest", [2_147_484, 1e8, threading.TIMEOUT_MAX])
    def test_huge_times_do_not_overflow(self, dial, server, longest):
        """Go's TestDialTimeoutMaxDuration. A socket takes 24 days, in milliseconds and a C int."""
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
