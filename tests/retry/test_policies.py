"""The policies `redial` and `reconnect`: the errors that they retry, and their waits."""

import asyncio
import contextlib
import errno
import random
import socket
import sys

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

import safedial
from safedial._tcp import selfconnect
from tests.support import dials, faults, namespace, resolvers
from tests.support.policies import retrying

SELF = safedial.SelfConnectError.at("127.0.0.1", 80)
EXHAUSTED = safedial.PortsExhaustedError.at("127.0.0.1", 80, safedial.PortUsage())
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_redial_limits_the_rounds(dial, force, dead_port, attempts, events):
    force(dead_port)
    with pytest.raises(safedial.SelfConnectError):
        dial("127.0.0.1", dead_port, policy=safedial.redial(attempts), on_event=events.append)
    assert [event.kind for event in events].count("self_connect") == attempts


def test_default_policy_dials_again_after_a_self_connect(dial, force, steer, dead_port):
    def hold_the_port(event):
        if event.kind == "self_connect" and event.round == 2:  # the third round can't connect to itself then
            holder.bind(("127.0.0.1", dead_port))

    force(dead_port, times=2)
    with socket.socket() as holder, pytest.raises(ConnectionRefusedError) as caught:
        dial("127.0.0.1", dead_port, steer=steer, on_event=hold_the_port)
    # Two self-connects, then the kernel refuses.
    assert not isinstance(caught.value, safedial.SelfConnectError)
    notes = "\n".join(caught.value.__notes__)
    assert "3 rounds" in notes
    assert "self-connect" in notes


@pytest.mark.parametrize("end", [asyncio.CancelledError, KeyboardInterrupt], ids=lambda end: end.__name__)
@pytest.mark.parametrize(
    "retry",
    [
        safedial.retry_if_spurious,
        safedial.retry_if_transient,
        safedial.reconnect().retry,
        safedial.reconnect(also=ConnectionRefusedError).retry,
    ],
    ids=["spurious", "transient", "reconnect", "also"],
)
def test_an_end_from_outside_is_never_retried(retry, end):
    """tenacity asks about it, and the error that was just being handled is linked to it."""

    @tenacity.retry(retry=retry, reraise=True, stop=tenacity.stop_after_attempt(2))
    def dial():
        rounds.append(1)
        try:
            raise safedial.SelfConnectError.at("127.0.0.1", 1)
        except OSError:
            raise end  # noqa: B904  # as a cancellation while the error is handled

    rounds = []
    with pytest.raises(end):
        dial()
    assert rounds == [1]


def test_predicates_work_in_a_users_decorator(dead_port):
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
    def test_server_comes_back(self, dial, dead_port, start_server):
        hook = start_server(dead_port, "retry", round=3)
        ends = dial("127.0.0.1", dead_port, policy=safedial.reconnect(30, 0.001, 0.002), on_event=hook)
        assert ends.peer == ("127.0.0.1", dead_port)

    def test_reconnect_gives_up(self, dial, dead_port, events):
        with pytest.raises(ConnectionRefusedError):
            dial("127.0.0.1", dead_port, policy=safedial.reconnect(0.3, 0.01, 0.05), on_event=events.append)
        assert "retry" in [event.kind for event in events]

    @pytest.mark.parametrize(("passed", "wait", "stops"), [(1, 5, False), (59.5, 0.5, False), (60, 0, True)])
    def test_last_wait_is_cut_and_a_round_follows(self, passed, wait, stops):
        policy = safedial.reconnect(60, first=5)
        state = tenacity.RetryCallState(policy, None, (), {})
        state.start_time, state.outcome_timestamp = 0.0, passed
        assert policy.wait(state) == wait if wait < 2.5 else 2.5 <= policy.wait(state) <= wait
        assert policy.stop(state) == stops

    @given(st.integers(1, 5000), st.floats(0.001, 100), st.floats(0.001, 1000), st.integers())
    def test_wait_is_between_half_and_the_whole_of_the_backoff(self, number, first, cap, seed):
        random.seed(seed)  # or hypothesis would choose the same one each time
        policy = safedial.reconnect(None, first, cap)
        state = tenacity.RetryCallState(policy, None, (), {})
        state.attempt_number = number
        longest = min(cap, first * 2.0 ** min(number - 1, 1000))
        assert longest / 2 <= policy.wait(state) <= longest
        assert not policy.stop(state)

    def test_within_counts_from_the_first_attempt(self, dial, dead_port, events):
        started = []
        policy = tenacity.Retrying(
            retry=safedial.retry_if_transient,
            stop=lambda state: started.append(state.seconds_since_start) or True,
        )
        with pytest.raises(ConnectionRefusedError):
            dial("127.0.0.1", dead_port, policy=policy, on_event=events.append)
        assert started[0] >= events[0].elapsed, "the first round counts too"

    def test_temporary_resolver_failure_is_retried(self, monkeypatch, server):
        answers = [socket.gaierror(socket.EAI_AGAIN, "try again")] * 2
        real = socket.getaddrinfo

        def flaky(*args, **kwds):
            if answers:
                raise answers.pop()
            return real(*args, **kwds)

        monkeypatch.setattr(socket, "getaddrinfo", flaky)
        port = server.getsockname()[1]
        assert dials.DIALS["safe_connect"]("localhost", port, policy=safedial.reconnect(30, 0.001)).peer[1] == port

    def test_each_round_resolves_the_name_again(self, monkeypatch, server, dead_port):
        asked = []

        def moving(*args, **kwds):
            asked.append(args)
            port = dead_port if len(asked) < 3 else server.getsockname()[1]
            return [faults.tcp("127.0.0.1", port)]

        monkeypatch.setattr(socket, "getaddrinfo", moving)
        for name in ("safe_connect", "open_connection"):
            asked.clear()
            assert dials.DIALS[name]("db", 1, policy=safedial.reconnect(30, 0.001)).peer == server.getsockname()
            assert len(asked) == 3

    @given(
        st.integers(1, 5000),
        st.floats(0.001, 10, allow_nan=False),
        st.floats(0.001, 100, allow_nan=False),
    )
    def test_full_jitter_after_the_cap(self, attempt, first, cap):
        policy = safedial.reconnect(60, first, cap)
        state = tenacity.RetryCallState(policy, None, (), {})
        state.attempt_number = attempt
        bound = min(cap, first * 2.0 ** min(attempt - 1, 1000))
        assert all(0 <= policy.wait(state) <= bound * 1.000001 for _ in range(5))

    @given(st.integers(1, 10**6))
    def test_redial_waits_only_if_ports_are_exhausted(self, attempt):
        policy = safedial.redial(10)
        bound = min(5.0, 2.0 ** min(attempt - 1, 10))
        for error, bounds in ((EXHAUSTED, (min(0.5, bound), bound)), (SELF, (0, 0)), (REFUSED, (0, 0))):
            state = tenacity.RetryCallState(policy, None, (), {})
            state.attempt_number = attempt
            state.set_exception((type(error), error, None))
            assert bounds[0] <= policy.wait(state) <= bounds[1]

    def test_waits_for_a_port_grow(self):
        state = tenacity.RetryCallState(safedial.redial(), None, (), {})
        state.set_exception((type(EXHAUSTED), EXHAUSTED, None))
        for attempt, bound in enumerate([1, 2, 4, 5, 5], 1):
            state.attempt_number = attempt
            assert bound / 2 < max(safedial.redial().wait(state) for _ in range(200)) <= bound

    @pytest.mark.parametrize("platform", ["linux", "darwin"])
    def test_first_wait_for_a_port_depends_on_the_system(self, monkeypatch, platform):
        monkeypatch.setattr(sys, "platform", platform)
        state = tenacity.RetryCallState(safedial.redial(), None, (), {})
        state.set_exception((type(EXHAUSTED), EXHAUSTED, None))
        wait = safedial.redial().wait(state)
        assert 0.5 <= wait <= 1 if platform == "linux" else wait == 0


@pytest.mark.storm
def test_default_policy_waits_until_a_port_is_free():
    namespace.require()
    assert namespace.call(wait_for_a_port, port_range=(40000, 40009))


def wait_for_a_port():
    with faults.listener(port=40000) as server:
        address, waits = server.getsockname(), []
        held = [(safedial.safe_connect(address), server.accept()[0]) for _ in range(9)]

        def free_one(event):
            if event.kind == "retry":
                waits.append(event.wait)
                for end in held.pop():
                    end.close()

        safedial.safe_connect(address, on_event=free_one).close()
        for near, far in held:
            near.close()
            far.close()
        return waits


@pytest.mark.parametrize(
    "name",
    [
        *("safe_connect", "Dialer.dial_async"),
        *(pytest.param(name, marks=pytest.mark.storm) for name in ("Dialer.dial", "open_connection")),
    ],
)
def test_retry_if_spurious_gets_the_first_free_port(name, steer):
    namespace.require()
    found = namespace.call(dial_while_ports_come_free, name, steer, port_range=(40000, 40009))
    rounds = [["failed", "failed", "retry"], ["failed", "failed", "retry"], ["failed", "connected"]]
    assert found == [kind for each in rounds for kind in ("resolved", *each)]


def dial_while_ports_come_free(name, steer):
    """Dial two addresses with exhausted ports, and free a port before the third round."""
    kinds = []
    with contextlib.ExitStack() as stack:
        servers, held = [], []
        for host in ("127.0.0.1", "127.0.0.2"):
            server = stack.enter_context(faults.listener(host, 40000))
            servers.append(server)
            with contextlib.suppress(safedial.PortsExhaustedError):
                while True:
                    sock = safedial.safe_connect(server.getsockname(), policy=None, steer=False)
                    held.append(stack.enter_context(sock))

        def hook(event):
            kinds.append(event.kind)
            if event.kind == "retry" and event.round == 2:
                selfconnect.release(held.pop())  # without TIME_WAIT

        policy = retrying(9, 0.01, retry=safedial.retry_if_spurious)
        options = {"resolver": resolvers.servers(*servers), "policy": policy, "on_event": hook, "steer": steer}
        dials.DIALS[name]("db", 1, happy_eyeballs_delay=60, **options)
    return kinds


@pytest.mark.parametrize("bad", [0, -1, 1.5, "3", None, True])
def test_redial_checks_its_argument(bad):
    with pytest.raises((TypeError, ValueError), match="attempts"):
        safedial.redial(bad)


@pytest.mark.parametrize("name", ["within", "first", "cap"])
@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), "1", None, True])
def test_reconnect_checks_its_times(name, bad):
    if (name, bad) == ("within", None):
        return  # without end
    with pytest.raises((TypeError, ValueError), match=name):
        safedial.reconnect(**{name: bad})


@pytest.mark.parametrize(
    "bad", [{"names": None}, {"names": 1}, {"also": None}, {"also": "OSError"}, {"also": (1,)}, {"also": (int,)}]
)
def test_reconnect_checks_its_errors(bad):
    with pytest.raises(TypeError, match=next(iter(bad))):
        safedial.reconnect(**bad)


def test_policies_are_plain_tenacity_objects():
    for policy in (safedial.redial(), safedial.reconnect()):
        assert type(policy) is tenacity.Retrying
        assert policy.reraise
    calls = []

    def dial():
        calls.append(1)
        raise safedial.SelfConnectError.at("127.0.0.1", 80)

    with pytest.raises(safedial.SelfConnectError):
        safedial.redial(2)(dial)
    assert len(calls) == 2
