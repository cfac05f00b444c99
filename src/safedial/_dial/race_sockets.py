"""Drive a race of blocking sockets with a selector. No threads."""

import selectors
from collections.abc import Callable

from safedial._dial.attempt import Attempt
from safedial._dial.race import Race

# Seconds. epoll_wait(2) takes at most 24 days; asyncio wakes once a day too.
_LONGEST_WAIT = 86_400.0


def run(
    race: Race,
    make: Callable[[int], Attempt],
    failed: Callable[[int, OSError], object],
    clock: Callable[[], float],
) -> Attempt | None:
    """Return the first attempt that succeeds, None if all fail. The other sockets are closed.

    *make* returns the attempt with a number. *failed* gets the error of an attempt, and tells the race.
    """
    waiting = _Waiting()
    try:
        while True:
            now = clock()
            if (started := race.start(now)) is not None:
                number, limit = started
                try:
                    attempt = make(number)
                    if race.alone:
                        attempt.connect(limit)  # one system call; a selector takes several
                        return attempt
                    if attempt.begin():
                        return attempt
                    waiting.add(number, attempt)
                except OSError as error:
                    failed(number, error)
                continue
            if not waiting.attempts:
                return None
            for number in waiting.ready(race.wait(now)):
                attempt = waiting.remove(number)
                try:
                    if attempt.arrived():
                        return attempt
                    waiting.add(number, attempt)
                except OSError as error:
                    failed(number, error)
            for number in race.overdue(clock()):
                late = TimeoutError("timed out")  # a blocking socket's message
                waiting.remove(number).close(late)
                failed(number, late)
    finally:
        waiting.close()


class _Waiting:
    """The attempts that wait for an answer, and the selector that they need."""

    def __init__(self) -> None:
        self.attempts: dict[int, Attempt] = {}
        self._selector: selectors.BaseSelector | None = None

    def add(self, number: int, attempt: Attempt) -> None:
        try:
            self._selector = self._selector or selectors.DefaultSelector()
            self._selector.register(attempt.sock, selectors.EVENT_WRITE, number)
        except BaseException as error:  # a selector needs a descriptor, and none may be free
            attempt.close(error)
            raise
        self.attempts[number] = attempt

    def remove(self, number: int) -> Attempt:
        assert self._selector is not None
        self._selector.unregister(self.attempts[number].sock)
        return self.attempts.pop(number)

    def ready(self, seconds: float | None) -> list[int]:
        assert self._selector is not None
        wait = _LONGEST_WAIT if seconds is None else min(seconds, _LONGEST_WAIT)
        return sorted(key.data for key, _ in self._selector.select(wait))

    def close(self) -> None:
        for attempt in self.attempts.values():
            attempt.close()
        if self._selector is not None:
            self._selector.close()
