"""Drive a race in asyncio: a task for each attempt that does not run alone. Knows nothing of sockets."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

from safedial._dial.race import Race
from safedial._steps import clock_of, within

T = TypeVar("T")
# Gets an attempt's number and its limit in seconds. Returns its result; if it fails, tells the race and returns None.
Attempting: TypeAlias = Callable[[int, float | None], Coroutine[Any, Any, T | None]]


async def run(race: Race, attempt: Attempting[T], discard: Callable[[T], object]) -> T | None:
    """Return the result of the first attempt that succeeds, None if all fail.

    The other attempts are cancelled and awaited; a late result is passed to *discard*.
    """

    def discard_result(task: asyncio.Task[T | None]) -> None:
        if not task.cancelled() and task.exception() is None and (won := task.result()) is not None:
            discard(won)

    clock = clock_of(asyncio.get_running_loop())
    running: dict[asyncio.Task[T | None], int] = {}
    winner: T | None = None
    try:
        while winner is None:
            now = clock()
            if (started := race.start(now)) is not None:
                steps = attempt(*started)
                if race.alone:
                    winner = await steps
                else:
                    running[asyncio.create_task(steps)] = started[0]
            elif running:
                with contextlib.suppress(TimeoutError):
                    await within(race.wait(now), asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))
                done = sorted((task for task in running if task.done()), key=running.__getitem__)
                while done and winner is None:
                    del running[done[0]]
                    winner = done.pop(0).result()  # don't bind the task: its exception holds this frame, a cycle
            else:
                break
    finally:
        for task in running:
            task.add_done_callback(discard_result)
            task.cancel()
        try:
            if running:
                await asyncio.wait(running)
        except BaseException:
            if winner is not None:
                discard(winner)
            raise
    return winner
