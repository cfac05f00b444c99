"""Driving a race of blocking sockets: a selector, no threads."""

import selectors
from collections.abc import Callable

from safedial._dial.attempt import Attempt
from safedial._dial.race import Race

# Seconds. epoll_wait(2) takes at most 24 days; asyncio looks up once a day too.
_LONGEST_WAIT = 86_400.0


def run(
    race: Race,
    make: Callable[[int], Attempt],
    failed: Callable[[int, OSError], object],
    clock: Callable[[], float],
) -> Attempt | None:
    """Return the first lane that wins, None where every one failed. The losers are closed.

    *make* returns the lane with that number; *failed* is told why one failed, and tells the race.
    """
    waiting = _Waiting()
    try:
        while True:
            now = clock()
            if (started := race.start(now)) is not None:
                number, limit = started
                try:
                    lane = make(number)
                    if race.alone:
                        lane.connect(limit)  # one system call, where a selector takes several
                        return lane
                    if lane.begin():
                        return lane
                    waiting.add(number, lane)
                except OSError as error:
                    failed(number, error)
                continue
            if not waiting.lanes:
                return None
            for number in waiting.ready(race.wait(now)):
                lane = waiting.remove(number)
                try:
                    if lane.arrived():
                        return lane
                    waiting.add(number, lane)
                except OSError as error:
                    failed(number, error)
            for number in race.overdue(clock()):
                late = TimeoutError("timed out")  # the words of a blocking socket's
                waiting.remove(number).abandon(late)
                failed(number, late)
    finally:
        waiting.close()


class _Waiting:
    """The lanes that wait for an answer, and a selector from the first of them on."""

    def __init__(self) -> None:
        self.lanes: dict[int, Attempt] = {}
        self._selector: selectors.BaseSelector | None = None

    def add(self, number: int, lane: Attempt) -> None:
        try:
            self._selector = self._selector or selectors.DefaultSelector()
            self._selector.register(lane.sock, selectors.EVENT_WRITE, number)
        except BaseException as error:  # a selector takes a descriptor too, and there may be none
            lane.abandon(error)
            raise
        self.lanes[number] = lane

    def remove(self, number: int) -> Attempt:
        assert self._selector is not None
        self._selector.unregister(self.lanes[number].sock)
        return self.lanes.pop(number)

    def ready(self, seconds: float | None) -> list[int]:
        assert self._selector is not None
        wait = _LONGEST_WAIT if seconds is None else min(seconds, _LONGEST_WAIT)
        return sorted(key.data for key, _ in self._selector.select(wait))

    def close(self) -> None:
        for lane in self.lanes.values():
            lane.abandon()
        if self._selector is not None:
            self._selector.close()
