"""A connection that a server of this process has accepted, and that is neither read nor written while it is frozen."""

import errno
import functools
import socket
import threading
from typing import Any

# Seconds between two looks at whether a frozen server has ended.
_LOOK = 0.02
_METHODS = ("recv", "recv_into", "recvmsg", "recvmsg_into", "send", "sendall", "sendfile", "sendmsg")


def freezable(plain: socket.socket, thawed: threading.Event, ended: threading.Event) -> socket.socket:
    """Return a socket in place of *plain* whose methods wait unless *thawed* is set. They fail if *ended* is set then.

    No thread can be suspended, so a handler waits in the next method that reads or writes, or in the one that it is in.
    Only a `sendall` that has begun is not held up. A connection that is wrapped in TLS has other methods.
    """
    base: Any = type(plain)
    connection = _class_below(base)(plain.family, plain.type, plain.proto, plain.detach())
    connection.settimeout(None)
    connection.thawed, connection.ended = thawed, ended
    found: socket.socket = connection
    return found


@functools.cache
def _class_below(base: type) -> Any:
    """Return a subclass of *base*: where gevent has patched `socket`, that is one of its own."""
    # Windows has no messages.
    return type("Freezable", (base,), {name: _waiting(name, base) for name in _METHODS if hasattr(base, name)})


def _waiting(name: str, base: Any) -> Any:
    plain = getattr(base, name)

    @functools.wraps(plain)
    def method(self: Any, *args: Any, **kwds: Any) -> Any:
        _wait(self)
        result = plain(self, *args, **kwds)
        _wait(self)  # it may have frozen meanwhile
        return result

    return method


def _wait(connection: Any) -> None:
    while not connection.thawed.is_set():
        connection.thawed.wait(_LOOK)
        if connection.ended.is_set():
            raise ConnectionAbortedError(errno.ECONNABORTED, "the server ended while it was frozen")
