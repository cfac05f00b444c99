"""Blocking calls, such as to the resolver, in daemon threads: the end of the wait does not wait for them.

asyncio resolves in its executor, whose threads are joined at the end of `asyncio.run`, and again at the end of Python:
a name server that is silent would hold up the end by half a minute.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

# Seconds. resolv.conf(5): the next name server is asked after 5 seconds. A slower answer is not lost: the thread waits
# on, and the next look takes it.
_PATIENCE = 6.0
_asked: dict[tuple[Any, ...], Future[Any]] = {}


async def call(function: Callable[..., Any], *args: Any) -> Any:
    """Return ``function(*args)``, called in a daemon thread. If this is cancelled, the thread runs on."""
    return await asyncio.wrap_future(_start(function, *args))


async def resolve(
    host: str | None,
    port: int,
    family: int = 0,
    type: int = 0,  # noqa: A002  # getaddrinfo's name, which the dial calls it by
    proto: int = 0,
    flags: int = 0,
) -> Any:
    """Return the addresses of *host*, as `socket.getaddrinfo` does. A name has no more than one thread at a time.

    Raises:
        socket.gaierror: the resolver's, or EAI_AGAIN if no answer has come for six seconds.
    """
    question = host, port, family, type, proto, flags
    answer = _asked.get(question)
    if answer is None:
        answer = _asked[question] = _start(socket.getaddrinfo, *question)
    try:
        async with asyncio.timeout(_PATIENCE):
            return await asyncio.wrap_future(answer)
    except TimeoutError:
        raise socket.gaierror(socket.EAI_AGAIN, "the name server does not answer") from None
    finally:
        if answer.done():
            _asked.pop(question, None)


def _start(function: Callable[..., Any], *args: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()  # so that a cancellation can't take the result's place

    def run() -> None:
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
