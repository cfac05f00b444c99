"""asyncio and uvloop: a whole program whose TCP connections never reach themselves, in one line.

`open_connection` and `create_connection` are those of `safedial`, for a program that dials itself.

Example::

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
"""

import asyncio
import functools
import sys
from collections.abc import Callable
from typing import Any

from safedial._clients.guard import guard
from safedial._dial.dialer import Dialer
from safedial._dial.streams import create_connection, open_connection
from safedial._retry.argument import DEFAULT

__all__ = ["create_connection", "new_event_loop", "open_connection"]

if sys.platform == "win32":
    _OWN: type[asyncio.AbstractEventLoop] = asyncio.ProactorEventLoop
else:
    _OWN: type[asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop

# asyncio's rule: no address races another unless the caller says so.
_DIALER = Dialer(happy_eyeballs_delay=None)

# What a Dialer and create_connection() call by the same name.
_ALIKE = (
    "total_timeout",
    "family",
    "socket_options",
    "happy_eyeballs_delay",
    "resolver",
    "policy",
    "on_event",
    "steer",
)


class _Guarded:
    """Comes before a class of event loops among the bases."""

    dial_options: dict[str, Any]

    async def create_connection(
        self, protocol_factory: Callable[[], Any], host: Any = None, port: Any = None, **kwds: Any
    ) -> Any:
        if kwds.get("sock") is not None or (host is None and port is None):
            # Nothing to dial. Ours ends here too, with the socket that it has dialed.
            below: Any = super()
            return await below.create_connection(protocol_factory, host, port, **kwds)
        # Many callers hand on None for what they were not told.
        told = {name: value for name, value in kwds.items() if value is not None}
        return await create_connection(protocol_factory, host, port, **{**self.dial_options, **told})

    async def sock_connect(self, sock: Any, address: Any) -> None:
        below: Any = super()
        with guard():
            await below.sock_connect(sock, address)


@functools.cache
def _guarded(loop_class: Any) -> Any:
    return type(loop_class.__name__, (_Guarded, loop_class), {"__module__": __name__})


def new_event_loop(
    loop_class: type[asyncio.AbstractEventLoop] = _OWN, *, dialer: Dialer = _DIALER
) -> asyncio.AbstractEventLoop:
    """Return a new event loop whose ``create_connection`` and ``sock_connect`` never reach themselves.

    All that connects through the loop is safe: asyncio's streams, and the libraries above them (aiohttp,
    asyncpg, redis.asyncio). What they see is a ConnectionRefusedError. No event loop policy is set, and
    no other loop touched. To ``sock_connect`` applies what `safedial.guard` says: a socket with a source
    port of its own is checked too.

    Args:
        loop_class: the class to extend, such as ``uvloop.Loop``, which dials in C and is out of the
            guard's reach. Default: asyncio's own for this system.
        dialer: what ``create_connection`` dials with. What its caller says comes first; None says
            nothing. Default: a Dialer that, like asyncio, tries one address after the other.

    Raises:
        TypeError: an argument is of no use; the message names it.

    Example::

        with asyncio.Runner(loop_factory=lambda: new_event_loop(uvloop.Loop)) as runner:
            runner.run(main())
    """
    if not (isinstance(loop_class, type) and issubclass(loop_class, asyncio.AbstractEventLoop)):
        raise TypeError(f"loop_class must be a class of event loops, not {loop_class!r}")
    if not isinstance(dialer, Dialer):
        raise TypeError(f"dialer must be a safedial.Dialer, not {dialer!r}")
    base: Any = loop_class
    loop: Any = _guarded(base)()
    loop.dial_options = {
        "timeout": None if dialer.timeout is DEFAULT else dialer.timeout,
        "local_addr": dialer.source_address or None,
        **{name: getattr(dialer, name) for name in _ALIKE},
    }
    made: asyncio.AbstractEventLoop = loop
    return made
