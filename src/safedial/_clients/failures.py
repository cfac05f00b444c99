"""The failures of other people's code, prepared for a policy."""

import sys

from safedial._retry.transient import errors_of


class Failures:
    """Detaches each failure of a dial from the exception that the caller is handling, such as a lost connection."""

    def __init__(self) -> None:
        # Python makes it the context of each new exception, and a policy would find it there.
        self._handled = sys.exception()
        # The last failure, its own context, and the errors whose context was the handled exception.
        self._last: tuple[Exception, BaseException | None, list[BaseException]] | None = None

    def detach(self, error: Exception) -> None:
        """Remove the handled exception from the chain of exceptions behind *error*."""
        links = [each for each in errors_of(error) if each.__context__ is self._handled]
        for link in links:
            link.__context__ = None
        self._last = error, error.__context__, links

    def restore(self, error: Exception) -> None:
        """Give *error* the context that it was raised with: raising it again has changed it."""
        if self._last is not None and error is self._last[0]:
            _, error.__context__, links = self._last
            for link in links:
                link.__context__ = self._handled

    def clear(self) -> None:
        """Drop the exceptions: their tracebacks hold frames that hold this object."""
        self._handled = self._last = None
