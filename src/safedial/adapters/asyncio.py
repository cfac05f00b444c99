"""asyncio and uvloop: one line makes all TCP connections of a program safe.

`open_connection` and `create_connection` are for programs that dial for themselves.
"""

import asyncio
import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any, cast

from typing_extensions import override

from safedial._clients.guard import inside
from safedial._dial.dialer import Dialer
from safedial._dial.streams import create_connection, open_connection
from safedial._retry.argument import DEFAULT
from safedial.adapters import checked_dialer, takes_dialer

__all__ = ["create_connection", "new_event_loop", "open_connection"]

# asyncio's own: Windows has the first.
_OWN: type[asyncio.AbstractEventLoop] = getattr(asyncio, "ProactorEventLoop", asyncio.SelectorEventLoop)
# Like asyncio: addresses race only if the caller says so.
_DIALER = Dialer(happy_eyeballs_delay=None)


class _Guarded(asyncio.AbstractEventLoop):
    """Comes before a class of event loops among the bases."""

    dial_options: dict[str, Any]

    @override
    async def create_connection(
        self, protocol_factory: Callable[[], Any], host: Any = None, port: Any = None, **kwds: Any
    ) -> Any:
        if kwds.get("sock") is not None or (host is None and port is None):
            # Nothing to dial. Our create_connection() comes here too, with the connected socket.
            below: Any = super()
            return await below.create_connection(protocol_factory, host, port, **kwds)
        # Many callers pass on None for arguments that they were not given.
        given = {name: value for name, value in kwds.items() if value is not None}
        return await create_connection(protocol_factory, host, port, **{**self.dial_options, **given})

    @override
    async def sock_connect(self, sock: Any, address: Any) -> None:
        below: Any = super()
        with inside():
            await below.sock_connect(sock, address)


@functools.cache
def _guarded(loop_class: Any) -> type[_Guarded]:
    return cast("type[_Guarded]", type(loop_class.__name__, (_Guarded, loop_class), {"__module__": __name__}))


@takes_dialer
def new_event_loop(
    loop_class: type[asyncio.AbstractEventLoop] = _OWN, *, dialer: Dialer | None = None
) -> asyncio.AbstractEventLoop:
    """Return a new event loop whose ``create_connection`` and ``sock_connect`` never connect to themselves.

    All TCP clients of the loop are safe: asyncio's streams, and libraries on top of it (aiohttp, asyncpg,
    redis.asyncio). A self-connect is a ConnectionRefusedError. No event loop policy is set, and other loops stay as
    they are. `safedial.guard` says what ``sock_connect`` does about a socket with a source port.

    The policy of *dialer* works inside each dial of a client, and multiplies with the client's own retries. One that
    waits for a server, such as `safedial.reconnect`, holds up every client that has other servers to turn to: asyncpg
    with several hosts, Kafka, NATS, redis under Sentinel or Cluster. Leave it to the default if the loop runs one of
    these. A client that `safedial.adapters.redis` or its like has protected dials with its own Dialer in any loop.

    Args:
        loop_class: the class to extend, such as ``uvloop.Loop``, which dials in C, where a guard alone does not reach.
            Default: asyncio's own for this system.
        dialer: dials for ``create_connection``, whose own arguments come first, unless they are None. Default: None,
            a Dialer that tries one address after the other, like asyncio.

    Example::

        with asyncio.Runner(loop_factory=lambda: new_event_loop(uvloop.Loop)) as runner:
            runner.run(main())
    """
    if not (isinstance(loop_class, type) and issubclass(loop_class, asyncio.AbstractEventLoop)):
        raise TypeError(f"loop_class must be a class of event loops, not {loop_class!r}")
    dialer = checked_dialer(_DIALER if dialer is None else dialer)
    loop = _guarded(cast("Any", loop_class))()
    options = {each.name: getattr(dialer, each.name) for each in fields(Dialer)}
    options["local_addr"] = options.pop("source_address") or None
    if dialer.timeout is DEFAULT:
        options["timeout"] = None
    loop.dial_options = options
    return loop
