"""Natural mistakes in calls of `guard`, `hold` and `install`: the error names the right line.

A type checker refuses these calls too, because the signatures stay what they are.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])
# Returns what to write instead, or None if the arguments are not a known mistake.
Advice: TypeAlias = Callable[[tuple[Any, ...], Mapping[str, Any]], str | None]


def advised(advice: Advice) -> Callable[[F], F]:
    """Make calls of a function raise TypeError with what *advice* returns for their arguments."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def checked(*args: Any, **kwds: Any) -> Any:
            if (said := advice(args, kwds)) is not None:
                raise TypeError(said)
            return function(*args, **kwds)

        return cast("F", checked)

    return decorate


def of_guard(_: tuple[Any, ...], kwds: Mapping[str, Any]) -> str | None:
    return _dials_nothing_again("guard") if "policy" in kwds else None


def of_hold(args: tuple[Any, ...], kwds: Mapping[str, Any]) -> str | None:
    if len(args) > 1 or {"host", "port"} & kwds.keys():
        return "hold() takes one pair: write hold((host, port))"
    return None


def of_install(args: tuple[Any, ...], kwds: Mapping[str, Any]) -> str | None:
    if args and callable(args[0]):
        return "install() is no decorator: call it once, as safedial.install(), when the program starts"
    if args:
        return "install() takes its arguments by name: to hold ports, write install(hold=[(host, port)])"
    return _dials_nothing_again("install") if "policy" in kwds else None


def _dials_nothing_again(name: str) -> str:
    return f"{name}() takes no policy, because it dials nothing again: use wrap(connect, policy=...)"
