"""The time limit of a dial."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedial import _clock
from safedial._deadline import NO_DEADLINE, Deadline


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_wait_is_cut_so_that_a_last_round_can_follow(total, wait):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_clock, "real", lambda: 0.0)
        deadline = Deadline(total, 0.0)
        cut = deadline.cut(wait)
        if wait <= total - 0.002:
            assert cut == wait
        elif total:
            assert cut == total - min(1.0, total / 10)
        else:
            assert cut is None
        assert deadline.passed == (total < 0.002)
        assert deadline.cap(wait) == min(wait, total)
        assert Deadline(total, -total - 1).cap(wait) == 0
        assert Deadline(None, 0.0).cut(wait) == wait


def test_no_wait_begins_if_no_time_is_left_for_a_round(monkeypatch):
    monkeypatch.setattr(_clock, "real", lambda: 9.5)
    deadline = Deadline(10, 0.0)
    assert deadline.cut(0.4) == 0.4
    assert deadline.cut(1.0) is None
    assert deadline.passed
    assert "the wait before the next round, 1.000 s, would have ended too late" in str(deadline.error("db port 1"))
    assert str(deadline.error("db port 1", "[Errno 1] x")).endswith(" too late; the last failure: [Errno 1] x")


@given(st.floats(0, 1e6) | st.none(), st.floats(0, 1e6), st.floats(0.01, 1e6) | st.none())
def test_limit_is_the_shorter_of_both_until_time_is_up(total, passed, seconds):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_clock, "real", lambda: passed)
        deadline = Deadline(total, 0.0)
        if total is not None and total - passed < 0.002:
            assert deadline.passed
            with pytest.raises(TimeoutError, match="timed out"):
                deadline.limit(seconds)
        else:
            assert not deadline.passed
            left = math.inf if total is None else total - passed
            assert deadline.limit(seconds) == min(left, math.inf if seconds is None else seconds)


def test_without_a_total_nothing_is_limited():
    assert NO_DEADLINE.cap(None) is None
    assert NO_DEADLINE.cap(5.0) == 5.0
    assert NO_DEADLINE.cut(1e9) == 1e9
    assert not NO_DEADLINE.passed
    assert NO_DEADLINE.limit(5.0) == 5.0
