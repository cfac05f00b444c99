"""SQLAlchemy: one line makes every connection of an engine safe, whatever its URL."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import safedial
from safedial._clients.hold import Address
from safedial._retry.argument import DEFAULT, Default
from safedial.adapters import needs
from safedial.adapters._drivers import FINDERS
from safedial.adapters.databases import held

with needs("sqlalchemy"):
    from sqlalchemy import Engine, event
    from sqlalchemy.util import await_only, greenlet_spawn

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from safedial._retry.argument import Policy

__all__ = ["protect"]

E = TypeVar("E", bound="Engine | AsyncEngine")


def protect(engine: E, *, policy: "Policy | Literal[Default.DEFAULT] | None" = DEFAULT) -> E:
    """Make *engine* dial safely, and return it. Pools, URLs, errors and events stay as they are.

    Each connection is made under the guard, with the port held where the driver may dial in C, and
    retried under *policy*. Other listeners of ``do_connect`` are to be added before: this one makes the
    connection, so that later ones are not asked. An engine with a ``creator`` asks none: wrap that.

    Args:
        engine: what ``create_engine`` or ``create_async_engine`` returned.
        policy: a `tenacity.Retrying` or `tenacity.AsyncRetrying`, as for `safedial.wrap`. An
            AsyncEngine waits without blocking its loop. Default: `redial()`.

    Raises:
        TypeError: *engine* is none, or *policy* is of no use; the message names it.

    Example::

        engine = protect(create_engine("mysql+pymysql://app@db/app"), policy=safedial.reconnect())
    """
    inner = getattr(engine, "sync_engine", engine)
    if not isinstance(inner, Engine):
        # Not what it is: a URL has a password in it.
        raise TypeError(f"engine must be an Engine or an AsyncEngine, not a {type(engine).__name__}")
    safedial.wrap(protect, policy=policy)  # which checks it

    def connect(dialect: Any, record: object, cargs: list[Any], cparams: dict[str, Any]) -> Any:  # noqa: ARG001  # the event's
        find = FINDERS.get(dialect.driver, _named)
        if not dialect.is_async:
            return safedial.wrap(held(dialect.connect, find), policy=policy)(*cargs, **cparams)

        async def dial(*args: Any, **kwds: Any) -> Any:
            return await greenlet_spawn(dialect.connect, *args, **kwds)

        # Retries must not block the loop, so they are made outside of SQLAlchemy's greenlet.
        return await_only(safedial.wrap(held(dial, find, asynchronous=True), policy=policy)(*cargs, **cparams))

    event.listen(inner, "do_connect", connect)
    return engine


def _named(args: Sequence[Any], kwds: Mapping[str, Any]) -> Iterable[Address]:  # noqa: ARG001  # a Finder's
    """Find the address in the arguments of drivers that nobody told us of."""
    host, port = kwds.get("host") or kwds.get("server"), kwds.get("port")
    return [(host, port)] if host and port else []
