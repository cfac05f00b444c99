"""The one error that stands for the errors of all addresses."""

import errno
import pickle

import pytest

import safedial
from safedial._dial.outcome import combined_error, last_error
from safedial._retry.transient import is_spurious

SELF = safedial.SelfConnectError.at("127.0.0.1", 80)
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
BAD_SOURCE = OSError(errno.EADDRNOTAVAIL, "bind")


def test_combined_error_has_no_errno_that_is_not_shared():
    assert combined_error([REFUSED, OSError(errno.ENETUNREACH, "unreachable")]).errno is None
    assert combined_error([REFUSED, ConnectionRefusedError(errno.ECONNREFUSED, "no")]).errno == errno.ECONNREFUSED


@pytest.mark.parametrize("choose", [last_error, combined_error])
@pytest.mark.parametrize("order", [1, -1])
def test_a_spurious_fault_behind_another_addresss_error(choose, order):
    errors = [SELF, BAD_SOURCE][::order]
    assert is_spurious(choose(errors))


def test_what_one_address_said_travels_with_the_error():
    copy = pickle.loads(pickle.dumps(last_error([SELF, OSError(errno.EACCES, "denied")])))
    assert is_spurious(copy)
