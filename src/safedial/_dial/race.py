"""Racing addresses: when each attempt starts (RFC 8305 section 5), and how long it may take.

Decisions only: no socket, no task, no clock. The caller passes the time and the failures, and asks which attempt
to start and how long to wait. The callers are `race_sockets` (a selector) and `race_tasks` (asyncio).
"""

import itertools
import math

# Seconds. If there are too many addresses for each to get so much, the last ones get nothing. As in Go's
# partialDeadline (src/net/dial.go).
_SHORTEST_SHARE = 2.0
# Seconds. epoll_wait(2) takes at most 24 days; asyncio wakes once a day too.
_LONGEST_WAIT = 86_400.0


def fair_share(left: float, addresses: int) -> float:
    """Return the seconds that one attempt may take if *left* seconds are left for *addresses* attempts."""
    return max(0.0, min(left, max(left / addresses, _SHORTEST_SHARE)))


class Race:
    """One round of a dial: an attempt for each address, numbered in order. Times are the driver's, in seconds.

    An attempt starts *delay* after the one before, or at once if that one fails; with *delay* None only
    if it fails. Each may take *timeout* seconds, and its fair share of the time until *end*.
    """

    __slots__ = ("_addresses", "_delay", "_due", "_end", "_next", "_timeout", "running")

    def __init__(
        self, addresses: int, delay: float | None = None, timeout: float | None = None, end: float = math.inf
    ) -> None:
        self._addresses = addresses
        self._delay = math.inf if delay is None else delay
        self._timeout = math.inf if timeout is None else timeout
        self._end = end
        self._next = 0
        self._due = -math.inf  # when the next attempt starts
        # The attempts that have started and not failed, and when each is overdue. Who started first is overdue first: a
        # later one has the same timeout, and a share of the time that ends later. So nothing has to be searched.
        self.running: dict[int, float] = {}

    def start(self, now: float) -> tuple[int, float | None] | None:
        """Return the attempt that starts *now* and its limit in seconds, None if none does."""
        number = self._next
        # Always start the first attempt, or the dial would have no error.
        if number == self._addresses or now < self._due or (number and now >= self._end):
            return None
        self._next += 1
        self._due = now + self._delay
        limit = self._timeout
        if self._end != math.inf:
            limit = min(limit, fair_share(self._end - now, self._addresses - number))
        self.running[number] = now + limit
        return number, None if limit == math.inf else limit

    def failed(self, number: int, now: float) -> None:
        """Note that attempt *number* failed. If it was the newest, the next one is due."""
        del self.running[number]
        if number == self._next - 1:
            self._due = now

    def overdue(self, now: float) -> list[int]:
        """Return the attempts whose time is up."""
        first = itertools.takewhile(lambda attempt: attempt[1] <= now, self.running.items())
        return [number for number, _ in first]

    def wait(self, now: float) -> float:
        """Return the seconds until an attempt starts or is overdue, at most a day."""
        wake = next(iter(self.running.values()), math.inf)
        if self._next < self._addresses:
            wake = min(wake, self._due)
        return max(0.0, min(wake - now, _LONGEST_WAIT))

    @property
    def alone(self) -> bool:
        """Whether no other attempt runs or starts before the running one ends."""
        return len(self.running) == 1 and (self._next == self._addresses or self._due == math.inf)
