"""Run a coroutine without an event loop; wait in asyncio or trio, whichever runs. Imports `_clock` and `_forks`.

Code that blocking and async dials share is a coroutine. A blocking dial runs it with `finish`: it never suspends.
"""

import contextlib
import math
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from safedial import _clock
from safedial._forks import loading

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

T = TypeVar("T")
# Seconds that an event loop stops for at a time, while its clock stands still.
_TURN = 0.001


def finish(steps: Coroutine[Any, Any, T], otherwise: str = "a blocking dial can't await anything") -> T:
    """Return the result of *steps*, which must not suspend. If they do, raise TypeError(*otherwise*)."""
    try:
        steps.send(None)
    except StopIteration as done:
        return cast("T", done.value)
    except RuntimeError as error:
        # A plain function may raise StopIteration; a coroutine turns it into RuntimeError (PEP 479).
        if isinstance(error.__cause__, StopIteration) and error.args == ("coroutine raised StopIteration",):
            raise error.__cause__ from None
        raise
    steps.close()
    raise TypeError(otherwise)


async def within(seconds: float | None, steps: Awaitable[T]) -> T:
    """Await *steps* for at most *seconds*; then raise TimeoutError with a blocking socket's message."""
    if seconds is None:
        return await steps
    if (trio := running_trio()) is not None:
        with trio.move_on_after(seconds):
            return await steps
        raise TimeoutError("timed out")
    with loading:
        import asyncio

    loop, limit = asyncio.get_running_loop(), asyncio.timeout(seconds)
    try:
        async with limit:
            if not _is_frozen(loop.time):
                return await steps
            with _alarm(seconds, loop, limit):
                return await steps
    except TimeoutError:
        if limit.expired():
            raise TimeoutError("timed out") from None
        raise


async def sleep(seconds: float) -> None:
    """Sleep in the async library that runs."""
    pause: Callable[[float], Awaitable[None]]
    if (trio := running_trio()) is not None:
        pause, clock = trio.sleep, trio.current_time
    else:
        with loading:
            import asyncio

        pause, clock = asyncio.sleep, asyncio.get_running_loop().time
    if not seconds or not _is_frozen(clock):
        await pause(seconds)
        return
    # Timers stand still too. So a wait would never end, where another library's dial would have raised its error.
    end = _clock.real() + seconds
    while (left := end - _clock.real()) > 0:
        time.sleep(min(left, _TURN))  # noqa: ASYNC251  # a test that freezes its clock has no other tasks that hurry
        await pause(0)


def clock_of(loop: "AbstractEventLoop") -> Callable[[], float]:
    """Return the clock that time limits go by in *loop*: its own, or one that runs if that stands still."""
    return _clock.real if _is_frozen(loop.time) else loop.time


@contextlib.contextmanager
def _alarm(seconds: float, loop: "AbstractEventLoop", limit: Any) -> Generator[None]:
    """End *limit*, an asyncio.Timeout, after *seconds* in a *loop* whose timers stand still: a thread's do not."""

    def end(later: Callable[..., Any], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # it is over already
            later(*args)

    alarm = threading.Timer(seconds, end, [loop.call_soon_threadsafe, end, limit.reschedule, -math.inf])
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()


def _is_frozen(clock: Callable[[], float]) -> bool:
    """Return whether freezegun, or time-machine 2, has stopped the *clock* of an event loop."""
    # They move time.monotonic() far away. The loop's clock runs if theirs ticks, or with freezegun's real_asyncio=True.
    return abs(time.monotonic() - _clock.real()) > 1 and clock() == clock()


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Return the result of the blocking *function*, called in a thread."""
    if (trio := running_trio()) is not None:
        result: T = await trio.to_thread.run_sync(function, *args)
        return result
    with loading:
        import asyncio

    return await asyncio.to_thread(function, *args)


def in_event_loop() -> bool:
    """Return whether an event loop runs in this thread, asyncio's or trio's. It must not wait for a disk."""
    # None while another thread imports asyncio just now.
    running = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)
    return (running is not None and running() is not None) or running_trio() is not None


def running_trio() -> Any:
    """Return the module trio if one of its tasks runs here, else None. A program that runs it has imported it."""
    trio = sys.modules.get("trio")
    if trio is not None:
        # RuntimeError: not in a task. AttributeError: another thread imports trio just now.
        with contextlib.suppress(RuntimeError, AttributeError):
            trio.lowlevel.current_task()
            return trio
    return None
