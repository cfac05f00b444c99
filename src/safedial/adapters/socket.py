"""A module in the shape of the stdlib's `socket`, for clients that take one. Its TCP connects are guarded.

What returns a `socket.socket` in the stdlib returns one of this module's: `create_connection`, `create_server`,
`fromfd`, `fromshare`, `socketpair`, and the methods ``accept()`` and ``dup()``. All other names are the stdlib's own.
`create_connection` takes the options of `safedial.safe_connect` too.

Who replaced `socket.socket` or `socket.create_connection` is asked, as `safedial.adapters` says: sockets are then made
of his class, with the same guard.

No dial waits for a server: pymemcache's HashClient turns to the next one as ever, and its RetryingClient does the
waiting.

Example::

    client = pymemcache.Client((host, port), socket_module=safedial.adapters.socket)
"""

import functools
import socket as stdlib
import ssl
import sys
from typing import Any, Self, Unpack, cast

from safedial._address import Address
from safedial._clients.guard import inside
from safedial._dial.dialer import ConnectOptions, Dialer
from safedial._dial.replaced import is_theirs
from safedial._dial.settings import Timeout
from safedial._retry.argument import DEFAULT
from safedial.adapters import _others

__all__ = ["SSLSocket", "create_connection", "create_server", "fromfd", "socket", "socketpair"]


class _Guarded:
    """A mix-in for a class of sockets."""

    __slots__ = ()

    def connect(self, *args: Any, **kwds: Any) -> None:
        below: Any = super()
        with inside():
            below.connect(*args, **kwds)

    def connect_ex(self, *args: Any, **kwds: Any) -> int:
        below: Any = super()
        with inside():
            code: int = below.connect_ex(*args, **kwds)
            return code

    def accept(self) -> tuple["socket", Any]:
        below: Any = super()
        accepted, address = below.accept()
        return _own(accepted), address


class socket(_Guarded, stdlib.socket):  # noqa: N801  # the stdlib's name
    """A `socket.socket` whose TCP connects are guarded, as by `safedial.guard`.

    If nobody listens, ``connect()`` raises ConnectionRefusedError and ``connect_ex()`` returns its errno. That
    includes a self-connect, after which the socket is closed.
    """

    __slots__ = ()

    def __new__(cls, *args: Any, **kwds: Any) -> Self:
        """Make a socket; a guarded one of the class that somebody put in the place of the stdlib's, if there is one."""
        if cls is socket and stdlib.socket is not socket.__base__:
            return cast("Self", _guarded(stdlib.socket)(*args, **kwds))
        return super().__new__(cls, *args, **kwds)


@functools.cache
def _guarded(kind: Any) -> Any:
    """Return a guarded subclass of *kind*, which somebody put in the place of the stdlib's class."""
    return type(kind.__name__, (_Guarded, kind), {"__slots__": (), "__module__": __name__})


class SSLSocket(socket, ssl.SSLSocket):
    """The same for TLS, if a client wraps its socket before it connects, as pymemcache does.

    Example::

        context = ssl.create_default_context()
        context.sslsocket_class = SSLSocket
        client = pymemcache.Client((host, port), socket_module=safedial.adapters.socket, tls_context=context)
    """

    accept: Any = ssl.SSLSocket.accept  # it wraps what the other one accepts


def create_connection(
    address: Address,
    timeout: Timeout = DEFAULT,
    source_address: tuple[str, int] | None = None,
    *,
    all_errors: bool = False,
    **options: Unpack[ConnectOptions],
) -> socket:
    """Connect as `safedial.safe_connect` does, with its arguments and errors.

    An address that `safe_connect` refuses raises the stdlib's own error.
    """
    dialer = Dialer(timeout=timeout, source_address=source_address, **options)
    dial = stdlib.create_connection
    if _others.can_dial(dialer, address) and not is_theirs(dial, "socket"):
        return _own(dialer.dial(address, all_errors=all_errors))
    given: dict[str, Any] = {} if timeout is DEFAULT else {"timeout": timeout}
    if all_errors:
        given["all_errors"] = True
    return _own(_others.by_library(dialer, dial, address, source_address=source_address, **given))


@functools.wraps(stdlib.create_server)
def create_server(*args: Any, **kwds: Any) -> socket:  # noqa: D103  # the stdlib's docstring
    return _own(stdlib.create_server(*args, **kwds))


@functools.wraps(stdlib.fromfd)
def fromfd(*args: Any, **kwds: Any) -> socket:  # noqa: D103  # the stdlib's docstring
    return _own(stdlib.fromfd(*args, **kwds))


@functools.wraps(stdlib.socketpair)
def socketpair(*args: Any, **kwds: Any) -> tuple[socket, socket]:  # noqa: D103  # the stdlib's docstring
    one, other = stdlib.socketpair(*args, **kwds)
    return _own(one), _own(other)


if sys.platform == "win32":

    @functools.wraps(stdlib.fromshare)
    def fromshare(*args: Any, **kwds: Any) -> socket:  # the stdlib's docstring
        return _own(stdlib.fromshare(*args, **kwds))


def _own(sock: Any) -> socket:
    """Return *sock* as a socket of this module. One of a class that somebody put there stays as it is."""
    kind: Any = sock.__class__
    if kind is not socket.__base__:
        return cast("socket", sock)
    own = socket(sock.family, sock.type, sock.proto, sock.fileno())
    own.settimeout(sock.gettimeout())
    sock.detach()
    return own


def __getattr__(name: str) -> Any:
    return getattr(stdlib, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(stdlib)})
