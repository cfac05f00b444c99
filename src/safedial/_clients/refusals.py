"""What `wrap` and `connections` refuse because they can't guard it, before a call or after it, with the right line."""

import functools
import inspect
import socket
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar, cast

from safedial._clients.awaitables import dials_later
from safedial._clients.drivers import FINDERS, finder_for
from safedial._clients.factories import Factory, bare, name_of, packages_of
from safedial._clients.guard import is_installed
from safedial._clients.lines import INSTALL, line_for, line_in_c, owner_of
from safedial._clients.marks import UNMARKED, is_protected, mark_of
from safedial._clients.sockets import is_connected, is_tcp, socket_of
from safedial._retry.argument import DEFAULT
from safedial._retry.kinds import Verdict
from safedial._retry.transient import errors_of, verdict
from safedial.events import is_first, warn

F = TypeVar("F", bound=Callable[..., Any])

# Databases in a file, and the mocks of unit tests: there is nothing to guard.
_WITHOUT_NETWORK = frozenset({"_duckdb", "aiosqlite", "duckdb", "sqlite3", "unittest"})
_UNSEEN = (
    "connected in C, or in a thread or pool of its own, so nothing was guarded. Give its address, and the port is "
    "held: safedial.wrap(..., address=(host, port))"
)
_FAILED = "failed, and safedial saw it make no connection, so nothing was guarded."
_NOTHING = "made no connection that safedial could see, so nothing was guarded."
_OTHERWISE = (
    f"If it dials when it is used, or in a thread, {INSTALL}. If it dials in C, in the call, give its address, so "
    "that the port is held: safedial.wrap(..., address=(host, port)). If it does so later, hold the port for as long: "
    "safedial.hold((host, port))"
)
# By the argument: the right line, what it takes, and the line for a URL.
_WORDS = {
    "factory": ("wrap(connect)", "a function or class that connects", "wrap(connect)(url)"),
    "target": (
        "connections(connect)",
        "a (host, port) address or a function that connects",
        "connections(functools.partial(connect, url))",
    ),
}
_CALLED = "wrap(connect)(host, port)"
# By an argument that `wrap` does not take: what is right.
_MEANT = {
    "dialer": "give it the policy alone, wrap(connect, policy=...), or dial with dialer.dial(address) in the factory",
    "timeout": "give it to the client: wrap(connect)(..., timeout=...); for a limit of all rounds: "
    "policy=safedial.reconnect(within=...)",
    **dict.fromkeys(("host", "port"), "the address that a factory dials in C is address=(host, port)"),
    **dict.fromkeys(("retry", "retries", "within"), "write policy=safedial.reconnect(within=...)"),
}
# The factories that were warned of.
_warned: dict[object, object] = {}


def takes_one(function: F) -> F:
    """Refuse other arguments than one factory or target and the known keywords, in words that help."""
    parameters = inspect.signature(function).parameters.values()
    first = next(iter(parameters)).name
    known = None if any(each.kind is each.VAR_KEYWORD for each in parameters) else {each.name for each in parameters}

    @functools.wraps(function)
    def checked(*args: Any, **kwds: Any) -> Any:
        unknown = [] if known is None else [name for name in kwds if name not in known]
        if len(args) != 1 - (first in kwds) or unknown:
            raise TypeError(_shape(function.__name__, first, args, unknown))
        return function(*args, **kwds)

    return cast("F", checked)


def _shape(name: str, first: str, args: tuple[Any, ...], unknown: list[str]) -> str:
    """Return what is wrong with a call of `wrap` or `connections`, and the right line."""
    if name == "connections":
        if not args:
            return 'connections() takes a target: connections(("db", 5432)) or connections(connect)'
        if callable(args[0]):
            return "connections() takes a function without arguments: connections(functools.partial(connect, ...))"
        return 'connections() takes one target, and an address is a pair: connections(("db", 5432))'
    if unknown:
        hint = _MEANT.get(unknown[0], f"what the factory takes goes to what wrap() returns: {_CALLED}")
        return f"wrap() takes policy=, address= and on_event=, not {unknown[0]}=: {hint}"
    if not args:
        return (
            "wrap() takes a factory: write wrap(connect, policy=...). "
            f"As a decorator with arguments: @functools.partial(safedial.wrap, policy=...) (no {first} was given)"
        )
    return (
        "wrap() takes a factory, and policy=, address= and on_event= by name. "
        f"What the factory takes goes to what wrap() returns: {_CALLED}"
    )


def check_factory(argument: str, factory: Any) -> None:
    """Raise TypeError, naming *argument*, if *factory* can't be called, or if nothing of its dials would be guarded."""
    call, wanted, url = _WORDS[argument]
    given = f"a {type(factory).__name__}"  # not its repr, which may have a password
    if inspect.iscoroutine(factory):
        factory.close()
    if not callable(factory) and dials_later(factory):
        raise TypeError(f"{argument} must be {wanted}, not {given}: write {call}, before the connect is called")
    if isinstance(factory, str | bytes):
        raise TypeError(f"{argument} must be {wanted}, not {given}; for a URL write {url}")
    line = line_for(factory)
    if line is not None and not is_installed() and not is_protected(factory):
        raise TypeError(f"{argument}: {name_of(factory)} dials when it is used, and not only in the call: {line}")
    if (line := line_in_c(factory)) is not None and not is_installed():
        raise TypeError(f"{argument}: {name_of(factory)} dials in C, in threads of its library: {line}")
    if socket_of(factory) is not None and not isinstance(factory, int):
        raise TypeError(f"{argument} must be {wanted}, not {given}, a connection: wrap the function that makes it")
    if not callable(factory):
        name = factory.__name__ if isinstance(factory, ModuleType) and hasattr(factory, "connect") else ""
        hint = f": write {call.replace('connect)', f'{name}.connect)')}" if name else ""
        raise TypeError(f"{argument} must be {wanted}, not {given}{hint}")
    tenacity = sys.modules.get("tenacity")  # who has a policy has imported it
    if tenacity is not None and isinstance(factory, tenacity.BaseRetrying):
        raise TypeError(f"{argument} must be {wanted}, not a policy: write {call[:-1]}, policy=...)")
    policy = mark_of(factory)
    if policy is not UNMARKED and (argument == "factory" or policy not in (DEFAULT, None)):
        raise TypeError(f"{argument}: {name_of(factory)} has a policy already, by wrap(): the two would multiply")
    if inspect.isgeneratorfunction(factory) or inspect.isasyncgenfunction(factory):
        raise TypeError(
            f"{argument}: {name_of(factory)} is a generator function, whose code runs in its caller's context: "
            "make it a contextlib.contextmanager, or wrap the function that it dials with"
        )


def refusal(factory: Factory, returned: Any) -> TypeError | None:
    """Return an error if *factory* *returned* a client that is known to dial when it is used."""
    for each in _things(returned):
        if (line := line_for(type(each))) and not is_protected(each):
            text = f"returned a client that dials when it is used, {name_of(type(each))}: {line}"
            return TypeError(f"{factory.argument}: {factory.name} {text}")
    return None


def judge(factory: Factory, returned: Any) -> TypeError | None:
    """Judge what *factory* *returned* from a call in which nothing was guarded.

    Return an error if that is certain to be wrong. If it may be right, such as a connection that was open already,
    warn once.
    """
    if (error := refusal(factory, returned)) is not None:
        return error
    if any(line_for(type(each)) for each in _things(returned)):  # it is protected
        return None
    found, known = socket_of(returned), finder_for(factory.make) is not None
    packages = {package for each in _things(returned) for package in packages_of(type(each))}
    if is_connected(found) or (found is None and not known and packages & FINDERS.keys()):
        _warn(factory, _UNSEEN)
    elif (found is None or is_tcp(found)) and not known and not packages & _WITHOUT_NETWORK:
        # A function may use a connection that it had already. A class that is called makes one.
        if isinstance(bare(factory.make), type):
            return TypeError(f"{factory.argument}: {factory.name} {_NOTHING} {_OTHERWISE}")
        _warn(factory, f"{_NOTHING} {_OTHERWISE}")
    return None


def warn_of_later_dials(factory: Factory, returned: Any) -> None:
    """Warn, once, if the client that *factory* *returned* dials again by itself, out of the guard of the call."""
    clients = [("returned", each) for each in _things(returned)]
    if line_for(type(owner := owner_of(factory.make))) == INSTALL:  # it connects again in a task or thread of its own
        clients.append(("is a method of", owner))
    for verb, client in clients:
        if (line := line_for(type(client))) and not is_protected(client):
            line += ", inside this function" * (line != INSTALL)
            name = name_of(type(client))
            _warn(factory, f"{verb} {name}, which dials again by itself later, unguarded: {line}", about=name)


def warn_of_failure(factory: Factory, error: Exception) -> None:
    """Warn, once, if *error* looks like that of a dial. *factory* raised it in a call in which nothing was guarded."""
    if finder_for(factory.make) is None and _is_dials(error):
        line = line_for(type(owner_of(factory.make)))
        _warn(factory, f"{_FAILED} {line or _OTHERWISE}")


def _is_dials(error: Exception) -> bool:
    # A guarded client whose name does not resolve makes no connect.
    if any(isinstance(each, socket.gaierror) for each in errors_of(error)):
        return False
    kinds = type(error).__mro__
    of_driver = FINDERS.keys() & {*packages_of(type(error))} and any(k.__name__ == "OperationalError" for k in kinds)
    return bool(of_driver) or verdict(error) is Verdict.TRANSIENT


def _things(returned: Any) -> list[Any]:
    return list(returned) if issubclass(type(returned), tuple) else [returned]


def _warn(factory: Factory, text: str, about: str = "") -> None:
    # A factory may be wrapped again for each call, so it is known by its code.
    key = getattr(bare(factory.make), "__code__", factory.name), about
    if is_first(_warned, key):
        warn("%s %s", factory.name, text)
