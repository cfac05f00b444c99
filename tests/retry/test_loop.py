"""Rounds under a policy: any tenacity policy, in both worlds; and the interruptions of a wait."""

import asyncio
import errno
import logging
import socket
import threading
import time

import pytest
import tenacity

import safedial
from safedial._retry import loop
from tests.support import dials

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
            dials.DIALS[name]("127.0.0.1", dead_port, policy=chosen)
        assert called == [1, 2]
        with pytest.raises(TypeError, match="policy"):
            dials.DIALS["safe_connect"]("127.0.0.1", dead_port, policy=chosen)

    def test_failing_strategy_keeps_the_dials_error_as_context(self, dial, dead_port):
        chosen = tenacity.Retrying(retry=safedial.retry_if_transient, wait=lambda state: 1 / 0)
        with pytest.raises(ZeroDivisionError) as caught:
            dial("127.0.0.1", dead_port, policy=chosen)
        assert isinstance(caught.value.__context__, ConnectionRefusedError)

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
            dials.DIALS["open_connection"]("127.0.0.1", dead_port, policy=chosen)
        assert slept == [0.001]
        with pytest.raises(TypeError, match="policy"):
            dials.DIALS["safe_connect"]("127.0.0.1", dead_port, policy=chosen)

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
            dials.DIALS["safe_connect"]("127.0.0.1", dead_port, policy=chosen)
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
        for name in dials.DIALS:
            slept.clear()
            with pytest.raises(ConnectionRefusedError):
                dials.DIALS[name]("127.0.0.1", dead_port, policy=mine)
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
                dials.DIALS[name]("127.0.0.1", dead_port, policy=chosen)
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
        dials.run(tasks())
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

        dials.run(main(), loop_factory)

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


@pytest.mark.parametrize("wait", [-1, float("nan")])
def test_wait_that_is_none(dial, dead_port, wait):
    policy = tenacity.Retrying(retry=safedial.retry_if_transient, wait=lambda state: wait)
    with pytest.raises(ValueError, match="policy: a wait must be 0 or more seconds"):
        dial("127.0.0.1", dead_port, policy=policy)
