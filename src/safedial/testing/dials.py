"""The sockets that this process's Python code dials to one port, each counted once."""

import socket
import threading
from collections.abc import Callable
from weakref import WeakValueDictionary

from safedial._address import SockAddr
from safedial.testing.intercept import Connect


class Dials:
    """The sockets dialed to *port*. *begins* is called with each one before its first connect.

    Attributes:
        count: how many there were.
    """

    def __init__(self, port: int, begins: Callable[[socket.socket], object]) -> None:
        self.count = 0
        self._port, self._begins = port, begins
        # By id: a user's subclass of socket may have no hash.
        self._sockets: WeakValueDictionary[int, socket.socket] = WeakValueDictionary()
        self._lock = threading.RLock()

    def intercept(self, sock: socket.socket, address: SockAddr, _connect: Connect) -> bool:
        """Look at a connect, as an `Interceptor`."""
        if address[1] == self._port:  # other threads may dial elsewhere
            with self._lock:
                if self._sockets.get(id(sock)) is not sock:  # non-blocking sockets connect more than once
                    self._begins(sock)
                    self._sockets[id(sock)] = sock
                    self.count += 1
        return False

    def sockets(self) -> list[socket.socket]:
        """Return those that are not freed."""
        # A copy, because the client may still dial in its thread.
        return [sock for reference in self._sockets.valuerefs() if (sock := reference()) is not None]
