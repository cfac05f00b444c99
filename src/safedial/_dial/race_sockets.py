"""Drive a race of blocking sockets with a selector. No threads."""

import selectors
from collections.abc import Callable

from safedial._dial.attempt import Attempt
from safedial._dial.race import Race


def run(
    race: Race, make: Callable[[int], Attempt], failed: Callable[[int, OSError], object], clock: Callable[[], float]
) -> Attempt | None:
    """Return the first attempt that succeeds, None if all fail. The other sockets are closed.

    *make* returns the attempt with a number. *failed* gets the error of an attempt, and tells the race.
    """
    waiting: dict[int, Attempt] = {}
    selector: selectors.BaseSelector | None = None

    def add(number: int, attempt: Attempt) -> None:
        nonlocal selector
        try:
            selector = selector or selectors.DefaultSelector()
            selector.register(attempt.sock, selectors.EVENT_WRITE, number)
        except BaseException as error:  # a selector needs a descriptor, and none may be free
            attempt.close(error)
            raise
        waiting[number] = attempt

    def remove(number: int) -> Attempt:
        assert selector is not None
        selector.unregister(waiting[number].sock)
        return waiting.pop(number)

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
                    add(number, attempt)
                except OSError as error:
                    failed(number, error)
                continue
            if selector is None or not waiting:
                return None
            numbers: list[int] = sorted(key.data for key, _ in selector.select(race.wait(now)))
            for number in numbers:
                attempt = remove(number)
                try:
                    if attempt.arrived():
                        return attempt
                    add(number, attempt)
                except OSError as error:
                    failed(number, error)
            for number in race.overdue(clock()):
                late = TimeoutError("timed out")  # a blocking socket's message
                remove(number).close(late)
                failed(number, late)
    finally:
        for attempt in waiting.values():
            attempt.close()
        if selector is not None:
            selector.close()
