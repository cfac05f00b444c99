"""A fault that is switched on: what it must hit, what it hit, and what it says if it hit nothing."""

import contextlib
import threading
import warnings
from collections.abc import Generator
from typing import Any, Literal, TypeAlias

from safedial._address import describe
from safedial.testing.ports import check_port, check_whole

Means: TypeAlias = Literal["IP_LOCAL_PORT_RANGE", "bind", "simulated"]
# What happens when a fault ends that has hit nothing: its test shows less than it seems to.
Unused: TypeAlias = Literal["error", "warn", "ignore"]
_UNUSED = ("error", "warn", "ignore")
# Destinations that a message names.
_MOST_SEEN = 5


class Fault:
    """A fault that is switched on. It counts the connects that it hits.

    Attributes:
        port: the port that connects must go to for the fault; None for any port.
        triggered: how many connects it has hit.
        means: how the last one was made; None before the first. ``bind``: the source port was bound.
            ``simulated``: the kernel offers no way, so the error was raised without a connect.
    """

    def __init__(self, call: str, port: int | None, times: int | None, unused: Unused) -> None:
        if port is not None:
            check_port(port)
        if times is not None:
            check_whole("times", times)
        if unused not in _UNUSED:
            raise ValueError(f"unused must be one of {', '.join(_UNUSED)}, not {unused!r}")
        self.port = port
        self.triggered = 0
        self.means: Means | None = None
        self._call, self._times, self._unused = call, times, unused
        # What went elsewhere, in words, and how often.
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def remaining(self) -> int | None:
        """How many more connects it will hit; None for all."""
        return None if self._times is None else self._times - self.triggered

    def trigger(self, address: Any) -> bool:
        """Return whether a connect to *address* must fail; if so, count it."""
        with self._lock:
            if self.port not in (None, address[1]) or self.remaining == 0:
                self._note(describe(*address[:2]))
                return False
            self.triggered += 1
            return True

    def revert(self, why: str) -> None:
        """Uncount the last connect: the fault could not be made, for the reason *why*."""
        with self._lock:
            self.triggered -= 1
            self._note(why)

    def _note(self, seen: str) -> None:
        if seen in self._seen or len(self._seen) < _MOST_SEEN:
            self._seen[seen] = self._seen.get(seen, 0) + 1

    def end(self) -> None:
        """Raise AssertionError or warn if it has hit nothing."""
        if self.triggered or self._unused == "ignore":
            return
        instead = ", ".join(f"{seen} ({times} times)" if times > 1 else seen for seen, times in self._seen.items())
        instead = f"dialed instead: {instead}" if instead else "no Python connect() was seen"
        said = f"{self._call} hit no connect; {instead}"
        if self._unused == "error":
            raise AssertionError(said)
        warnings.warn(said, stacklevel=2)


@contextlib.contextmanager
def lasting(fault: Fault) -> Generator[Fault]:
    """Yield *fault*, and end it after the block. An exception of the block says more than an unused fault does."""
    yield fault
    fault.end()
