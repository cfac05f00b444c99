"""A module in the shape of the stdlib's `socket`, for clients that take one. Its TCP connects are guarded.

All names that are not defined here are the stdlib's own. No dial waits for a server: pymemcache's HashClient turns to
the next one as ever, and its RetryingClient does the waiting.

Example::

    client = pymemcache.Client((host, port), socket_module=safedial.adapters.socket)
"""

import socket as stdlib
import ssl
from typing import Any

from typing_extensions import override

from safedial._clients.guard import guard
from safedial._dial.dialer import safe_connect as create_connection

__all__ = ["SSLSocket", "create_connection", "socket"]


class socket(stdlib.socket):  # noqa: N801  # the stdlib's name
    """A `socket.socket` whose TCP connects are guarded, as by `safedial.guard`.

    If nobody listens, ``connect()`` raises ConnectionRefusedError and ``connect_ex()`` returns its errno. That
    includes a self-connect, after which the socket is closed.
    """

    __slots__ = ()

    @override
    def connect(self, *args: Any, **kwds: Any) -> None:
        with guard():
            super().connect(*args, **kwds)

    @override
    def connect_ex(self, *args: Any, **kwds: Any) -> int:
        with guard():
            return super().connect_ex(*args, **kwds)


class SSLSocket(socket, ssl.SSLSocket):
    """The same for TLS, if a client wraps its socket before it connects, as pymemcache does.

    Example::

        context = ssl.create_default_context()
        context.sslsocket_class = SSLSocket
        client = pymemcache.Client((host, port), socket_module=safedial.adapters.socket, tls_context=context)
    """


def __getattr__(name: str) -> Any:
    return getattr(stdlib, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(stdlib)})
