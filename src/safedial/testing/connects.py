"""Coming between a program and its connects: every TCP ``connect`` of this process, whoever calls it.

A fault is nearer to the kernel than any guard, so that it defeats steering. Knows nothing of
particular faults.
"""

import contextlib
import socket
import threading
import weakref
from collections.abc import Callable, Generator
from typing import TypeAlias

from safedial._address import SockAddr
from safedial._clients import patch
from safedial._clients.patch import Below

Real: TypeAlias = Callable[[], None]
# Called before a connect, with its socket, its address and the real thing. Tells whether it has made
# the connect, with what it is for; if not, it is the next one's turn, and in the end the kernel's.
Between: TypeAlias = Callable[[socket.socket, SockAddr, Real], bool]

_between: list[Between] = []
_lock = patch.lock_held_across_forks()
_exempt = threading.local()


class _Faults:
    """The layer of all faults. A connect meets one of them at most, the newest first."""

    def wanted(self) -> bool:
        return not getattr(_exempt, "depth", 0)

    def connect(self, sock: socket.socket, address: SockAddr, below: Below) -> None:
        def real() -> None:
            below(sock, address)

        if not any(fault(sock, address, real) for fault in tuple(reversed(_between))):
            real()


_layer = _Faults()


@contextlib.contextmanager
def between(fault: Between) -> Generator[None]:
    """Let *fault* come between every TCP connect of this process, in all its threads."""
    with _lock:
        if not _between:
            patch.put(_layer, nearest_kernel=True)
        _between.append(fault)
    try:
        yield
    finally:
        with _lock:
            _between.remove(fault)
            if not _between:
                patch.remove(_layer)


@contextlib.contextmanager
def exempt() -> Generator[None]:
    """Let the connects of this thread pass: those that `safedial.testing` makes for itself."""
    _exempt.depth = getattr(_exempt, "depth", 0) + 1
    try:
        yield
    finally:
        _exempt.depth -= 1


class Sockets:
    """Sockets, each known by what it is: a subclass of the user's may have no hash. None is kept alive."""

    def __init__(self) -> None:
        self._seen: dict[int, weakref.ref[socket.socket]] = {}

    def add(self, sock: socket.socket) -> None:
        """Know *sock* from now on."""
        self._seen[id(sock)] = weakref.ref(sock)

    def __contains__(self, sock: socket.socket) -> bool:
        seen = self._seen.get(id(sock))
        return seen is not None and seen() is sock  # a number may be another's by now

    def alive(self) -> list[socket.socket]:
        """Return those that somebody keeps."""
        return [sock for seen in list(self._seen.values()) if (sock := seen()) is not None]
