"""Run a coroutine: without an event loop, or within a time limit. Imports nothing of safedial.

Code that blocking and asyncio dials share is a coroutine. A blocking dial runs it with `finish`: it never suspends.
"""

from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar, cast

T = TypeVar("T")


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
    import asyncio  # late: blocking dials import this module too

    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await steps
    except TimeoutError:
        if limit.expired():
            raise TimeoutError("timed out") from None
        raise
