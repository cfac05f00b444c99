"""The time limit of a dial."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedial._deadline import Deadline


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_wait_that_would_end_too_late_is_refused(total, wait):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: 0.0)
        deadline = Deadline(total, 0.0)
        refused = deadline.refuse(wait)
        assert refused == (wait > total - 0.002)
        assert deadline.met == (refused or total < 0.002)
        assert deadline.cap(wait) == min(wait, total)
        assert Deadline(total, -total - 1).cap(wait) == 0
        assert not Deadline(None, 0.0).refuse(wait)
