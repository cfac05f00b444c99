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
            of_run = frame.f_locals.get  # the local variables of TestCase.run()
            return _is_recorded(of_run("self"), of_run("result"), of_run("outcome"))
        frame = frame.f_back
    return False


def _is_recorded(test: Any, result: Any, outcome: Any) -> bool:
    """Return whether *result* or *outcome* says that *test* has failed or was skipped."""
    entries = [entry for kind in ("failures", "errors", "skipped") for entry in getattr(result, kind, ())]
    recorded = [getattr(each, "test_case", each) for each, _ in entries]  # of a subtest, the test that it is part of
    expected = getattr(outcome, "expectedFailure", None)
    return test in recorded or bool(expected) or bool(getattr(result, "_excinfo", None))  # the last is pytest's
