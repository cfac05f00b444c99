"""The sockets that this process's Python code dials to one port, each counted once."""

import socket
import threading
from collections.abc import Callable
from weakref import WeakValueDictionary

from safedial._address import SockAddr
from safedial.testing.intercept import Connect


class Sockets:
    """Sockets, by their identity: a user's subclass of socket may have no hash. It keeps none of them alive."""

    def __init__(self) -> None:
        self._by_id: WeakValueDictionary[int, socket.socket] = WeakValueDictionary()

    def add(self, sock: socket.socket) -> bool:
        """Add *sock*. Return whether it is new: a non-blocking socket connects more than once, and is one dial."""
        is_new = self._by_id.get(id(sock)) is not sock
        self._by_id[id(sock)] = sock
        return is_new

    def alive(self) -> list[socket.socket]:
        """Return those that are not freed."""
        # Not values(): another thread may add one meanwhile.
        return [sock for reference in self._by_id.valuerefs() if (sock := reference()) is not None]


class Dials:
    """The sockets dialed to *port*. *begins* is called with each one before its first connect.

    Attributes:
        count: how many there were.
    """

    def __init__(self, port: int, begins: Callable[[socket.socket], object]) -> None:
        self.count = 0
        self._port, self._begins = port, begins
        self._sockets = Sockets()
        self._lock = threading.RLock()

    def intercept(self, sock: socket.socket, address: SockAddr, _connect: Connect) -> bool:
        """Look at a connect, as an `Interceptor`."""
        if address[1] == self._port:  # other threads may dial elsewhere
            with self._lock:
                if self._sockets.add(sock):
                    self._begins(sock)
                    self.count += 1
        return False

    def sockets(self) -> list[socket.socket]:
        """Return those that are not freed."""
        return self._sockets.alive()
