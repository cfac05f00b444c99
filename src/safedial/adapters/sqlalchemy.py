"""SQLAlchemy: one line makes every connection of an engine safe, whatever its URL."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from safedial._clients.drivers import FINDERS
from safedial._clients.hold import Address
from safedial._clients.wrap import wrapped
from safedial._retry.argument import DEFAULT, PolicyArgument, check_policy
from safedial.adapters import needs, takes_policy
from safedial.events import OnEvent, check_hook

with needs("sqlalchemy"):
    from sqlalchemy import Engine, event
    from sqlalchemy.util import await_only, greenlet_spawn

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["protect"]

E = TypeVar("E", bound="Engine | AsyncEngine")


@takes_policy
def protect(engine: E, *, policy: PolicyArgument = DEFAULT, on_event: OnEvent | None = None) -> E:
    """Make *engine* dial safely, and return it. Its pool, URL, errors and events stay as they are.

    Each connection is made as by `safedial.wrap`, with the port held if the driver may dial in C. Add your own
    listeners of ``do_connect`` before: later ones are not called, since this one makes the connection. An engine with
    a ``creator`` calls no such listener: wrap the creator.

    SQLAlchemy does not retry a connection by itself. If the URL has several hosts, or ``connect_args`` a ``failover``,
    a round is the driver's whole turn through them, so the policy waits only when all have failed.

    Args:
        engine: the result of ``create_engine`` or ``create_async_engine``.
        policy: a `tenacity.Retrying` or `tenacity.AsyncRetrying`, as for `safedial.wrap`. An AsyncEngine waits without
            blocking its loop. Default: `redial()`.
        on_event: called with each `safedial.DialEvent` of its dials, as by `safedial.wrap`. Default: None.

    Raises:
        TypeError: *engine*, *policy* or *on_event* is wrong; the message names it.

    Example::

        engine = protect(create_engine("mysql+pymysql://app@db/app"), policy=safedial.reconnect())
    """
    inner = getattr(engine, "sync_engine", engine)
    if not isinstance(inner, Engine):  # a URL may have a password, so it is not shown
        raise TypeError(f"engine must be an Engine or an AsyncEngine, not a {type(engine).__name__}")
    check_policy(policy)
    check_hook(on_event)

    def connect(dialect: Any, record: object, cargs: list[Any], cparams: dict[str, Any]) -> Any:  # noqa: ARG001  # the event's
        find = FINDERS.get(dialect.driver, _named)
        if not dialect.is_async:
            return wrapped(dialect.connect, find, policy, on_event)(*cargs, **cparams)

        async def dial(*args: Any, **kwds: Any) -> Any:
            return await greenlet_spawn(dialect.connect, *args, **kwds)

        # Waits must not block the loop, so they are made outside of SQLAlchemy's greenlet.
        return await_only(wrapped(dial, find, policy, on_event)(*cargs, **cparams))

    event.listen(inner, "do_connect", connect)
    return engine


def _named(*_: Any, host: Any = None, server: Any = None, port: Any = None, **__: Any) -> Iterable[Address]:
    """Find the address of an unknown driver in the arguments that usually have it."""
    return [(host or server, port)] if (host or server) and port else []
