"""SQLAlchemy: one line makes every connection of an engine safe, whatever its URL."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from safedial._address import Address
from safedial._clients.drivers import FINDERS
from safedial._clients.guard import inside
from safedial._clients.marks import note_protected
from safedial._clients.wrap import wrapped
from safedial._dial.replaced import is_theirs
from safedial._retry.argument import DEFAULT, PolicyArgument, check_policy
from safedial.adapters import needs, takes_policy
from safedial.adapters._mistakes import mistaken
from safedial.events import OnEvent, check_hook

with needs("sqlalchemy"):
    from sqlalchemy import Engine
    from sqlalchemy.util import await_only, greenlet_spawn

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["protect"]

E = TypeVar("E", bound="Engine | AsyncEngine")


@takes_policy
def protect(engine: E, *, policy: PolicyArgument = DEFAULT, on_event: OnEvent | None = None) -> E:
    """Make *engine* dial safely, and return it. Its pool, URL, errors and events stay as they are.

    Each connection is made as by `safedial.wrap`, with the port held if the driver may dial in C. Listeners of
    ``do_connect`` are called before, once for each connection, whenever they were added. A listener that returns a
    connection has dialed by itself: guarded, but not dialed again, and no port is held for it. If it dials in C, let it
    use `safedial.wrap`.

    Connections that the pool has already stay as they are: they passed the handshake with the server. A second call
    replaces the *policy* and *on_event* of the first. Copies by ``execution_options()`` are safe too, as is the pool
    that follows ``dispose()``.

    SQLAlchemy does not retry a connection by itself. If the URL has several hosts, or ``connect_args`` a ``failover``,
    a round is the driver's whole turn through them, so the policy waits only when all have failed.

    Args:
        engine: the result of ``create_engine`` or ``create_async_engine``.
        policy: a `tenacity.Retrying` or `tenacity.AsyncRetrying`, as for `safedial.wrap`. An AsyncEngine waits without
            blocking its loop. Default: `redial()`.
        on_event: called with each `safedial.DialEvent` of its dials, as by `safedial.wrap`. Default: None.

    Raises:
        TypeError: *engine*, *policy* or *on_event* is wrong; the message names it. An engine with a ``creator`` or
            ``async_creator`` dials by this: wrap it instead.

    Example::

        engine = protect(create_engine("mysql+pymysql://app@db/app"), policy=safedial.reconnect())
    """
    inner: Any = getattr(engine, "sync_engine", engine)
    if not isinstance(inner, Engine):
        instead = "protect(create_engine(url)), before sessions are made of it"
        raise mistaken("engine", "an Engine or an AsyncEngine", engine, instead, "sqlalchemy")
    check_policy(policy)
    check_hook(on_event)
    # Private: a pool's _creator, which makes each of its connections. A pool that replaces it has the same.
    pool = cast("Any", inner.pool)
    creator = pool._creator
    creator = creator if is_theirs(creator, "safedial") else inspect.unwrap(creator)
    dialect = _dialect_of(creator)
    if dialect is None:
        argument = "async_creator" if inner.dialect.is_async else "creator"
        raise TypeError(
            f"engine has a creator, or a pool with one, which makes its connections: leave out protect(), and give "
            f"{argument}=safedial.wrap(...)"
        )
    dialect.connect = _safe_connect(dialect, policy, on_event)
    pool._creator = _guarded(creator)
    note_protected(pool._creator)  # which engine.dispose() gives to the next pool
    return engine


def _dialect_of(creator: Any) -> Any:
    """Return the dialect by which *creator* connects, if it is SQLAlchemy's own; else None."""
    # Private: the function in create_engine(). A pool of create_pool_from_url() has another dialect than its engine.
    return None if is_theirs(creator, "sqlalchemy") else inspect.getclosurevars(creator).nonlocals.get("dialect")


def _guarded(creator: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(creator)
    def create(connection_record: Any = None) -> Any:  # SQLAlchemy looks at this signature
        with inside():  # for listeners that dial
            return creator(connection_record)

    return create


def _safe_connect(dialect: Any, policy: PolicyArgument, on_event: OnEvent | None) -> Callable[..., Any]:
    """Return what is to be the ``connect()`` of *dialect*. It is called after all listeners."""
    kind = dialect.__class__
    theirs = dialect.__dict__.get("connect")
    if theirs is not None and not is_theirs(theirs, "safedial"):
        theirs = getattr(theirs, "__wrapped__", None)  # it is ours, from the last time

    @functools.wraps(kind.connect)
    def dial(*args: Any, **kwds: Any) -> Any:
        return theirs(*args, **kwds) if theirs else kind.connect(dialect, *args, **kwds)

    @functools.wraps(dial)
    async def dial_async(*args: Any, **kwds: Any) -> Any:
        return await greenlet_spawn(dial, *args, **kwds)

    find = FINDERS.get(getattr(dialect, "driver", ""), _named)
    safe = wrapped(dial_async if dialect.is_async else dial, find, policy, on_event)

    def connect(*args: Any, **kwds: Any) -> Any:
        # Waits must not block the loop, so they are made outside of SQLAlchemy's greenlet.
        return await_only(safe(*args, **kwds)) if dialect.is_async else safe(*args, **kwds)

    return functools.wraps(theirs)(connect) if theirs else connect


def _named(*_: Any, host: Any = None, server: Any = None, port: Any = None, **__: Any) -> Iterable[Address]:
    """Find the address of an unknown driver in the arguments that usually have it."""
    return [(host or server, port)] if (host or server) and port else []
