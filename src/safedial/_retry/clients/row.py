"""A row of the table of the clients."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from safedial._retry.kinds import Kind

Kinds: TypeAlias = Mapping[str, Kind | None]


def each(kind: Kind, *keys: str) -> dict[str, Kind]:
    return dict.fromkeys(keys, kind)


def _no_code(_error: Any) -> str:
    return ""


@dataclass(frozen=True)
class Client:
    """What a client's errors say of a failed connection.

    Attributes:
        code: returns an error's code, a number or text; it may raise.
        codes: by code. Of a SQLSTATE, its class will do.
        classes: by the name of the error's class or one of its bases.
        words: by words in its message.
        defaults: by code or class, if nothing else is known.
        links: further attributes that hold the errors behind an error.
        in_c: whether messages of the C library are among its words.
        answers: finds in a message what the server itself said, in a language that may be any.
        answered: matches the codes that only the server gives: one that is not in *codes* is unknown, whatever
            was being handled.
    """

    code: Callable[[Any], object] = _no_code
    codes: Kinds = field(default_factory=dict[str, Kind | None])
    classes: Kinds = field(default_factory=dict[str, Kind | None])
    words: Kinds = field(default_factory=dict[str, Kind | None])
    defaults: Kinds = field(default_factory=dict[str, Kind | None])
    links: tuple[str, ...] = ()
    in_c: bool = False
    answers: re.Pattern[str] | None = None
    answered: re.Pattern[str] | None = None
