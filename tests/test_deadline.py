"""The time limit of a dial."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedial._deadline import NO_DEADLINE, Deadline


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_wait_that_would_end_too_late_is_refused(total, wait):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: 0.0)
        deadline = Deadline(total, 0.0)
        refused = deadline.ends_before(wait)
        assert refused == (wait > total - 0.002)
        assert deadline.passed == (refused or total < 0.002)
        assert deadline.cap(wait) == min(wait, total)
        assert Deadline(total, -total - 1).cap(wait) == 0
        assert not Deadline(None, 0.0).ends_before(wait)


@given(st.floats(0, 1e6) | st.none(), st.floats(0, 1e6), st.floats(0.01, 1e6) | st.none())
def test_limit_is_the_shorter_of_both_until_time_is_up(total, passed, seconds):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: passed)
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
    assert not NO_DEADLINE.ends_before(1e9)
    assert not NO_DEADLINE.passed
    assert NO_DEADLINE.limit(5.0) == 5.0
