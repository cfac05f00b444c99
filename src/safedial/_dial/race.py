"""Racing addresses: which lane starts when (RFC 8305 section 5), and how long each may take.

Decisions only: no socket, no task, no clock. A driver says what time it is and which lane failed,
and is told which lane to start and how long to wait. `race_sockets` drives it with selectors,
`race_tasks` in asyncio. Imports nothing of safedial.
"""

import math

# Seconds. An address gets this much of a total_timeout even where there are too many for all to
# have it; the last ones then go without. Go's partialDeadline (src/net/dial.go) says the same.
SHORTEST_SHARE = 2.0


def fair_share(left: float, addresses: int) -> float:
    """Return the seconds that one attempt may take of the *left* ones, with *addresses* to go.

    That is an equal part, at least `SHORTEST_SHARE`, and never more than what is left.
    """
    return max(0.0, min(left, max(left / addresses, SHORTEST_SHARE)))


class Race:
    """One round of a dial: a lane for each address, in order. Times are the driver's, in seconds.

    A lane starts *delay* after the one before, or at once when that one fails; with *delay* None
    only when it fails. Each may take *timeout* seconds, and its fair share of the time until *end*.
    """

    __slots__ = ("_delay", "_due", "_end", "_ends", "_lanes", "_next", "_timeout", "errors")

    def __init__(
        self, lanes: int, delay: float | None = None, timeout: float | None = None, end: float = math.inf
    ) -> None:
        self._lanes = lanes
        self._delay = math.inf if delay is None else delay
        self._timeout = math.inf if timeout is None else timeout
        self._end = end
        self._next = 0
        self._due = -math.inf  # when the next lane starts
        self._ends: dict[int, float] = {}  # of the running lanes
        self.errors: dict[int, OSError] = {}

    def start(self, now: float) -> tuple[int, float | None] | None:
        """Return the lane that starts *now* and its limit in seconds, None where none does."""
        lane = self._next
        # One lane there must be, or the dial would have no error.
        if lane == self._lanes or now < self._due or (lane and now >= self._end):
            return None
        self._next += 1
        self._due = now + self._delay
        limit = self._timeout
        if self._end != math.inf:
            limit = min(limit, fair_share(self._end - now, self._lanes - lane))
        self._ends[lane] = now + limit
        return lane, None if limit == math.inf else limit

    def failed(self, lane: int, error: OSError, now: float) -> None:
        """Count *lane* out. Where it was the newest, the next one is due."""
        del self._ends[lane]
        self.errors[lane] = error
        if lane == self._next - 1:
            self._due = now

    def overdue(self, now: float) -> list[int]:
        """Return the lanes whose time is over."""
        return [lane for lane, end in self._ends.items() if end <= now]

    def wait(self, now: float) -> float | None:
        """Return the seconds until a lane starts or is overdue, None where none will by itself."""
        wake = min(self._ends.values(), default=math.inf)
        if self._next < self._lanes:
            wake = min(wake, self._due)
        return None if wake == math.inf else max(0.0, wake - now)

    @property
    def alone(self) -> bool:
        """Whether the lane that runs has no company before it ends, and may be waited for."""
        return len(self._ends) == 1 and (self._next == self._lanes or self._due == math.inf)

    @property
    def running(self) -> list[int]:
        """The lanes that have started and not failed."""
        return list(self._ends)

    def failures(self) -> list[OSError]:
        """Return the errors in the order of the addresses, as the stdlib's dials have them."""
        return [self.errors[lane] for lane in sorted(self.errors)]
