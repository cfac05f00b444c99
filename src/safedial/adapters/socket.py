"""A module in the shape of the stdlib's `socket`, for clients that take one; its TCP connects are guarded.

All that is not here is the stdlib's own.

Example::

    from safedial.adapters import socket

    client = pymemcache.Client((host, port), socket_module=socket)
"""

import socket as stdlib
import ssl
from typing import Any

from safedial._clients.guard import guard
from safedial._dial.dialer import safe_connect as create_connection

__all__ = ["SSLSocket", "create_connection", "socket"]


class _Guarded:
    __slots__ = ()

    def connect(self, *args: Any, **kwds: Any) -> None:
        below: Any = super()
        with guard():
            below.connect(*args, **kwds)

    def connect_ex(self, *args: Any, **kwds: Any) -> int:
        below: Any = super()
        with guard():
            code: int = below.connect_ex(*args, **kwds)
        return code


class socket(_Guarded, stdlib.socket):  # noqa: N801  # the stdlib's name
    """A `socket.socket` whose TCP connects are guarded, as by `safedial.guard`.

    Where nobody listens, ``connect()`` raises ConnectionRefusedError and ``connect_ex()`` returns its
    errno, also where the kernel has connected the socket to itself; it is closed then.
    """

    __slots__ = ()


class SSLSocket(_Guarded, ssl.SSLSocket):
    """The same for TLS, where a client wraps its socket before it connects, as pymemcache does.

    Example::

        context = ssl.create_default_context()
        context.sslsocket_class = SSLSocket
        client = pymemcache.Client((host, port), socket_module=socket, tls_context=context)
    """


def __getattr__(name: str) -> Any:
    return getattr(stdlib, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(stdlib)})
