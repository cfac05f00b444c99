"""The time limit of a whole dial, and its error. Of safedial it imports `_clock`."""

import errno
import math

from safedial import _clock

# Seconds. With less left, time is up: uvloop's timers count milliseconds, and fire up to 2 ms early.
_TICK = 0.002
# Seconds. A last round that begins so long before the end has time for a handshake around the world.
_LAST_ROUND = 1.0


class Deadline:
    """The time at which a dial must be over: *total* seconds after it *started*."""

    def __init__(self, total: float | None, started: float) -> None:
        self.total = total
        self.end = math.inf if total is None else started + total
        self._ahead = _clock.ahead()
        self.late_wait: float | None = None  # the wait that would have ended too late, if there was one

    def _left(self) -> float:
        # Not _clock.now(): in another thread, fast_retries may have advanced it less, and time does not go back.
        self._ahead = max(self._ahead, _clock.ahead())
        return self.end - _clock.real() - self._ahead

    def limit(self, seconds: float | None) -> float | None:
        """Return *seconds* or the time left, whichever is less. Raise TimeoutError if time is up."""
        left = self._left()
        if left < _TICK:
            raise TimeoutError("timed out")
        return left if seconds is None or left < seconds else seconds

    def cap(self, seconds: float | None) -> float | None:
        """Return *seconds* or the time left, whichever is less, 0 if time is up. None is no limit."""
        if self.end == math.inf:
            return seconds
        left = max(0.0, self._left())
        return left if seconds is None else min(seconds, left)

    def cut(self, wait: float) -> float | None:
        """Return *wait* seconds, or fewer if too little time would be left for another round; None if time is up.

        A wait that is cut leaves a tenth of the time limit for the last round, at most a second.
        """
        if self.total is None:
            return wait
        left = self._left()
        if wait <= left - _TICK:
            return wait
        cut = left - min(_LAST_ROUND, self.total / 10)
        if cut > 0:
            return cut
        self.late_wait = wait
        return None

    @property
    def passed(self) -> bool:
        """Whether time is up."""
        return self.end != math.inf and (self.late_wait is not None or self._left() < _TICK)

    def error(self, dialed: str, failure: str = "") -> TimeoutError:
        """Return the error of a dial of *dialed*, a host and port in words, that this time limit ended.

        *failure* is what the last attempt that failed before said.
        """
        text = f"Timed out: {dialed} could not be reached within total_timeout, {self.total:g} s"
        if self.late_wait is not None:
            text += f"; the wait before the next round, {self.late_wait:.3f} s, would have ended too late"
        if failure:
            text += f"; the last failure: {failure}"
        return TimeoutError(errno.ETIMEDOUT, text)


NO_DEADLINE = Deadline(None, 0.0)  # shared by all dials without a limit
