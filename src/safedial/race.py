"""Racing addresses in asyncio: staggered starts, first success wins (RFC 8305 section 5).

Knows nothing of sockets and addresses; a lane is any coroutine function that returns what it won,
or None when it failed.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Lane: TypeAlias = Callable[[], Coroutine[Any, Any, T | None]]


async def race(lanes: Iterable[Lane[T]], delay: float, discard: Callable[[T], object]) -> T | None:
    """Return the first thing that a lane wins, None where every lane failed.

    The next lane starts *delay* seconds after the one before, or at once when that one fails.
    Losers are cancelled and awaited; what one of them wins all the same goes to *discard*.
    """

    def discard_result(task: asyncio.Task[T | None]) -> None:
        if not task.cancelled() and task.exception() is None and (won := task.result()) is not None:
            discard(won)

    running: set[asyncio.Task[T | None]] = set()
    winner: T | None = None
    try:
        winner = await _first_to_win(lanes, delay, running)
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


async def _first_to_win(lanes: Iterable[Lane[T]], delay: float, running: "set[asyncio.Task[T | None]]") -> T | None:
    loop = asyncio.get_running_loop()
    for lane in lanes:
        newest = asyncio.create_task(lane())
        running.add(newest)
        next_start = loop.time() + delay
        while newest in running and (left := next_start - loop.time()) > 0:
            if (winner := await _first_done(running, left)) is not None:
                return winner
    while running:
        if (winner := await _first_done(running, None)) is not None:
            return winner
    return None


async def _first_done(running: "set[asyncio.Task[T | None]]", seconds: float | None) -> T | None:
    done, _ = await asyncio.wait(running, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        running.discard(task)
        if (won := task.result()) is not None:
            return won
    return None
