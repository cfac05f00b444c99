"""The argument *policy*."""

import pytest
import tenacity

from safedial._retry import policies


def test_refused_stays_refused_at_once_without_loading_tenacity(dial, dead_port, monkeypatch):
    monkeypatch.setattr(policies, "default_policy", None)
    with pytest.raises(ConnectionRefusedError) as caught:
        dial("127.0.0.1", dead_port)
    assert "1 round," in caught.value.__notes__[0]


def test_subclass_that_cannot_be_copied_is_refused_at_once(dial):
    class Mine(tenacity.Retrying):
        def __init__(self, attempts):
            super().__init__(stop=tenacity.stop_after_attempt(attempts))

    with pytest.raises(TypeError, match=r"policy: Mine\.copy\(\)"):
        dial("127.0.0.1", 1, policy=Mine(3))
