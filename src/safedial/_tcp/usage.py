"""The figures of a PortsExhaustedError: counted when they are read, never in an event loop, believed for a second.

To count many ports takes a tenth of a second, so a dial that fails counts none. In an event loop nobody reads a file:
a thread looks at the settings, at most once a second. It is a thread of its own, because one of a pool may be busy, or
in another network namespace.
"""

import _socket
import _thread
import contextlib
import os
import socket
import sys
import time
from typing import TYPE_CHECKING

from safedial._address import SockAddr
from safedial._forks import loading, lock_held_across_forks
from safedial._steps import in_event_loop
from safedial._tcp import procnet, steering
from safedial._tcp.procnet import Settings
from safedial._tcp.steering import PortRange
from safedial.errors import PortUsage

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

# asm-generic/socket.h, Linux 5.14. Python has no name for it.
_SO_NETNS_COOKIE = 71
# Seconds for which figures and settings are believed.
_AGE = 1.0
# Seconds that a dial waits for a look at the settings, which takes a thousandth of that.
_PATIENCE = 0.1
# Entries of each cache. One that is full is emptied.
_MOST = 256

# One thread counts, and those that want the same figures wait for it.
_counting = lock_held_across_forks()
# (believed until, figures), by namespace, destination and own range.
_counted: dict[tuple[int, SockAddr, PortRange | None], tuple[float, PortUsage]] = {}


class Look:
    """A look at the settings of a *namespace*, by a thread."""

    __slots__ = ("_namespace", "_waiting", "done", "settings")

    def __init__(self, namespace: int) -> None:
        self._namespace = namespace
        self.done = False
        self.settings: Settings | None = None
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
                self.settings = procnet.settings()
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


class Counter:
    """Counts the ports in use towards *reached*, as a thread in the network namespace of *sock* sees them.

    *reached* is the address in numbers, None if that is not known. *own* is the socket's own range.
    """

    __slots__ = ("_look", "_namespace", "_own", "_reached")

    def __init__(self, sock: socket.socket, reached: SockAddr | None, own: PortRange | None) -> None:
        self._namespace = namespace_of(sock)
        self._reached = reached and reached[:2]
        self._own = own
        self._look = look(self._namespace) if in_event_loop() else None

    def known(self) -> PortUsage | None:
        """Return the figures of the last second. If there are none, and an event loop runs, what a thread read."""
        if self._reached is not None and (found := _believed(self._namespace, self._reached, self._own)) is not None:
            return found
        if not in_event_loop():
            return None
        settings = self._look.settings if self._look is not None else None
        return procnet.without_counting(settings or _only(steering.known_range()), self._own)

    def counted(self) -> PortUsage:
        """Count, unless that was done in the last second."""
        here = namespace_here()
        if self._namespace not in (0, here):
            return procnet.without_counting(_only(None), self._own)  # the tables here are another namespace's
        if self._reached is None:
            return procnet.without_counting(procnet.settings(), self._own)
        with _counting:
            found = _believed(here, self._reached, self._own)
            if found is None:
                found = procnet.usage(self._reached, self._own)
                if len(_counted) >= _MOST:
                    _counted.clear()
                _counted[here, self._reached, self._own] = time.monotonic() + _AGE, found
        return found


def _only(ports: PortRange | None) -> Settings:
    return Settings(ports, None, None, None, None)


def _believed(namespace: int, reached: SockAddr, own: PortRange | None) -> PortUsage | None:
    until, found = _counted.get((namespace, reached, own), (0.0, None))
    return found if time.monotonic() < until else None


def namespace_of(sock: _socket.socket) -> int:
    """Return a number for the network namespace of *sock*, 0 if it has none to tell."""
    if steering.ON_LINUX:
        with contextlib.suppress(OSError):
            return int.from_bytes(sock.getsockopt(_socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        if not in_event_loop():
            with contextlib.suppress(OSError):
                return os.stat("/proc/thread-self/ns/net").st_ino
    return 0


def namespace_here() -> int:
    """Return the number of this thread's network namespace, whose files it finds in /proc; -1 if that is not known."""
    with (
        contextlib.suppress(OSError),  # no descriptor is left
        contextlib.closing(_socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)) as sock,
    ):
        return namespace_of(sock)
    return -1


def look(namespace: int) -> Look:
    """Return the last look at the settings of *namespace*; after a second begin another."""
    key = namespace or -_thread.get_ident()
    until, last = _looks.get(key, (0.0, None))
    if last is not None and time.monotonic() < until:
        return last
    begun = Look(namespace)
    if len(_looks) >= _MOST:
        _looks.clear()
    _looks[key] = time.monotonic() + _AGE, begun
    begun.begin()
    return begun


async def range_now(loop: "AbstractEventLoop", sock: socket.socket, limit: float | None) -> PortRange | None:
    """Return the ephemeral range as a thread reads it, None if that takes too long for *limit* seconds.

    A `Counter` of the same second knows the other settings that the thread read.
    """
    begun = look(namespace_of(sock))
    if not begun.done:
        # Half of the limit at most: the dial must end with its own error, not with a time-out.
        await begun.over(loop, _PATIENCE if limit is None else min(_PATIENCE, limit / 2))
    return None if begun.settings is None else begun.settings.ports
