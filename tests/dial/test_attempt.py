"""The timeout of one attempt."""

import pytest

import safedial
from safedial._dial.attempt import Attempt
from safedial._dial.settings import Settings
from tests.support import faults


def test_no_time_left_is_a_timeout_and_not_the_stdlibs_non_blocking_connect(black_hole):
    attempt = Attempt(Settings(), None, None, None, faults.tcp(*black_hole.getsockname()))
    with pytest.raises(TimeoutError):
        attempt.connect(0)


def test_the_longest_that_a_socket_takes_stays_on_it(server):
    with safedial.safe_connect(server.getsockname(), 1e8) as sock:
        assert sock.gettimeout() == 2_147_483
