"""The failures of other people's code, parted from what was being handled when it was called."""

import sys


class Failures:
    """Parts what an attempt raised from what the caller was handling before, of which the policy must
    not see anything: a reconnect is often made in an ``except`` block. The last one is put together again.
    """

    def __init__(self) -> None:
        self._handled = sys.exception()
        self._last: Exception | None = None
        self._context: BaseException | None = None
        self._link: BaseException | None = None

    def keep(self, error: Exception) -> Exception:
        """Take note of *error*, as it was raised, and return it, apart."""
        link: BaseException | None = error if self._handled is not None else None
        for _ in range(100):  # a chain may be a ring
            if link is None or link.__context__ is self._handled:
                break
            link = link.__context__
        else:
            link = None
        if link is not None:
            link.__context__ = None
        self._last, self._context, self._link = error, error.__context__, link
        return error

    def restore(self, error: Exception) -> None:
        """Make *error* what it was when it was raised: raising it anew has changed its context."""
        if error is self._last:
            error.__context__ = self._context
            if self._link is not None:
                self._link.__context__ = self._handled

    def clear(self) -> None:
        """Forget them: their tracebacks hold frames that hold this."""
        self._handled = self._last = self._context = self._link = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception):
            self.keep(error)
