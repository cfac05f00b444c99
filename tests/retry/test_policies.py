"""Policies: what is retried, how long is waited, what comes out, and what ends a wait."""

import asyncio
import errno
import logging
import pickle
import socket
import threading
import time

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

import safedial
from safedial._dial.outcome import combined_error, last_error
from safedial._retry import loop, policies
from safedial._retry.transient import is_spurious, is_transient
from tests.support import faces

SELF = safedial.SelfConnectError.at("127.0.0.1", 80)
EXHAUSTED = safedial.PortsExhaustedError.at("127.0.0.1", 80, safedial.PortUsage())
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
BAD_SOURCE = OSError(errno.EADDRNOTAVAIL, "bind")


class TestWhatIsRetried:
    @pytest.mark.parametrize(
        ("error", "spurious", "transient"),
        [
            (SELF, True, True),
            (EXHAUSTED, True, True),
            (REFUSED, False, True),
            (TimeoutError("timed out"), False, True),
            (TimeoutError(errno.ETIMEDOUT, "timed out"), False, True),
            (ConnectionResetError(errno.ECONNRESET, "reset"), False, True),
            (OSError(errno.ENETUNREACH, "unreachable"), False, True),
            (OSError(errno.EHOSTUNREACH, "unreachable"), False, True),
            (socket.gaierror(socket.EAI_AGAIN, "try again"), False, True),
            (socket.gaierror(socket.EAI_NONAME, "unknown"), False, False),
            (BAD_SOURCE, False, False),
            (PermissionError(errno.EACCES, "denied"), False, False),
            (OSError("no errno"), False, False),
            (ValueError("no OSError"), False, False),
            (ExceptionGroup("all", [BAD_SOURCE, SELF]), True, True),
        ],
    )
    def test_predicates(self, error, spurious, transient):
        assert (is_spurious(error), is_transient(error)) == (spurious, transient)

    def test_combined_error_has_no_errno_that_is_not_shared(self):
        assert combined_error([REFUSED, OSError(errno.ENETUNREACH, "unreachable")]).errno is None
        assert combined_error([REFUSED, ConnectionRefusedError(errno.ECONNREFUSED, "no")]).errno == errno.ECONNREFUSED

    @pytest.mark.parametrize("choose", [last_error, combined_error])
    @pytest.mark.parametrize("order", [1, -1])
    def test_a_spurious_fault_behind_another_addresss_error(self, choose, order):
        errors = [SELF, BAD_SOURCE][::order]
        assert is_spurious(choose(errors))

    def test_what_one_address_said_travels_with_the_error(self):
        copy = pickle.loads(pickle.dumps(last_error([SELF, OSError(errno.EACCES, "denied")])))
        assert is_spurious(copy)

    def test_refused_stays_refused_at_once_without_loading_tenacity(self, dial, dead_port, monkeypatch):
        monkeypatch.setattr(policies, "default_policy", None)
        with pytest.raises(ConnectionRefusedError) as caught:
            dial("127.0.0.1", dead_port)
        assert "1 round," in caught.value.__notes__[0]

    @pytest.mark.parametrize("attempts", [1, 2, 5])
    def test_redial_attempts(self, dial, force, dead_port, attempts):
        force(dead_port)
        seen = []
        with pytest.raises(safedial.SelfConnectError):
            dial("127.0.0.1", dead_port, policy=safedial.redial(attempts), on_event=seen.append)
        assert [event.kind for event in seen].count("self_connect") == attempts

    def test_predicates_serve_the_users_own_decorator(self, dead_port):
        calls = []

        @tenacity.retry(
            retry=safedial.retry_if_transient,
            stop=tenacity.stop_after_attempt(3),
            wait=tenacity.wait_none(),
            reraise=True,
        )
        def connect():
            calls.append(1)
            return safedial.safe_connect(("127.0.0.1", dead_port))

        with pytest.raises(ConnectionRefusedError):
            connect()
        assert len(calls) == 3


class TestReconnect:
    def test_server_comes_back(self, dial, dead_port):
        servers = []

        def come_back(event):
            if event.kind == "retry" and event.round == 3:
                servers.append(socket.create_server(("127.0.0.1", dead_port)))

        ends = dial("127.0.0.1", dead_port, policy=safedial.reconnect(30, 0.001, 0.002), on_event=come_back)
        assert ends.peer == ("127.0.0.1", dead_port)
        servers[0].close()

    def test_is_bounded(self, dial, dead_port):
        seen = []
        with pytest.raises(ConnectionRefusedError):
            dial("127.0.0.1", dead_port, policy=safedial.reconnect(1, 0.01, 0.05), on_event=seen.append)
        waits = [event for event in seen if event.kind == "retry"]
        assert waits

    def test_no_wait_is_begun_that_would_end_past_the_bound(self):
        chosen = safedial.reconnect(60)
        state = tenacity.RetryCallState(chosen, None, (), {})
        state.start_time, state.outcome_timestamp = 0.0, 59.0
        state.upcoming_sleep = 0.99
        assert not chosen.stop(state)
        state.upcoming_sleep = 1.0
        assert chosen.stop(state)

    def test_bound_counts_from_the_first_attempt(self, dial, dead_port):
        started = []
        chosen = tenacity.Retrying(
            retry=safedial.retry_if_transient,
            stop=lambda state: started.append(state.seconds_since_start) or True,
        )
        seen = []
        with pytest.raises(ConnectionRefusedError):
            dial("127.0.0.1", dead_port, policy=chosen, on_event=seen.append)
        assert started[0] >= seen[0].elapsed, "the first round's own time is in it"

    def test_resolver_failure_that_may_pass(self, monkeypatch, server):
        answers = [socket.gaierror(socket.EAI_AGAIN, "try again")] * 2
        real = socket.getaddrinfo

        def flaky(*args, **kwds):
            if answers:
                raise answers.pop()
            return real(*args, **kwds)

        monkeypatch.setattr(socket, "getaddrinfo", flaky)
        port = server.getsockname()[1]
        assert faces.blocking("localhost", port, policy=safedial.reconnect(30, 0.001)).peer[1] == port

    def test_names_are_resolved_afresh_in_each_round(self, monkeypatch, server, dead_port):
        asked = []

        def moving(*args, **kwds):
            asked.append(args)
            port = dead_port if len(asked) < 3 else server.getsockname()[1]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", moving)
        for face in (faces.blocking, faces.FACES["open_connection"]):
            asked.clear()
            assert face("db", 1, policy=safedial.reconnect(30, 0.001)).peer == server.getsockname()
            assert len(asked) == 3

    @given(
        st.integers(1, 5000),
        st.floats(0.001, 10, allow_nan=False),
        st.floats(0.001, 100, allow_nan=False),
    )
    def test_full_jitter_after_the_cap(self, attempt, first, cap):
        chosen = safedial.reconnect(60, first, cap)
        state = tenacity.RetryCallState(chosen, None, (), {})
        state.attempt_number = attempt
        bound = min(cap, first * 2.0 ** min(attempt - 1, 1000))
        assert all(0 <= chosen.wait(state) <= bound * 1.000001 for _ in range(5))

    @given(st.integers(1, 10**6))
    def test_exhausted_ports_are_waited_for(self, attempt):
        chosen = safedial.redial(10)
        bound = min(5.0, 2.0 ** min(attempt - 1, 10))
        for error, bounds in ((EXHAUSTED, (min(0.5, bound), bound)), (SELF, (0, 0)), (REFUSED, (0, 0))):
            state = tenacity.RetryCallState(chosen, None, (), {})
            state.attempt_number = attempt
            state.set_exception((type(error), error, None))
            assert bounds[0] <= chosen.wait(state) <= bounds[1]

    def test_waits_for_a_port_grow(self):
        state = tenacity.RetryCallState(safedial.redial(), None, (), {})
        state.set_exception((type(EXHAUSTED), EXHAUSTED, None))
        for attempt, bound in enumerate([1, 2, 4, 5, 5], 1):
            state.attempt_number = attempt
            assert bound / 2 < max(safedial.redial().wait(state) for _ in range(200)) <= bound

    @pytest.mark.parametrize("platform", ["linux", "darwin"])
    def test_first_wait_for_a_port(self, monkeypatch, platform):
        monkeypatch.setattr(policies.sys, "platform", platform)
        state = tenacity.RetryCallState(safedial.redial(), None, (), {})
        state.set_exception((type(EXHAUSTED), EXHAUSTED, None))
        wait = safedial.redial().wait(state)
        assert 0.5 <= wait <= 1 if platform == "linux" else wait == 0


KINDS = [tenacity.Retrying, tenacity.AsyncRetrying]


class TestAnyPolicy:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("reraise", [True, False])
    def test_both_kinds_in_both_worlds_and_never_a_retry_error(self, dial, dead_port, kind, reraise):
        chosen = kind(
            retry=safedial.retry_if_transient,
            stop=tenacity.stop_after_attempt(3),
            wait=tenacity.wait_fixed(0.001),
            reraise=reraise,
            retry_error_callback=lambda state: None,
        )
        with pytest.raises(ConnectionRefusedError) as caught:
            dial("127.0.0.1", dead_port, policy=chosen)
        assert "3 rounds" in caught.value.__notes__[0]
        assert chosen.statistics == {}, "the policy itself is not touched"

    def test_tenacitys_hooks_are_called(self, dial, dead_port, caplog):
        caplog.set_level(logging.INFO)
        called = []
        chosen = tenacity.Retrying(
            retry=safedial.retry_if_transient,
            stop=tenacity.stop_after_attempt(2),
            before=lambda state: called.append("before"),
            after=lambda state: called.append("after"),
            before_sleep=tenacity.before_sleep_log(logging.getLogger("user"), logging.INFO),
        )
        with pytest.raises(ConnectionRefusedError):
            dial("127.0.0.1", dead_port, policy=chosen)
        assert called == ["before", "after", "before", "after"]
        assert "safedial._retry.loop.rounds" in caplog.text

    @pytest.mark.parametrize("name", ["open_connection", "Dialer.dial_async"])
    def test_coroutine_hooks_where_they_can_be_awaited(self, dead_port, name):
        called = []

        async def before_sleep(state):
            await asyncio.sleep(0)
            called.append(state.attempt_number)

        chosen = tenacity.AsyncRetrying(
            retry=safedial.retry_if_transient, stop=tenacity.stop_after_attempt(3), before_sleep=before_sleep
        )
        with pytest.raises(ConnectionRefusedError):
            faces.FACES[name]("127.0.0.1", dead_port, policy=chosen)
        assert called == [1, 2]
        with pytest.raises(TypeError, match="policy"):
            faces.FACES["safe_connect"]("127.0.0.1", dead_port, policy=chosen)

    def test_failing_strategy_keeps_the_dials_error_as_context(self, dial, dead_port):
        chosen = tenacity.Retrying(retry=safedial.retry_if_transient, wait=lambda state: 1 / 0)
        with pytest.raises(ZeroDivisionError) as caught:
            dial("127.0.0.1", dead_port, policy=chosen)
        assert isinstance(caught.value.__context__, ConnectionRefusedError)

    def test_subclass_that_cannot_be_copied_is_refused_at_once(self, dial):
        class Mine(tenacity.Retrying):
            def __init__(self, attempts):
                super().__init__(stop=tenacity.stop_after_attempt(attempts))

        with pytest.raises(TypeError, match=r"policy: Mine\.copy\(\)"):
            dial("127.0.0.1", 1, policy=Mine(3))

    def test_async_sleep_of_a_retrying(self, dead_port):
        async def sleep(seconds):
            slept.append(seconds)

        slept = []
        chosen = tenacity.Retrying(
            sleep=sleep,
            retry=safedial.retry_if_transient,
            stop=tenacity.stop_after_attempt(2),
            wait=tenacity.wait_fixed(0.001),
        )
        with pytest.raises(ConnectionRefusedError):
            faces.FACES["open_connection"]("127.0.0.1", dead_port, policy=chosen)
        assert slept == [0.001]
        with pytest.raises(TypeError, match="policy"):
            faces.FACES["safe_connect"]("127.0.0.1", dead_port, policy=chosen)

    def test_async_sleep_in_the_blocking_world(self, dead_port, monkeypatch):
        slept = []
        monkeypatch.setattr(time, "sleep", slept.append)
        chosen = tenacity.AsyncRetrying(
            sleep=asyncio.sleep,
            retry=safedial.retry_if_transient,
            stop=tenacity.stop_after_attempt(2),
            wait=tenacity.wait_fixed(7),
        )
        with pytest.raises(ConnectionRefusedError):
            faces.FACES["safe_connect"]("127.0.0.1", dead_port, policy=chosen)
        assert slept == [7]

    def test_disabled_policy_is_no_policy(self, dial, dead_port):
        chosen = tenacity.Retrying(retry=safedial.retry_if_transient, stop=tenacity.stop_after_attempt(3))
        if not hasattr(chosen, "enabled"):
            pytest.skip("this tenacity has no enabled= (9.2 has)")
        chosen.enabled = False
        with pytest.raises(ConnectionRefusedError) as caught:
            dial("127.0.0.1", dead_port, policy=chosen)
        assert "1 round," in caught.value.__notes__[0]

    def test_sleeps_of_the_users_own(self, dead_port):
        slept = []
        waits = {"retry": safedial.retry_if_transient, "wait": tenacity.wait_fixed(3600)}
        three = tenacity.stop_after_attempt(3)
        mine = tenacity.Retrying(sleep=slept.append, stop=three, **waits)
        for name in faces.FACES:
            slept.clear()
            with pytest.raises(ConnectionRefusedError):
                faces.FACES[name]("127.0.0.1", dead_port, policy=mine)
            assert slept == [3600, 3600]

    def test_async_sleep_of_the_users_own(self, dead_port):
        slept = []

        async def sleep(seconds):
            slept.append(seconds)

        chosen = tenacity.AsyncRetrying(
            sleep=sleep,
            stop=tenacity.stop_after_attempt(3),
            wait=tenacity.wait_fixed(0.001),
            retry=safedial.retry_if_transient,
        )
        for name in ("open_connection", "Dialer.dial_async"):
            slept.clear()
            with pytest.raises(ConnectionRefusedError):
                faces.FACES[name]("127.0.0.1", dead_port, policy=chosen)
            assert slept == [0.001, 0.001]

    def test_shared_by_threads_and_tasks(self, dead_port):
        chosen = safedial.redial(4).copy(retry=safedial.retry_if_transient)
        outcomes = []

        def count(error):
            outcomes.append(error.__notes__[0].split(" after ")[1].split(",")[0])

        def thread():
            for _ in range(5):
                try:
                    safedial.safe_connect(("127.0.0.1", dead_port), policy=chosen)
                except ConnectionRefusedError as error:
                    count(error)

        async def task():
            try:
                await safedial.open_connection("127.0.0.1", dead_port, policy=chosen)
            except ConnectionRefusedError as error:
                count(error)

        async def tasks():
            await asyncio.gather(*(task() for _ in range(40)))

        threads = [threading.Thread(target=thread) for _ in range(8)]
        for each in threads:
            each.start()
        faces.run(tasks())
        for each in threads:
            each.join()
        assert outcomes == ["4 rounds"] * 80

    @pytest.mark.parametrize("kind", ["connected", "failed", "retry"])
    def test_even_an_oserror_of_a_hook_ends_the_dial(self, dial, dead_port, kind):
        servers, seen = [], []

        def hook(event):
            seen.append(event.kind)
            if event.kind == kind:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "the metrics server is down")
            if event.kind == "retry":
                servers.append(socket.create_server(("127.0.0.1", dead_port)))

        with pytest.raises(ConnectionRefusedError, match="metrics") as caught:
            dial("127.0.0.1", dead_port, policy=safedial.reconnect(30, 0.001), on_event=hook)
        assert not hasattr(caught.value, "__notes__")
        assert seen.count(kind) == 1
        for server in servers:
            server.close()

    def test_errors_of_user_code_end_the_dial(self, dial, dead_port):
        class BrokenError(Exception):
            pass

        def hook(event):
            raise BrokenError

        everything = tenacity.Retrying(stop=tenacity.stop_after_attempt(3))  # retries any Exception
        with pytest.raises(BrokenError):
            dial("127.0.0.1", dead_port, on_event=hook, policy=everything)


LONG = {"retry": safedial.retry_if_transient, "wait": tenacity.wait_fixed(20)}


def once_waiting(action):
    """An on_event hook that does *action* from another thread once the dial waits."""
    threads = []

    def hook(event):
        if event.kind == "retry":
            threads.append(threading.Timer(0.05, action))
            threads[-1].start()

    return hook, threads


class TestInterruption:
    """Waits of 20 s, cut short: a wait that is not would be followed by a second attempt."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("joined", [False, True])
    def test_stop_event(self, dial, dead_port, kind, joined):
        event = threading.Event()
        stop = tenacity.stop_when_event_set(event)
        if joined:
            stop = tenacity.stop_after_attempt(100) | stop
        hook, timers = once_waiting(event.set)
        failed = []

        def count(event):
            hook(event)
            failed.extend([event] if event.kind == "failed" else [])

        with pytest.raises(ConnectionRefusedError) as caught:
            dial("127.0.0.1", dead_port, policy=kind(stop=stop, **LONG), on_event=count)
        assert len(failed) == 1, "no further attempt once the event is set"
        assert "1 round," in caught.value.__notes__[0]
        timers[0].join()

    def test_sleep_using_event_wakes_up(self, dial, dead_port):
        event = threading.Event()
        hook, timers = once_waiting(event.set)
        chosen = tenacity.Retrying(sleep=tenacity.sleep_using_event(event), stop=tenacity.stop_after_attempt(2), **LONG)
        with pytest.raises(ConnectionRefusedError) as caught:
            dial("127.0.0.1", dead_port, policy=chosen, on_event=hook)
        assert "2 rounds" in caught.value.__notes__[0]
        timers[0].join()

    def test_cancellation(self, loop_factory, dead_port):
        async def main():
            waiting = asyncio.Event()

            def hook(event):
                if event.kind == "retry":
                    waiting.set()

            chosen = tenacity.Retrying(stop=tenacity.stop_after_attempt(3), **LONG)
            task = asyncio.create_task(safedial.open_connection("127.0.0.1", dead_port, policy=chosen, on_event=hook))
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        faces.run(main(), loop_factory)

    def test_keyboard_interrupt_in_a_wait(self, dead_port, monkeypatch):
        def interrupted(seconds):
            raise KeyboardInterrupt

        monkeypatch.setattr(time, "sleep", interrupted)
        greedy = tenacity.Retrying(retry=tenacity.retry_always, wait=tenacity.wait_fixed(1))
        with pytest.raises(KeyboardInterrupt):
            safedial.safe_connect(("127.0.0.1", dead_port), policy=greedy)

    def test_policy_that_retries_everything_cannot_swallow_an_interrupt(self, dead_port, monkeypatch):
        class Interrupting(socket.socket):
            def connect(self, address):
                raise KeyboardInterrupt

        monkeypatch.setattr(socket, "socket", Interrupting)
        greedy = tenacity.Retrying(retry=tenacity.retry_if_exception_type(BaseException))
        with pytest.raises(KeyboardInterrupt):
            safedial.safe_connect(("127.0.0.1", dead_port), policy=greedy)


def test_first_success_does_not_enter_tenacity(dial, server, monkeypatch):
    monkeypatch.setattr(loop, "_Retries", None)
    chosen = safedial.reconnect()
    assert dial(*server.getsockname(), policy=chosen).peer == server.getsockname()


@pytest.mark.parametrize("bad", [0, -1, 1.5, "3", None, True])
def test_bad_redial(bad):
    with pytest.raises((TypeError, ValueError), match="attempts"):
        safedial.redial(bad)


@pytest.mark.parametrize("name", ["within", "first", "cap"])
@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), "1", None, True])
def test_bad_reconnect(name, bad):
    with pytest.raises((TypeError, ValueError), match=name):
        safedial.reconnect(**{name: bad})


def test_policies_are_plain_tenacity_objects():
    for chosen in (safedial.redial(), safedial.reconnect()):
        assert type(chosen) is tenacity.Retrying
        assert chosen.reraise
    calls = []

    def dial():
        calls.append(1)
        raise safedial.SelfConnectError.at("127.0.0.1", 80)

    with pytest.raises(safedial.SelfConnectError):
        safedial.redial(2)(dial)
    assert len(calls) == 2


@pytest.mark.parametrize("wait", [-1, float("nan")])
def test_wait_that_is_none(dial, dead_port, wait):
    policy = tenacity.Retrying(retry=safedial.retry_if_transient, wait=lambda state: wait)
    with pytest.raises(ValueError, match="policy: a wait must be 0 or more seconds"):
        dial("127.0.0.1", dead_port, policy=policy)
