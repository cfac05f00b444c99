"""The argument *policy*: its default and its check."""

import pytest
import tenacity

import safedial
from safedial._retry import policies


def test_refused_connection_is_not_retried_and_loads_no_tenacity(dial, dead_port, monkeypatch):
    monkeypatch.delattr(policies, "default_policy")
    with pytest.raises(ConnectionRefusedError) as caught:
        dial("127.0.0.1", dead_port)
    assert "1 round," in caught.value.__notes__[0]


def test_policy_that_cannot_be_copied_is_an_error(dial):
    class Uncopied(tenacity.Retrying):
        def __init__(self, attempts):
            super().__init__(stop=tenacity.stop_after_attempt(attempts))

    with pytest.raises(TypeError, match=r"policy: Uncopied\.copy\(\)"):
        dial("127.0.0.1", 1, policy=Uncopied(3))


def test_each_policy_is_checked():
    class Sometimes(tenacity.Retrying):
        broken = False

        def copy(self, *args, **kwds):
            if self.broken:
                raise TypeError("broken")
            return super().copy(*args, **kwds)

    good, bad = Sometimes(), Sometimes()
    bad.broken = True
    safedial.Dialer(policy=good)
    with pytest.raises(TypeError, match=r"Sometimes\.copy\(\) must work"):
        safedial.Dialer(policy=bad)
