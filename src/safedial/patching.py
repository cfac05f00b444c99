"""The one place where `socket.socket.connect` and ``connect_ex`` are replaced.

All Python clients arrive there in the end: blocking ones, asyncio's, trio's, those behind TLS. A C
library dials past it. A layer comes between a program and its TCP connects; nothing is replaced while
there is none, and all is as before when the last one has gone. Knows no particular layer.
"""

import os
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeAlias

from safedial.selfconnect import INET

# What is nearer to the kernel: makes the connect, or raises what it raises.
Below: TypeAlias = Callable[[socket.socket, Any], None]


class Layer(Protocol):
    """Something that comes between."""

    def wanted(self) -> bool:
        """Tell whether it comes between the connects of this thread or task, now."""
        ...

    def connect(self, sock: socket.socket, address: Any, below: Below) -> None:
        """Connect *sock*, a TCP socket, to *address*, a tuple, by means of *below*."""
        ...


# From the program down to the kernel.
_layers: tuple[Layer, ...] = ()
_patches: "list[_Patch]" = []
_lock = threading.RLock()


def put(layer: Layer, *, nearest_kernel: bool = False) -> None:
    """Let *layer* come between, above all others, or below them."""
    global _layers
    with _lock:
        if not _layers:
            _patches[:] = [_Patch("connect"), _Patch("connect_ex")]
        _layers = (*_layers, layer) if nearest_kernel else (layer, *_layers)


def remove(layer: Layer) -> None:
    """Take *layer* away."""
    global _layers
    with _lock:
        _layers = tuple(each for each in _layers if each is not layer)
        if not _layers:
            for patch in _patches:
                patch.undo()
            _patches.clear()


def _through(layers: list[Layer], below: Below, sock: socket.socket, address: Any) -> None:
    if layers:
        layers[0].connect(sock, address, partial(_through, layers[1:], below))
    else:
        below(sock, address)


class _Patch:
    """One method of `socket.socket`, replaced until `undo`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._owner: Any = socket.socket
        self._below: Any = getattr(socket.socket, name)
        self._inherited = name not in vars(socket.socket)
        self._active = True
        self._method = self._made()
        setattr(self._owner, name, self._method)

    def undo(self) -> None:
        self._active = False
        if getattr(self._owner, self._name) is not self._method:
            return  # somebody has patched on top of it: there it stays, and does nothing
        if self._inherited:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._below)

    def _made(self) -> Callable[[socket.socket, Any], Any]:
        plain = self._below

        def connecting(sock: socket.socket, address: Any, /) -> Any:
            for layer in _layers if self._active else ():  # this costs who is not concerned: keep it short
                if layer.wanted():
                    return self._layered(sock, address)
            return plain(sock, address)

        return connecting

    def _layered(self, sock: socket.socket, address: Any) -> Any:
        layers = [layer for layer in _layers if layer.wanted()]
        if not _tcp(sock, address):
            return self._below(sock, address)
        raises = self._name == "connect"  # connect_ex() returns what connect() raises
        try:
            _through(layers, self._plainly, sock, address)
        except OSError as error:
            if raises or isinstance(error, socket.gaierror):  # which connect_ex() raises too
                raise
            return error.errno
        return None if raises else 0

    def _plainly(self, sock: socket.socket, address: Any) -> None:
        if code := self._below(sock, address):
            raise OSError(code, os.strerror(code))


def _tcp(sock: socket.socket, address: Any) -> bool:
    """Tell whether this is TCP, to an address that the socket module would take."""
    return (
        sock.family in INET
        and sock.type == socket.SOCK_STREAM
        and issubclass(type(address), tuple)
        and len(address) > 1
        and isinstance(address[1], int)
    )
