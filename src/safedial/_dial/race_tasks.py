"""Driving a race in asyncio: a task for each lane that has company.

Knows nothing of sockets and addresses. A lane is a coroutine that returns what it won, or tells
the race that it failed and returns None.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

from safedial._dial.race import Race

T = TypeVar("T")
Lane: TypeAlias = Callable[[int, float | None], Coroutine[Any, Any, T | None]]


async def run(race: Race, lane: Lane[T], discard: Callable[[T], object]) -> T | None:
    """Return the first thing that a lane wins, None where every lane failed.

    *lane* is called with the lane's number and its limit in seconds. Losers are cancelled and
    awaited; what one of them wins all the same goes to *discard*.
    """

    def discard_result(task: asyncio.Task[T | None]) -> None:
        if not task.cancelled() and task.exception() is None and (won := task.result()) is not None:
            discard(won)

    running: dict[asyncio.Task[T | None], int] = {}
    winner: T | None = None
    try:
        winner = await _first_to_win(race, lane, running)
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


async def _first_to_win(race: Race, lane: Lane[T], running: "dict[asyncio.Task[T | None], int]") -> T | None:
    clock = asyncio.get_running_loop().time
    while True:
        now = clock()
        if (started := race.start(now)) is not None:
            attempt = lane(*started)
            if not race.alone:
                running[asyncio.create_task(attempt)] = started[0]
            elif (winner := await attempt) is not None:
                return winner
        elif not running:
            return None
        else:
            await asyncio.wait(running, timeout=race.wait(now), return_when=asyncio.FIRST_COMPLETED)
            done = sorted((task for task in running if task.done()), key=running.__getitem__)
            while done:
                del running[done[0]]
                # No name for the task: what it raises holds this frame, which would make a cycle.
                if (winner := done.pop(0).result()) is not None:
                    return winner
