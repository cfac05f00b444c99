"""A connection that a server of this process has accepted, as its handler gets it."""

import errno
import functools
import socket
import threading
from typing import Any


class Accepted(socket.socket):
    """A connection that is neither read nor written while its server is frozen.

    No thread can be suspended, so its handler waits in the next method that reads or writes. What it has read, or
    begun to write, when the server freezes does not reach it, or goes on. TLS wraps the descriptor and does not wait.

    Attributes:
        ended: set when the server closes its connections, and not before.
    """

    def __init__(self, plain: socket.socket, thawed: threading.Event, ended: threading.Event) -> None:
        super().__init__(plain.family, plain.type, plain.proto, plain.detach())
        self.settimeout(None)
        self._thawed, self.ended = thawed, ended

    def wait(self) -> None:
        """Wait as long as the server is frozen."""
        if not self._thawed.is_set():
            self._thawed.wait()
            if self.ended.is_set():
                raise ConnectionAbortedError(errno.ECONNABORTED, "the server ended while it was frozen")


def _waiting(plain: Any) -> Any:
    @functools.wraps(plain)
    def method(self: Accepted, *args: Any, **kwds: Any) -> Any:
        self.wait()
        result = plain(self, *args, **kwds)
        self.wait()  # it may have frozen meanwhile
        return result

    return method


for _name in ("recv", "recv_into", "recvmsg", "recvmsg_into", "send", "sendall", "sendfile", "sendmsg"):
    if hasattr(socket.socket, _name):  # Windows has no messages
        setattr(Accepted, _name, _waiting(getattr(socket.socket, _name)))
