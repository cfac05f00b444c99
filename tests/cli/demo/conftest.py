import pytest

from tests.support import faults


@pytest.fixture
def kernel_forces():
    """Scene 2 can be forced."""
    faults.require_option()
