"""One error that represents the errors of all addresses."""

import errno
import pickle

import pytest

import safedial
from safedial._dial.record import combined_error, last_error
from safedial._retry.transient import is_spurious

SELF = safedial.SelfConnectError.at("127.0.0.1", 80)
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
BAD_SOURCE = OSError(errno.EADDRNOTAVAIL, "bind")


def test_combined_error_has_an_errno_only_if_all_share_it():
    assert combined_error([REFUSED, OSError(errno.ENETUNREACH, "unreachable")]).errno is None
    assert combined_error([REFUSED, ConnectionRefusedError(errno.ECONNREFUSED, "no")]).errno == errno.ECONNREFUSED


@pytest.mark.parametrize("choose", [last_error, combined_error])
@pytest.mark.parametrize("order", [1, -1])
def test_spurious_error_of_another_address_is_found(choose, order):
    errors = [SELF, BAD_SOURCE][::order]
    assert is_spurious(choose(errors))


def test_errors_of_other_addresses_survive_pickling():
    copy = pickle.loads(pickle.dumps(last_error([SELF, OSError(errno.EACCES, "denied")])))
    assert is_spurious(copy)
