"""Errors that are logged while a client runs. pytest keeps each record of a test, its error, and what that refers to.

So a pool that is garbage would stay open, and be taken for a leak: urllib3 logs the error of each dial that it retries.
"""

import contextlib
import inspect
import logging
import weakref
from collections.abc import Generator, Mapping
from traceback import walk_tb
from types import FrameType
from typing import Any

from safedial._clients import patch
from safedial._clients.attributes import Replacement
from safedial.testing.raised import error_chain

# Frames that may be suspended: to clear one would end the coroutine.
_SUSPENDS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Logged:
    """The records that were made meanwhile. It keeps none of them alive."""

    def __init__(self) -> None:
        self._records: list[weakref.ref[logging.LogRecord]] = []

    def making(self, plain: Any) -> Any:
        """Return what takes the place of ``LogRecord.__init__``."""

        def init(record: logging.LogRecord, *args: Any, **kwds: Any) -> None:
            plain(record, *args, **kwds)
            self._records.append(weakref.ref(record))

        return init

    def forget_variables(self) -> None:
        """Clear the variables of the frames that raised the errors that were logged. The tracebacks stay."""
        for reference in self._records:
            if (record := reference()) is not None:
                for error in _errors(record):
                    for each in error_chain(error):
                        for frame, _ in walk_tb(each.__traceback__):
                            _clear(frame)


def _errors(record: logging.LogRecord) -> list[BaseException]:
    args = record.args.values() if isinstance(record.args, Mapping) else record.args or ()
    return [each for each in (*args, *(record.exc_info or ())) if isinstance(each, BaseException)]


def _clear(innermost: FrameType) -> None:
    frame: FrameType | None = innermost
    while frame is not None and not frame.f_code.co_flags & _SUSPENDS:
        try:
            frame.clear()
        except RuntimeError:  # it is running
            return
        frame = frame.f_back  # which an older frame keeps alive


@contextlib.contextmanager
def logged() -> Generator[Logged]:
    """Yield the `Logged` of what this process logs in the meantime."""
    found = Logged()
    with patch.lock:
        replacement = Replacement(logging.LogRecord, "__init__", found.making)
    try:
        yield found
    finally:
        with patch.lock:
            replacement.undo()
