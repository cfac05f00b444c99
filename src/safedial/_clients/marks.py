"""What safedial notes on the objects of other libraries: `wrap` its policy, an adapter that a client is protected."""

import inspect
from types import ModuleType
from typing import Any, cast

from safedial._clients.factories import bare

UNMARKED = object()
# What leads from a client to what dials for it. redis, valkey: connection_pool, connection_class, and nodes_manager,
# connection_pool_class of a cluster · aiohttp: connector · SQLAlchemy: bind, sync_engine, pool · psycopg_pool:
# connection_class · pymemcache: socket_module.
# Private: SQLAlchemy's _creator (2.0.30), asyncpg's _connect (0.30), httpx's _transport, _pool, _network_backend and
# _uds (0.28).
_PARTS = (
    *("connection_pool", "connection_class", "nodes_manager", "connection_pool_class", "connector", "bind"),
    *("sync_engine", "pool", "socket_module", "_creator", "_connect", "_transport", "_pool", "_network_backend"),
)


def mark(wrapped: Any, policy: Any) -> Any:
    """Note on *wrapped*, a result of `wrap`, which *policy* it has. Return it."""
    wrapped._safedial_policy = policy
    return wrapped


def mark_of(factory: Any) -> Any:
    """Return the policy that `mark` noted, or UNMARKED. Other people's decorators keep it: functools.wraps() does."""
    return inspect.getattr_static(bare(factory), "_safedial_policy", UNMARKED)


def note_protected(client: Any) -> None:
    """Note that each later dial of *client*, or of a part of one, is safe."""
    client._safedial_protected = True


def is_protected(client: Any) -> bool:
    """Return whether each later dial of *client* is safe: by `note_protected`, by a class of ours, or by `wrap`."""
    return _is_protected(client, depth=4)  # httpx's client, its transport, its pool, its backend


def _is_protected(thing: Any, depth: int) -> bool:
    thing = bare(thing)
    if _is_ours(thing) or mark_of(thing) is not UNMARKED or _own(thing, "_safedial_protected") or _is_local(thing):
        return True
    mounted = cast("dict[str, object]", _own(thing, "adapters"))  # requests'
    if issubclass(type(mounted), dict) and mounted and all(map(_is_ours, mounted.values())):
        return True
    return depth > 0 and any(_is_protected(part, depth - 1) for name in _PARTS if (part := _own(thing, name)))


def _is_ours(thing: Any) -> bool:
    if isinstance(thing, ModuleType):
        return thing.__name__.startswith("safedial.")
    kind: Any = thing if isinstance(thing, type) else type(thing)
    return any(each.__module__.startswith("safedial.") for each in kind.__mro__)


def _is_local(thing: Any) -> bool:
    """Return whether *thing*, a part of a client, dials a Unix socket: aiohttp's connector, httpx's or redis's pool."""
    if type(thing).__name__ == "UnixConnector" or _own(thing, "_uds"):
        return True
    options = _own(thing, "connection_kwargs")
    return isinstance(options, dict) and "path" in options


def _own(thing: Any, name: str) -> Any:
    if inspect.getattr_static(thing, name, None) is None:  # some make up attributes
        return None
    try:
        return getattr(thing, name)
    except Exception:  # a property may raise
        return None
