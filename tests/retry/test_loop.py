"""Rounds under any tenacity policy, in blocking and asyncio dials, and interrupted waits."""

import asyncio
import concurrent.futures
import errno
import itertools
import logging
import socket
import threading
import time

import pytest
import tenacity

import safedial
from safedial import events
from safedial._retry import loop
from tests.support import dials
from tests.support.policies import retrying

KINDS = [tenacity.Retrying, tenacity.AsyncRetrying]


class TestAnyPolicy:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("reraise", [True, False])
    def test_both_kinds_of_policy_raise_the_last_error(self, dial, dead_port, kind, reraise):
        policy = retrying(3, 0.001, kind, reraise=reraise, retry_error_callback=lambda state: None)
        with pytest.raises(ConnectionRefusedError) as caught:
            dial("127.0.0.1", dead_port, policy=policy)
        assert "3 rounds" in caught.value.__notes__[0]
        assert policy.statistics == {}, "the policy was copied"

    def test_hooks_of_the_policy_are_called(self, dial, dead_port, caplog):
        caplog.set_level(logging.INFO)
        called = []
        policy = retrying(
            2,
            before=lambda state: called.append("before"),
            after=lambda state: called.append("after"),
            before_sleep=tenacity.before_sleep_log(logging.getLogger("user"), logging.INFO),
        )
        with pytest.raises(ConnectionRefusedError):
            dial("127.0.0.1", dead_port, policy=policy)
        assert called == ["before", "after", "before", "after"]
        assert "safedial._retry.loop.rounds" in caplog.text

    @pytest.mark.parametrize("name", ["open_connection", "Dialer.dial_async"])
    def test_coroutine_hooks_are_awaited_in_asyncio_only(self, dead_port, name):
        called = []

        async def before_sleep(state):
            await asyncio.sleep(0)
            called.append(state.attempt_number)

        policy = retrying(3, kind=tenacity.AsyncRetrying, before_sleep=before_sleep)
        with pytest.raises(ConnectionRefusedError):
            dials.DIALS[name]("127.0.0.1", dead_port, policy=policy)
        assert called == [1, 2]
        with pytest.raises(TypeError, match="policy"):
            dials.DIALS["safe_connect"]("127.0.0.1", dead_port, policy=policy)

    def test_exception_of_a_strategy_has_the_dials_error_as_context(self, dial, dead_port):
        policy = tenacity.Retrying(retry=safedial.retry_if_transient, wait=lambda state: 1 / 0)
        with pytest.raises(ZeroDivisionError) as caught:
            dial("127.0.0.1", dead_port, policy=policy)
        assert isinstance(caught.value.__context__, ConnectionRefusedError)

    def test_async_sleep_of_a_retrying_is_awaited_in_asyncio_only(self, dead_port):
        async def sleep(seconds):
            slept.append(seconds)

        slept = []
        policy = retrying(2, 0.001, sleep=sleep)
        with pytest.raises(ConnectionRefusedError):
            dials.DIALS["open_connection"]("127.0.0.1", dead_port, policy=policy)
        assert slept == [0.001]
        with pytest.raises(TypeError, match="policy"):
            dials.DIALS["safe_connect"]("127.0.0.1", dead_port, policy=policy)

    def test_async_sleep_is_replaced_in_a_blocking_dial(self, dead_port, monkeypatch):
        slept = []
        monkeypatch.setattr(time, "sleep", slept.append)
        policy = retrying(2, 7, tenacity.AsyncRetrying, sleep=asyncio.sleep)
        with pytest.raises(ConnectionRefusedError):
            dials.DIALS["safe_connect"]("127.0.0.1", dead_port, policy=policy)
        assert slept == [7]

    def test_disabled_policy_makes_one_round(self, dial, dead_port):
        policy = retrying(3)
        if not hasattr(policy, "enabled"):
            pytest.skip("this tenacity has no enabled= (9.2 has)")
        policy.enabled = False
        with pytest.raises(ConnectionRefusedError) as caught:
            dial("127.0.0.1", dead_port, policy=policy)
        assert "1 round," in caught.value.__notes__[0]

    def test_users_sleep_is_called(self, dead_port):
        slept = []
        policy = retrying(3, 3600, sleep=slept.append)
        for name in dials.DIALS:
            slept.clear()
            with pytest.raises(ConnectionRefusedError):
                dials.DIALS[name]("127.0.0.1", dead_port, policy=policy)
            assert slept == [3600, 3600]

    def test_users_async_sleep_is_awaited(self, dead_port):
        slept = []

        async def sleep(seconds):
            slept.append(seconds)

        policy = retrying(3, 0.001, tenacity.AsyncRetrying, sleep=sleep)
        for name in ("open_connection", "Dialer.dial_async"):
            slept.clear()
            with pytest.raises(ConnectionRefusedError):
                dials.DIALS[name]("127.0.0.1", dead_port, policy=policy)
            assert slept == [0.001, 0.001]

    def test_threads_and_tasks_share_a_policy(self, dead_port):
        policy = safedial.redial(4).copy(retry=safedial.retry_if_transient)
        outcomes = []

        def count(error):
            outcomes.append(error.__notes__[0].split(" after ")[1].split(",")[0])

        def thread():
            for _ in range(5):
                try:
                    safedial.safe_connect(("127.0.0.1", dead_port), policy=policy)
                except ConnectionRefusedError as error:
                    count(error)

        async def task():
            try:
                await safedial.open_connection("127.0.0.1", dead_port, policy=policy)
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

    def test_exception_of_an_event_hook_does_not_end_the_dial(self, dial, dead_port, start_server, caplog):
        kinds, start = [], start_server(dead_port, "retry")

        def hook(event):
            kinds.append(event.kind)
            start(event)
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the metrics server is down")

        events._reported.clear()
        for _ in range(2):
            dial("127.0.0.1", dead_port, policy=safedial.reconnect(30, 0.001), on_event=hook)
        assert kinds == ["failed", "retry", "connected", "connected"]
        (logged,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert "hook raised" in logged.getMessage()
        assert "metrics" in str(logged.exc_info[1])

    @pytest.mark.parametrize("kind", ["connected", "failed", "retry"])
    @pytest.mark.parametrize("interrupt", [KeyboardInterrupt, asyncio.CancelledError])
    def test_interrupt_of_an_event_hook_ends_the_dial(self, dial, dead_port, start_server, kind, interrupt):
        start = start_server(dead_port, "retry")

        def hook(event):
            start(event)
            if event.kind == kind:
                raise interrupt

        with pytest.raises(interrupt):
            dial("127.0.0.1", dead_port, policy=safedial.reconnect(30, 0.001), on_event=hook)


def call_during_wait(action):
    """Return an on_event hook that calls *action* in another thread once the dial waits, and its threads."""
    threads = []

    def hook(event):
        if event.kind == "retry":
            threads.append(threading.Timer(0.05, action))
            threads[-1].start()

    return hook, threads


class TestThreads:
    def test_each_connection_of_a_loop_in_another_thread(self, dead_port):
        """tenacity keeps its statistics by thread."""
        connections = safedial.connections(("127.0.0.1", dead_port), policy=retrying(2, 0.001))

        def enter(connection):
            with pytest.raises(ConnectionRefusedError), connection:
                pass

        for connection in itertools.islice(connections, 2):
            with concurrent.futures.ThreadPoolExecutor(1) as thread:
                thread.submit(enter, connection).result()


class TestInterruption:
    """Waits of 20 s are cut short."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("joined", [False, True])
    def test_stop_event_ends_a_wait_and_the_dial(self, dial, dead_port, kind, joined):
        event = threading.Event()
        stop = tenacity.stop_when_event_set(event)
        if joined:
            stop = tenacity.stop_after_attempt(100) | stop
        hook, timers = call_during_wait(event.set)
        kinds = []

        def count(event):
            hook(event)
            kinds.append(event.kind)

        with pytest.raises(ConnectionRefusedError) as caught:
            dial("127.0.0.1", dead_port, policy=retrying(wait=20, kind=kind, stop=stop), on_event=count)
        assert kinds.count("failed") == 1, "no further round once the event is set"
        assert "1 round," in caught.value.__notes__[0]
        timers[0].join()

    def test_sleep_using_event_ends_a_wait(self, dial, dead_port):
        event = threading.Event()
        hook, timers = call_during_wait(event.set)
        policy = retrying(2, 20, sleep=tenacity.sleep_using_event(event))
        with pytest.raises(ConnectionRefusedError) as caught:
            dial("127.0.0.1", dead_port, policy=policy, on_event=hook)
        assert "2 rounds" in caught.value.__notes__[0]
        timers[0].join()

    def test_cancellation_ends_a_wait(self, loop_factory, dead_port):
        async def main():
            waiting = asyncio.Event()

            def hook(event):
                if event.kind == "retry":
                    waiting.set()

            policy = retrying(3, 20)
            task = asyncio.create_task(safedial.open_connection("127.0.0.1", dead_port, policy=policy, on_event=hook))
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        dials.run(main(), loop_factory)

    def test_keyboard_interrupt_ends_a_wait(self, dead_port, monkeypatch):
        def interrupted(seconds):
            raise KeyboardInterrupt

        monkeypatch.setattr(time, "sleep", interrupted)
        greedy = tenacity.Retrying(retry=tenacity.retry_always, wait=tenacity.wait_fixed(1))
        with pytest.raises(KeyboardInterrupt):
            safedial.safe_connect(("127.0.0.1", dead_port), policy=greedy)

    def test_keyboard_interrupt_in_connect_is_not_retried(self, dead_port, monkeypatch):
        class Interrupting(socket.socket):
            def connect(self, address):
                raise KeyboardInterrupt

        monkeypatch.setattr(socket, "socket", Interrupting)
        greedy = tenacity.Retrying(retry=tenacity.retry_if_exception_type(BaseException))
        with pytest.raises(KeyboardInterrupt):
            safedial.safe_connect(("127.0.0.1", dead_port), policy=greedy)


def test_first_success_does_not_enter_tenacity(dial, server, monkeypatch):
    monkeypatch.setattr(loop, "Retries", None)
    policy = safedial.reconnect()
    assert dial(*server.getsockname(), policy=policy).peer == server.getsockname()


@pytest.mark.parametrize("wait", [-1, float("nan")])
def test_invalid_wait_is_an_error(dial, dead_port, wait):
    policy = tenacity.Retrying(retry=safedial.retry_if_transient, wait=lambda state: wait)
    with pytest.raises(ValueError, match="policy: a wait must be 0 or more seconds"):
        dial("127.0.0.1", dead_port, policy=policy)
