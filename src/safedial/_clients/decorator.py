"""Functions whose calls are guarded: what `guard` makes as a decorator."""

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

from safedial._address import shown
from safedial._clients.awaitables import Step, instances_dial_later, made_later

F = TypeVar("F", bound=Callable[..., Any])


def decorated(function: F, entered: Callable[[], AbstractContextManager[object]]) -> F:
    """Return *function* so that each call is made inside what *entered* returns. It may be a coroutine function."""
    _check(function)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def guarded_async(*args: Any, **kwds: Any) -> Any:
            with entered():
                returned: Any = await function(*args, **kwds)
            return _checked(returned, function)

        return cast("F", guarded_async)

    async def take(returned: Any, step: Step) -> Any:
        with entered():
            return await step(returned)

    @functools.wraps(function)
    def guarded(*args: Any, **kwds: Any) -> Any:
        with entered():
            returned: Any = function(*args, **kwds)
        return made_later(_checked(returned, function), functools.partial(take, returned))

    return cast("F", guarded)


def _checked(returned: Any, function: Any) -> Any:
    """Return *returned*, or raise TypeError if it is a generator, which dials when it is iterated."""
    if inspect.isgenerator(returned) or inspect.isasyncgen(returned):
        raise TypeError(
            f"guard() can't guard the generator that {shown(function)} returned, which runs in its caller's context: "
            "iterate it inside `with guard():`"
        )
    return returned


def _check(function: Any) -> None:
    """Raise TypeError if *function* can't be decorated."""
    if isinstance(function, type) and not instances_dial_later(function):
        raise TypeError(
            f"guard() can't decorate a class: decorate the methods of {function!r} that dial, or use wrap()"
        )
    kind = cast("type[object]", type(function))
    if issubclass(kind, staticmethod | classmethod):
        raise TypeError(f"guard() can't decorate a {kind.__name__}: write @guard below it")
    if not callable(function):
        raise TypeError(
            f"guard() decorates functions, not {shown(function)}: it takes no address, and guards each TCP connect "
            "inside `with guard():`; to hold a port, use hold()"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"guard() can't decorate a generator function: {function!r} runs in its caller's context")
