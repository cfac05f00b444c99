"""The errors behind an error, however a library links them. Reads other people's objects, and raises nothing itself."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, cast

# Exceptions looked at. A chain of this length is a fault; to walk it all would stop an event loop.
LIMIT = 500
# ldap3 has pairs of an error and an address, in a list among the arguments.
_DEPTH = 3


def attribute(error: object, name: str) -> Any:
    """Return an attribute of *error*, None if it has none or raises."""
    try:
        return getattr(error, name, None)
    except Exception:
        return None


def text_of(error: BaseException) -> str:
    """Return the message of *error*, "" if it has none or raises."""
    try:
        return str(error)
    except Exception:
        return ""


def other_addresses(error: BaseException) -> list[BaseException]:
    """Return the errors of the other addresses of the dial that raised *error*."""
    return list(_errors_among(attribute(error, "_other_addresses")))


def linked(error: BaseException, more: Iterable[str] = ()) -> list[BaseException]:
    """Return the errors that *error* has at hand; *more* names further attributes that its class keeps them in."""
    if isinstance(error, BaseExceptionGroup):
        return list(_errors_among(cast("BaseExceptionGroup[BaseException]", error).exceptions))
    # Suppressed contexts too: "from None" hides an error from people, but it is still the reason.
    found = [each for each in (error.__cause__, error.__context__) if each is not None]
    # paramiko's errors are a dict, others' a list. urllib3, requests and httpcore keep the reason in args.
    for name in ("errors", "args"):
        found += _errors_among(attribute(error, name))
    for name in more:
        value = attribute(error, name)
        found += [value] if isinstance(value, BaseException) else _errors_among(value)
    return found


def _errors_among(values: Any, depth: int = _DEPTH) -> Iterator[BaseException]:
    # Of exactly these types: others may do anything when they are read.
    if type(values) is dict:
        values = tuple(cast("Mapping[Any, Any]", values).values())
    if type(values) in (list, tuple) and depth:
        for value in islice(cast("Iterable[Any]", values), LIMIT):
            if isinstance(value, BaseException):
                yield value
            else:
                yield from _errors_among(value, depth - 1)
