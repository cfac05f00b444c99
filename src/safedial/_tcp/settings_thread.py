"""The port settings as a thread reads them, at most once a second: in an event loop nobody reads a file.

It is a thread of its own, because one of a pool may be busy, or in another network namespace.
"""

import _thread
import contextlib
import os
import socket
from typing import TYPE_CHECKING

from safedial import _clock
from safedial._forks import loading
from safedial._tcp import port_settings
from safedial._tcp.namespaces import namespace_here, namespace_of
from safedial._tcp.steering import PortRange

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

# Seconds for which settings are believed.
_AGE = 1.0
# Seconds that a dial waits for a look at the settings, which takes a thousandth of that.
_PATIENCE = 0.1
# Namespaces to remember. Then all are forgotten.
_MOST = 256


class Look:
    """A look at the settings of a *namespace*, by a thread."""

    __slots__ = ("_namespace", "_waiting", "done", "settings")

    def __init__(self, namespace: int) -> None:
        self._namespace = namespace
        self.done = False
        self.settings: port_settings.PortSettings | None = None
        self._waiting: list[tuple[AbstractEventLoop, Future[None]]] = []

    def begin(self) -> None:
        """Start the thread."""
        try:
            _thread.start_new_thread(self._read, ())
        except RuntimeError:  # no thread can be started: the next second, perhaps
            self.done = True

    def _read(self) -> None:
        with contextlib.suppress(Exception):  # such as when the interpreter shuts down
            if self._namespace in (0, namespace_here()):
                self.settings = port_settings.read_settings()
        self.done = True
        for loop, future in tuple(self._waiting):
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_wake, future)

    async def over(self, loop: "AbstractEventLoop", limit: float) -> None:
        """Wait until it is over, at most for *limit* seconds."""
        with loading:
            from asyncio import wait

        future: Future[None] = loop.create_future()
        self._waiting.append((loop, future))
        try:
            if not self.done:  # asked after the line above, so that the thread wakes the future
                await wait([future], timeout=limit)
        finally:
            self._waiting.remove((loop, future))


def _wake(future: "Future[None]") -> None:
    if not future.done():
        future.set_result(None)


# (believed until, look), by namespace. Without a lock: a look too many does no harm.
_looks: dict[int, tuple[float, Look]] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_looks.clear)  # it lacks the threads, and would wait for them


def last_look(namespace: int) -> Look:
    """Return the last look at the settings of *namespace*; after a second begin another."""
    key = namespace or -_thread.get_ident()
    until, last = _looks.get(key, (0.0, None))
    if last is not None and _clock.real() < until:
        return last
    begun = Look(namespace)
    if len(_looks) >= _MOST:
        _looks.clear()
    _looks[key] = _clock.real() + _AGE, begun
    begun.begin()
    return begun


async def range_now(loop: "AbstractEventLoop", sock: socket.socket, limit: float | None) -> PortRange | None:
    """Return the ephemeral range as a thread reads it, None if that takes too long for *limit* seconds.

    A `usage.Counter` of the same second knows the other settings that the thread read.
    """
    begun = last_look(namespace_of(sock))
    if not begun.done:
        # Half of the limit at most: the dial must end with its own error, not with a time-out.
        await begun.over(loop, _PATIENCE if limit is None else min(_PATIENCE, limit / 2))
    return None if begun.settings is None else begun.settings.ports
