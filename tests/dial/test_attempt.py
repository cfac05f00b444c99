"""The limits of one attempt's timeout."""

import pytest

import safedial
from safedial._dial.attempt import Attempt
from safedial._dial.settings import Settings
from tests.support import faults


def test_limit_0_is_a_timeout_and_not_a_non_blocking_connect(black_hole):
    attempt = Attempt(Settings(), None, None, None, faults.tcp(*black_hole.getsockname()))
    with pytest.raises(TimeoutError):
        attempt.connect(0)


def test_timeout_longer_than_a_socket_allows_is_shortened(server):
    with safedial.safe_connect(server.getsockname(), 1e8) as sock:
        assert sock.gettimeout() == 2_147_483
