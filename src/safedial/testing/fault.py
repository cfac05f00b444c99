"""A fault that is switched on: what it must hit, what it hit, and what it says if it hit nothing."""

import contextlib
import threading
import warnings
from collections.abc import Generator
from typing import Any, Literal, NamedTuple, TypeAlias

from safedial._address import describe
from safedial.testing import unittests
from safedial.testing.manager import place_of_user
from safedial.testing.ports import check_port, check_whole

# As in `resilience`.
__tracebackhide__ = __unittest = True

Means: TypeAlias = Literal["IP_LOCAL_PORT_RANGE", "bind", "simulated"]
# What happens when a fault ends that has hit nothing: its test shows less than it seems to.
Unused: TypeAlias = Literal["error", "warn", "ignore"]
_UNUSED = ("error", "warn", "ignore")
# What a message names, of all that went elsewhere: a loop may have dialed many ports, and a name may be long.
_MOST_SEEN = 5
_LONGEST = 200


class Wording(NamedTuple):
    """What a fault hits, in the words of its message."""

    hit: str
    instead: str
    nothing: str


_ELSEWHERE = "or not at all, or in another process"
CONNECTS = Wording("connect", "dialed instead", f"no Python connect() was seen: the client dials in C, {_ELSEWHERE}")
LOOKUPS = Wording(
    "look-up", "looked up instead", f"no look-up by Python was seen: the client resolves names in C, {_ELSEWHERE}"
)


class Fault:
    """A fault that is switched on. It counts what it hits: connects, or the look-ups of a `name_failure`.

    Attributes:
        port: the port that connects must go to for the fault; None for any port.
        triggered: how many it has hit.
        means: how the last one was made; None before the first. ``bind``: the source port was bound.
            ``simulated``: the kernel offers no way, so the error was raised without a connect.
    """

    # *call* is what the user wrote, for messages: "self_connect(40000)".
    def __init__(
        self, call: str, port: int | None, times: int | None, unused: Unused, wording: Wording = CONNECTS
    ) -> None:
        if port is not None:
            check_port(port)
        if times is not None:
            check_whole("times", times)
        if unused not in _UNUSED:
            kind = ValueError if isinstance(unused, str) else TypeError
            raise kind(f"unused must be one of {', '.join(_UNUSED)}, not {unused!r}")
        self.port = port
        self.triggered = 0
        self.means: Means | None = None
        self._call, self._times, self._unused, self._wording = call, times, unused, wording
        self._place = place_of_user()
        # What it left alone, in words, and how often; and how much more there was.
        self._seen: dict[str, int] = {}
        self._unnamed = 0
        self._lock = threading.Lock()

    @property
    def remaining(self) -> int | None:
        """How many more it will hit; None for all."""
        return None if self._times is None else self._times - self.triggered

    def is_for(self, address: Any) -> bool:
        """Return whether *address* has the port of this fault."""
        return self.port is None or address[1] == self.port

    def trigger(self, address: Any) -> bool:
        """Return whether what goes to *address* must fail; if so, count it. If it is not for this fault, note it."""
        with self._lock:
            if not self.is_for(address):
                self._note(describe(*address[:2]))
                return False
            if self.remaining == 0:
                return False
            self.triggered += 1
            return True

    def revert(self, seen: str) -> None:
        """Uncount the last connect: the fault could not be made. *seen* says what happened instead."""
        with self._lock:
            self.triggered -= 1
            self._note(seen)

    def note(self, seen: str) -> None:
        """Remember something that the fault left alone, in words."""
        with self._lock:
            self._note(seen)

    def end_early(self, by: str) -> None:
        """Remember that *by* has ended it, in case that it had hit nothing."""
        self._wording = self._wording._replace(nothing=f"{by} ended it before a dial")

    def _note(self, seen: str) -> None:
        seen = seen[:_LONGEST]
        if seen in self._seen or len(self._seen) < _MOST_SEEN:
            self._seen[seen] = self._seen.get(seen, 0) + 1
        else:
            self._unnamed += 1

    def check_hit(self, *, raises: bool = True) -> None:
        """Raise AssertionError if it *raises*, or warn, if it has hit nothing."""
        if self.triggered or self._unused == "ignore" or unittests.has_failed_or_skipped():
            return
        if self._unused == "error" and raises:
            raise AssertionError(self._said())
        # Not from here: a fixture ends when its user's test is no longer on the stack.
        warnings.warn_explicit(self._said(), UserWarning, *self._place)

    def _said(self) -> str:
        with self._lock:  # a client may still dial
            found = list(self._seen.items())
        seen = [words if times == 1 else f"{words} ({times} times)" for words, times in found]
        if self._unnamed:
            seen.append(f"{self._unnamed} more")
        instead = f"{self._wording.instead}: {'; '.join(seen)}" if seen else self._wording.nothing
        return f"{self._call} hit no {self._wording.hit}; {instead}"


@contextlib.contextmanager
def must_hit(fault: Fault) -> Generator[Fault]:
    """Yield *fault*, and after the block check that it has hit something. An exception of the block says more."""
    yield fault
    fault.check_hit()
