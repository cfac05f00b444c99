"""What `unittest` does not tell a context manager that it ends: how its test has ended.

``enterContext`` ends it in a cleanup, as if no exception had been raised.
"""

import inspect
from typing import Any


def has_failed_or_skipped() -> bool:
    """Return whether a test of unittest calls this, or its cleanup, after it has failed or was skipped."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "unittest.case" and frame.f_code.co_name == "run":
            return _is_told(**{name: frame.f_locals.get(name) for name in ("self", "result", "outcome")})
        frame = frame.f_back
    return False


def _is_told(self: Any, result: Any, outcome: Any) -> bool:
    entries = [entry for kind in ("failures", "errors", "skipped") for entry in getattr(result, kind, ())]
    told = [getattr(test, "test_case", test) for test, _ in entries]  # of a subtest, the test that it is part of
    expected = getattr(outcome, "expectedFailure", None)
    return self in told or bool(expected) or bool(getattr(result, "_excinfo", None))  # the last is pytest's
