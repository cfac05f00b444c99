"""Running a client factory under a fault: in a thread, with a time limit, its sockets watched."""

import asyncio
import contextlib
import gc
import inspect
import socket
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from safedial.addresses import SockAddr
from safedial.selfconnect import is_self_connected
from safedial.testing.connects import Real, between

Factory: TypeAlias = Callable[[str, int], Any]

# Seconds for a thread to end whose sockets were shut down.
_GRACE = 2.0


@dataclass
class Trial:
    """What became of one call of a factory.

    Attributes:
        error: what it raised; None where it returned, or did not end.
        hung: whether it did not end in time.
        dialed: whether a connect of its to the port was seen.
        to_itself: whether a socket of its was connected to itself when it ended, or hung.
        leaked: how many of its sockets were open when all that it returned was closed and gone.
    """

    error: BaseException | None = None
    hung: bool = False
    dialed: bool = False
    to_itself: bool = False
    leaked: int = 0

    @property
    def returned(self) -> bool:
        """Whether it returned a connection."""
        return self.error is None and not self.hung


def attempt(factory: Factory, host: str, port: int, within: float) -> Trial:
    """Call ``factory(host, port)``, await it where it must be, and close what it returns."""
    trial = Trial()
    seen: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def watch(sock: socket.socket, address: SockAddr, _real: Real) -> bool:
        if address[1] == port:  # other threads may dial elsewhere
            trial.dialed = True
            seen.add(sock)
        return False

    def call() -> None:
        try:
            returned = factory(host, port)
            if inspect.isawaitable(returned):
                asyncio.run(_await(returned, trial, seen))
            else:
                trial.to_itself |= _any_to_itself(seen)
                _close(returned)
        except BaseException as error:
            trial.error = error.with_traceback(None)  # which would keep the client's sockets alive

    thread = threading.Thread(target=call, name="a client on trial", daemon=True)
    with between(watch):
        thread.start()
        thread.join(within)
        if thread.is_alive():
            trial.hung, trial.to_itself = True, _any_to_itself(seen)
            for sock in list(seen):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # wakes who waits for it
            thread.join(_GRACE)
    gc.collect()
    trial.leaked = sum(sock.fileno() != -1 for sock in seen)
    return trial


async def _await(awaitable: Any, trial: Trial, seen: "weakref.WeakSet[socket.socket]") -> None:
    returned = await awaitable
    trial.to_itself |= _any_to_itself(seen)
    closing = _close(returned)
    if inspect.isawaitable(closing):
        await closing
    await asyncio.sleep(0)  # transports close in the loop's next turn


def _close(returned: Any) -> Any:
    """Close what a factory returned: the thing itself, or the writer of a (reader, writer) pair."""
    things: Iterable[Any] = returned if issubclass(type(returned), tuple) else (returned,)
    for thing in things:
        for name in ("aclose", "close"):
            if callable(close := getattr(thing, name, None)):
                return close()
    return None


def _any_to_itself(seen: "weakref.WeakSet[socket.socket]") -> bool:
    found = False
    for sock in list(seen):
        with contextlib.suppress(OSError):  # closed
            found = found or is_self_connected(sock)
    return found
