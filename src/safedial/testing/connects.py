"""Coming between a program and its connects: every TCP ``connect`` of this process, whoever calls it.

`socket.socket.connect` and ``connect_ex`` are where all Python clients arrive: blocking ones,
asyncio's, those behind TLS. A C library dials past them. Nothing is patched until a fault begins,
and all is as before when the last one ends. Knows nothing of particular faults.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeAlias

from safedial.addresses import SockAddr
from safedial.selfconnect import INET

Real: TypeAlias = Callable[[], None]
# Called before a connect, with its socket, its address and the real thing. Tells whether it has made
# the connect, with what it is for; if not, it is the next one's turn, and in the end the kernel's.
Between: TypeAlias = Callable[[socket.socket, SockAddr, Real], bool]

_between: list[Between] = []
_patches: "list[_Patch]" = []
_lock = threading.RLock()
_exempt = threading.local()


@contextlib.contextmanager
def between(fault: Between) -> Generator[None]:
    """Let *fault* come between every TCP connect of this process, in all its threads. The newest
    fault comes first, and a connect meets one of them at most.
    """
    with _lock:
        if not _between:
            _patches[:] = [_Patch("connect"), _Patch("connect_ex")]
        _between.append(fault)
    try:
        yield
    finally:
        with _lock:
            _between.remove(fault)
            if not _between:
                for patch in _patches:
                    patch.undo()


@contextlib.contextmanager
def exempt() -> Generator[None]:
    """Let the connects of this thread pass: those that `safedial.testing` makes for itself."""
    _exempt.depth = getattr(_exempt, "depth", 0) + 1
    try:
        yield
    finally:
        _exempt.depth -= 1


class _Patch:
    """One method of `socket.socket`, replaced until `undo`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._below: Any = getattr(socket.socket, name)
        self._inherited = name not in vars(socket.socket)
        self._active = True
        self._method = self._made()
        setattr(socket.socket, name, self._method)

    def undo(self) -> None:
        self._active = False
        if vars(socket.socket).get(self._name) is not self._method:
            return  # somebody has patched on top of it: there it stays, and does nothing
        if self._inherited:
            delattr(socket.socket, self._name)
        else:
            setattr(socket.socket, self._name, self._below)

    def _made(self) -> Callable[[socket.socket, Any], Any]:
        raises = self._name == "connect"  # connect_ex() returns what connect() raises

        def connecting(sock: socket.socket, address: Any, /) -> Any:
            tcp = sock.family in INET and sock.type == socket.SOCK_STREAM and issubclass(type(address), tuple)
            if not self._active or not tcp or getattr(_exempt, "depth", 0) > 0:
                return self._below(sock, address)

            def real() -> None:
                if code := self._below(sock, address):
                    raise OSError(code, os.strerror(code))

            try:
                if not any(fault(sock, address, real) for fault in tuple(reversed(_between))):
                    real()
            except OSError as error:
                if raises or isinstance(error, socket.gaierror):  # which connect_ex() raises too
                    raise
                return error.errno
            return None if raises else 0

        return connecting
