"""The one place where `socket.socket.connect` and ``connect_ex`` are replaced.

All Python clients arrive there in the end: blocking ones, asyncio's, trio's, those behind TLS. A C
library dials past it. A layer comes between a program and its TCP connects; nothing is replaced while
there is none, and all is as before when the last one has gone. Knows no particular layer.
"""

import _socket
import operator
import os
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeAlias

from safedial._tcp.selfconnect import INET

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


def lock_held_across_forks() -> threading.RLock:
    """Return a lock that a fork waits for: what it guards is whole in the child, and nobody holds it there.

    A fork takes the locks in the reverse order of their making, which has to be the order of their use.
    """
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


# From the program down to the kernel.
_layers: tuple[Layer, ...] = ()
_patches: "list[_Patch]" = []
_lock = lock_held_across_forks()


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


def renew() -> None:
    """Come between again where somebody has put back what was there before, as pytest-socket does
    after each test.
    """
    with _lock:
        for patch in _patches:
            patch.renew()


def _through(layers: list[Layer], below: Below, sock: socket.socket, address: Any) -> None:
    if layers:
        layers[0].connect(sock, address, partial(_through, layers[1:], below))
    else:
        below(sock, address)


def _class_of_sockets() -> Any:
    """Return the class whose methods all sockets have: somebody may have put a subclass in its place."""
    found: type[Any] = socket.socket
    return next((each for each in found.__mro__ if _socket.socket in each.__bases__), found)


class _Patch:
    """One method of `socket.socket`, replaced until `undo`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._owner = _class_of_sockets()
        self._inherited = name not in vars(self._owner)
        below: Any = getattr(self._owner, name)
        while isinstance(inert := getattr(below, "_patch", None), _Patch):
            below = inert._below  # of ours, put back by somebody who had found it: one is enough
        self._below: Any = below
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

    def renew(self) -> None:
        if getattr(self._owner, self._name) == self._below:
            setattr(self._owner, self._name, self._method)

    def _made(self) -> Callable[[socket.socket, Any], Any]:
        plain = self._below

        def connecting(sock: socket.socket, address: Any, /) -> Any:
            for layer in _layers if self._active else ():  # this costs who is not concerned: keep it short
                if layer.wanted():
                    return self._layered(sock, address)
            return plain(sock, address)

        connecting._patch = self  # type: ignore[attr-defined]  # for whoever finds it inert
        return connecting

    def _layered(self, sock: socket.socket, address: Any) -> Any:
        known = _tcp_address(sock, address)
        if known is None:
            return self._below(sock, address)
        returns_code = self._name == "connect_ex"  # what connect() raises, mostly
        raised: list[BaseException] = []

        def below(sock: socket.socket, address: Any) -> None:
            try:
                code = self._below(sock, address)
            except BaseException as error:
                raised.append(error)
                raise
            if returns_code and code:
                raise OSError(code, os.strerror(code))

        try:
            _through([layer for layer in _layers if layer.wanted()], below, sock, known)
        except OSError as error:
            if not returns_code or any(error is each for each in raised):
                raise
            return error.errno
        finally:
            raised.clear()  # their tracebacks hold this frame: break the cycle
        return 0 if returns_code else None


def _tcp_address(sock: socket.socket, address: Any) -> Any:
    """Return *address* with a port that is an int; None where this is no TCP, or nothing that the socket
    module would take.
    """
    if sock.family not in INET or sock.type != socket.SOCK_STREAM:
        return None
    if not issubclass(type(address), tuple) or len(address) < 2:
        return None
    try:
        return (address[0], operator.index(address[1]), *address[2:])
    except TypeError:
        return None
