"""Layers between a program and its connects, and how a connect passes through them, down to the kernel."""

import _socket
import operator
import os
import socket
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol, TypeAlias

from safedial._address import INET

# The next step towards the kernel: connects, or raises the kernel's error.
Below: TypeAlias = Callable[[socket.socket, Any], None]

# Plain ints. The properties of socket.socket make enums of them, which costs half a microsecond each.
_family = _socket.socket.family.__get__
_type = _socket.socket.type.__get__
_STREAM = int(socket.SOCK_STREAM)
_INET = frozenset(map(int, INET))
# What the layers ask of a socket that is not of the stdlib's class.
_NEEDED = ("type", "family", "getsockname", "getpeername", "getsockopt", "setsockopt", "close")


class Layer(Protocol):
    """A layer between a program and its connects. `connect` connects a TCP socket by means of *below*."""

    def wanted(self) -> bool: ...  # whether it handles the connects of this thread or task, now

    def connect(self, sock: socket.socket, address: Any, below: Below) -> None: ...


def through(layers: tuple[Layer, ...], below: Below, sock: socket.socket, address: Any) -> None:
    """Connect *sock* through those of the *layers* that want it, and then by means of *below*."""
    for place, layer in enumerate(layers, 1):
        if layer.wanted():
            return layer.connect(sock, address, partial(through, layers[place:], below))
    return below(sock, address)


def code_through(layers: tuple[Layer, ...], connect_ex: Any, sock: socket.socket, address: Any) -> int:
    """Do as `through` does, for ``connect_ex()``: return the errno of a failed connect."""
    # What connect_ex() itself raised, such as the errors of getaddrinfo and of a signal handler, is not an errno. Nor
    # is the code of a gaierror: `name_failure` raises one.
    raised: list[BaseException] = []

    def below(sock: socket.socket, address: Any) -> None:
        try:
            code = connect_ex(sock, address)
        except BaseException as error:
            raised.append(error)
            raise
        if code:
            raise OSError(code, os.strerror(code))

    try:
        through(layers, below, sock, address)
    except OSError as error:
        if not error.errno or isinstance(error, socket.gaierror) or any(error is each for each in raised):
            raise
        return error.errno
    finally:
        raised.clear()  # their tracebacks hold this frame: break the cycle
    return 0


def tcp_address(sock: socket.socket, address: Any) -> Any:
    """Return *address* with an int as its port; None if *sock* is not TCP or *address* is not such a tuple."""
    try:
        kind, family = _type(sock), _family(sock)
    except TypeError:  # gevent's sockets are of a class of their own
        if not all(hasattr(sock, name) for name in _NEEDED):
            return None  # a fake
        kind, family = sock.type, sock.family
    if kind != _STREAM or family not in _INET or not issubclass(type(address), tuple) or len(address) < 2:
        return None
    try:
        return address if type(address[1]) is int else (address[0], operator.index(address[1]), *address[2:])
    except TypeError:
        return None


# The address that somebody else's ``connect`` is asked to connect to: that of a class in `socket.socket`'s place, or
# what was put in the place of the stdlib's. If it goes on to a method of ours, as eventlet's does, the layers have
# handled this connect.
above: ContextVar[Any] = ContextVar("safedial.above", default=None)


def marked(below: Any, sock: socket.socket, address: Any) -> Any:
    """Go on to *below*, which is not the stdlib's own."""
    token = above.set(address)
    try:
        return below(sock, address)
    finally:
        above.reset(token)
