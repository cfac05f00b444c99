"""What `wrap` and `connections` refuse because they can't guard it, before a call or after it, with the right line."""

import functools
import inspect
import sys
from collections.abc import Callable, Container
from typing import Any, TypeVar, cast

from safedial._clients.awaitables import dials_later
from safedial._clients.drivers import FINDERS, finder_for
from safedial._clients.factories import Factory, bare, name_of, packages_of
from safedial._clients.guard import is_installed
from safedial._clients.sockets import is_connected, is_tcp, socket_of
from safedial._retry.argument import DEFAULT
from safedial.events import warn

F = TypeVar("F", bound=Callable[..., Any])

_INSTALL = "call safedial.install() first"
_HOLD = "hold its port for as long as it lives, by safedial.hold((host, port))"
_POOL = ("Pool", "create_pool")
_RESP = ("BlockingConnectionPool", "ConnectionPool", "Sentinel", "from_url")
_HTTP_POOL = ("HTTPConnectionPool", "HTTPSConnectionPool", "PoolManager", "ProxyManager")
_SQLALCHEMY = ("AsyncEngine", "AsyncSession", "Engine", "Session", "create_async_engine", "create_engine")
# By the library that has an adapter with protect(): its clients, and the functions that make them.
ADAPTERS: dict[str, tuple[str, ...]] = {
    "aiohttp": ("ClientSession", "TCPConnector"),
    "httpx": ("AsyncClient", "Client"),
    "redis": ("Redis", "StrictRedis", *_RESP),
    "requests": ("Session", "session"),
    "sqlalchemy": (*_SQLALCHEMY, "async_sessionmaker", "sessionmaker"),
    "urllib3": _HTTP_POOL,
    "valkey": ("StrictValkey", "Valkey", *_RESP),
}
# Clients that dial when they are used, or in threads of their own: by package, the names of the classes, and of the
# functions that make them (None: all), and the line that guards them.
_LINES: dict[str, tuple[Container[str] | None, str]] = {
    **{name: (names, f"use safedial.adapters.{name}.protect(...)") for name, names in ADAPTERS.items()},
    **dict.fromkeys(("aiomysql", "aiopg", "asyncmy"), (_POOL, _INSTALL)),
    **dict.fromkeys(("motor", "pymongo"), (None, _INSTALL)),
    "asyncpg": (_POOL, "give the pool connect=safedial.wrap(asyncpg.connect)"),
    "aiokafka": (("AIOKafkaConsumer", "AIOKafkaProducer"), _INSTALL),
    "grpc": (("Channel", "insecure_channel", "secure_channel"), _HOLD),
    "kafka": (("KafkaAdminClient", "KafkaConsumer", "KafkaProducer"), _INSTALL),
    "psycopg_pool": (None, f"give the pool connection_class=safedial.wrap(psycopg.Connection), or {_INSTALL}"),
    "zmq": (("Context", "Socket"), _HOLD),
}
# Databases in a file, and the mocks of unit tests: there is nothing to guard.
_WITHOUT_NETWORK = frozenset({"_duckdb", "aiosqlite", "duckdb", "sqlite3", "unittest"})
_UNSEEN = (
    "connected in C, or in a thread or pool of its own, so nothing was guarded. Give its address, and the port is "
    "held: safedial.wrap(..., address=(host, port))"
)
_NOTHING = "made no connection that safedial could see, so nothing was guarded."
_OTHERWISE = (
    f"If it dials when it is used, or in a thread, {_INSTALL}. If it dials in C, in the call, give its address, so "
    "that the port is held: safedial.wrap(..., address=(host, port)). If it does so later, hold the port for as long: "
    "safedial.hold((host, port))"
)
UNMARKED = object()
# By the argument: the right line, what it takes, and the line for a URL.
_WORDS = {
    "factory": ("wrap(connect)", "a function or class that connects", "wrap(connect)(url)"),
    "target": (
        "connections(connect)",
        "a (host, port) address or a function that connects",
        "connections(functools.partial(connect, url))",
    ),
}
# The factories that were warned of.
_warned: set[object] = set()


def takes_factory_alone(function: F) -> F:
    """Refuse more than one positional argument, in words that help: ``wrap(connect, "db", 5432)``."""

    @functools.wraps(function)
    def checked(*args: Any, **kwds: Any) -> Any:
        if len(args) > 1:
            raise TypeError(
                "wrap() takes a factory, and policy=, address= and on_event= by name. "
                "What the factory takes goes to what wrap() returns: wrap(connect)(host, port)"
            )
        return function(*args, **kwds)

    return cast("F", checked)


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
    line = line_for(factory if callable(factory) else type(factory))
    if line is not None and not is_installed():
        raise TypeError(f"{argument}: {name_of(factory)} dials when it is used, and not in the call: {line}")
    if socket_of(factory) is not None and not isinstance(factory, int):
        raise TypeError(f"{argument} must be {wanted}, not {given}, a connection: wrap the function that makes it")
    if not callable(factory):
        raise TypeError(f"{argument} must be {wanted}, not {given}")
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


def mark(wrapped: Any, policy: Any) -> Any:
    """Note on *wrapped*, a result of `wrap`, which *policy* it has. Return it."""
    wrapped._safedial_policy = policy
    return wrapped


def mark_of(factory: Any) -> Any:
    """Return the policy that `mark` noted, or UNMARKED. Other people's decorators keep it: functools.wraps() does."""
    return inspect.getattr_static(bare(factory), "_safedial_policy", UNMARKED)


def line_for(thing: Any) -> str | None:
    """Return the line that guards *thing*, a client's class, or the function that makes one; None if unknown."""
    thing = bare(thing)
    for each in thing.__mro__ if isinstance(thing, type) else (thing,):
        names, line = _LINES.get(packages_of(each)[0], ((), ""))
        if names is None or getattr(each, "__name__", "") in names:
            return line
    return None


def refusal(factory: Factory, returned: Any) -> TypeError | None:
    """Return an error if *factory* *returned* a client that is known to dial when it is used."""
    for each in _things(returned):
        if line := line_for(type(each)):
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


def _things(returned: Any) -> list[Any]:
    return list(returned) if issubclass(type(returned), tuple) else [returned]


def _warn(factory: Factory, text: str) -> None:
    # A factory may be wrapped again for each call, so it is known by its code.
    key = getattr(bare(factory.make), "__code__", factory.name)
    if key not in _warned:
        _warned.add(key)
        warn("%s %s", factory.name, text)
