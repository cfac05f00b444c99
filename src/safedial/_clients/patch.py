"""The one place that replaces `socket.socket.connect` and ``connect_ex``, as long as there is a layer.

All Python clients end up there: blocking ones, asyncio's, trio's, those behind TLS. C libraries don't.
"""

import _socket
import operator
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeAlias

from safedial._address import INET
from safedial._forks import lock_held_across_forks

# The next step towards the kernel: connects, or raises the kernel's error.
Below: TypeAlias = Callable[[socket.socket, Any], None]

# Plain ints. The properties of socket.socket make enums of them, which costs half a microsecond each.
_family = _socket.socket.family.__get__
_type = _socket.socket.type.__get__
_STREAM = int(socket.SOCK_STREAM)
_INET = frozenset(map(int, INET))


class Layer(Protocol):
    """A layer between a program and its connects. `connect` connects a TCP socket by means of *below*."""

    def wanted(self) -> bool: ...  # whether it handles the connects of this thread or task, now

    def connect(self, sock: socket.socket, address: Any, below: Below) -> None: ...


# The layers from the program down to the kernel, and each layer as often as it was put.
_layers: tuple[Layer, ...] = ()
_users: list[Layer] = []
_patches: "list[_Patch]" = []
lock = lock_held_across_forks()


def put(layer: Layer, *, nearest_kernel: bool = False) -> None:
    """Add *layer* above all others, or below them. If it was put before, it only has one more user."""
    global _layers
    with lock:
        if not _layers:
            _patches[:] = [_Patch("connect"), _Patch("connect_ex")]
        if layer not in _users:
            _layers = (*_layers, layer) if nearest_kernel else (layer, *_layers)
        _users.append(layer)
        renew()


def remove(layer: Layer) -> None:
    """Undo one `put` of *layer*. After the last one, the layer is gone."""
    global _layers
    with lock:
        _users.remove(layer)
        if layer not in _users:
            _layers = tuple(each for each in _layers if each is not layer)
        if not _layers:
            for patch in _patches:
                patch.undo()
            _patches.clear()


def renew() -> None:
    """Replace the methods again if somebody restored them, as pytest-socket does after each test."""
    with lock:
        for patch in _patches:
            patch.renew()


class _Patch:
    """One method of `socket.socket`, replaced until `undo`."""

    def __init__(self, name: str) -> None:
        # The class that defines the methods of all sockets. `socket.socket` may be a subclass of it.
        found: type[Any] = socket.socket
        self._owner = next((each for each in found.__mro__ if _socket.socket in each.__bases__), found)
        self._name, self._inherited = name, name not in vars(self._owner)
        self._below: Any = getattr(self._owner, name)
        inert = getattr(self._below, "_patch", None)
        if isinstance(inert, _Patch) and inert._method is self._below:
            self._below = inert._below  # an old patch of ours that somebody put back: one is enough
        self._active = True
        self._method: Callable[[socket.socket, Any], Any] = self._made()
        setattr(self._owner, name, self._method)

    def undo(self) -> None:
        self._active = False
        # If somebody patched on top of it, it stays there and does nothing.
        if getattr(self._owner, self._name) is self._method:
            if self._inherited:
                delattr(self._owner, self._name)
            else:
                setattr(self._owner, self._name, self._below)

    def renew(self) -> None:
        if getattr(self._owner, self._name) == self._below:
            setattr(self._owner, self._name, self._method)

    def _made(self) -> Callable[[socket.socket, Any], Any]:
        plain = self._below
        through: Any = _through if self._name == "connect" else _code_through

        def connecting(sock: socket.socket, address: Any, /) -> Any:
            # Keep this short: connects that no layer wants pay for it too.
            layers = _layers if self._active else ()
            for layer in layers:
                if layer.wanted() and (known := _tcp_address(sock, address)) is not None:
                    if len(layers) == 1 and through is _through:
                        return layer.connect(sock, known, plain)
                    return through(layers, plain, sock, known)
            return plain(sock, address)

        connecting._patch = self  # type: ignore[attr-defined]  # for __init__, which looks for old patches
        return connecting


def _through(layers: tuple[Layer, ...], below: Below, sock: socket.socket, address: Any) -> None:
    for place, layer in enumerate(layers, 1):
        if layer.wanted():
            return layer.connect(sock, address, partial(_through, layers[place:], below))
    return below(sock, address)


def _code_through(layers: tuple[Layer, ...], connect_ex: Any, sock: socket.socket, address: Any) -> int:
    raised: list[
        BaseException
    ] = []  # by connect_ex() itself, such as the errors of getaddrinfo and of a signal handler

    def below(sock: socket.socket, address: Any) -> None:
        try:
            code = connect_ex(sock, address)
        except BaseException as error:
            raised.append(error)
            raise
        if code:
            raise OSError(code, os.strerror(code))

    try:
        _through(layers, below, sock, address)
    except OSError as error:
        if not error.errno or any(error is each for each in raised):
            raise
        return error.errno
    finally:
        raised.clear()  # their tracebacks hold this frame: break the cycle
    return 0


def _tcp_address(sock: socket.socket, address: Any) -> Any:
    """Return *address* with an int as its port; None if *sock* is not TCP or *address* is not such a tuple."""
    try:
        kind, family = _type(sock), _family(sock)
    except TypeError:  # gevent's sockets are of a class of their own
        kind, family = sock.type, sock.family
    if kind != _STREAM or family not in _INET or not issubclass(type(address), tuple) or len(address) < 2:
        return None
    try:
        return address if type(address[1]) is int else (address[0], operator.index(address[1]), *address[2:])
    except TypeError:
        return None
