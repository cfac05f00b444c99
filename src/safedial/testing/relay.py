"""A server's answers on their way through a bad network: late, or cut off by a reset."""

import contextlib
import socket
import threading
import time

from safedial import _clock
from safedial._tcp.selfconnect import RESET
from safedial.testing.servers import Handler

# Seconds between two looks at whether the connection was closed.
_LOOK = 0.02


def relayed(handler: Handler, latency: float, reset_after: int | None) -> Handler:
    """Return *handler* with another network: it has one end of a socket pair, of which all comes on to the client.

    Each piece of its answers is *latency* seconds late. The connection is reset after *reset_after* bytes of them.
    """

    def relay(connection: socket.socket) -> None:
        near, far = socket.socketpair()
        threading.Thread(target=_serve, args=(handler, far), daemon=True).start()
        requests = threading.Thread(target=_forward, args=(connection, near), daemon=True)
        requests.start()
        try:
            left = reset_after
            while left != 0 and (answer := near.recv(65536)[:left]):
                _wait(latency, connection)
                connection.sendall(answer)
                left = None if left is None else left - len(answer)
            if left == 0:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        finally:
            _wake(connection, socket.SHUT_RD)
            _wake(near, socket.SHUT_RDWR)
            requests.join()  # as long as it reads, the connection can't be closed
            near.close()

    return relay


def _serve(handler: Handler, far: socket.socket) -> None:
    with far, contextlib.suppress(OSError):  # the client has gone
        handler(far)


def _forward(connection: socket.socket, near: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while request := connection.recv(65536):
            near.sendall(request)
        near.shutdown(socket.SHUT_WR)


def _wait(latency: float, connection: socket.socket) -> None:
    due = _clock.real() + latency
    while (left := due - _clock.real()) > 0 and connection.fileno() != -1:
        time.sleep(min(left, _LOOK))


def _wake(sock: socket.socket, direction: int) -> None:
    """End what another thread waits for."""
    with contextlib.suppress(OSError):
        sock.shutdown(direction)
