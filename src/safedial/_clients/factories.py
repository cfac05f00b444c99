"""What a factory is: its name, the packages that it comes from, and the address that it seems to dial."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from safedial._address import Address
from safedial.events import OnEvent

# Takes the arguments of a factory, and returns the addresses that it will dial. May import its driver.
Finder: TypeAlias = Callable[..., Iterable[Address]]


@dataclass
class Factory:
    """A client's connection factory, and what its calls have shown."""

    make: Callable[..., Any]
    find: Finder
    on_event: OnEvent | None = None
    # The argument that it was given as; None if it is an adapter's, whose results need no judgement.
    argument: str | None = None
    # Whether the guard saw it connect, or its port was held, in some call.
    guarded: bool = False

    def __post_init__(self) -> None:
        self.name = name_of(self.make)


def bare(factory: Any) -> Any:
    """Return what a `functools.partial` calls in the end."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    return factory


def name_of(factory: Any) -> str:
    """Return the name of *factory* without its arguments, which may be secrets."""
    factory = bare(factory)
    kind: Any = factory if hasattr(factory, "__qualname__") else factory.__class__
    module = getattr(kind, "__module__", None) or kind.__objclass__.__module__  # of a method of a class in C
    return f"{module}.{kind.__qualname__}"


def packages_of(factory: Any) -> list[str]:
    """Return the top packages of *factory*, in lower case; for a class, those of its bases too."""
    factory = bare(factory)
    kinds = factory.__mro__ if isinstance(factory, type) else (factory,)
    return [name_of(kind).partition(".")[0].lower() for kind in kinds]


def address_in(factory: Any, args: tuple[Any, ...], kwds: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the host and port that the arguments of a *factory* seem to have, for the log; (None, None) if none."""
    if isinstance(factory, functools.partial):
        return address_in(factory.func, factory.args + args, {**factory.keywords, **kwds})
    host, port = kwds.get("host") or kwds.get("server"), kwds.get("port")
    first: Any = args[0] if args else None
    if host is None and issubclass(type(first), tuple) and len(first) == 2:
        host, port = first
    elif host is None and isinstance(first, str) and "://" in first:  # a URL may have a password: take the host alone
        with contextlib.suppress(ValueError):
            host, port = urlsplit(first).hostname, urlsplit(first).port
    elif host is None and len(args) > 1:
        host, port = args[:2]
    elif host is None:  # the connection itself, as PyMySQL's, or parameters, as pika's
        host, port = getattr(first, "host", None), getattr(first, "port", None)
    if isinstance(host, str) and isinstance(port, int | None):
        return host.rpartition("@")[2], port  # a password that has an @ is not part of the host
    return None, None
