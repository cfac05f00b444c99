"""A server's answers on their way through a bad network: late, or cut off by a reset."""

import contextlib
import socket
import threading
import time

from safedial import _clock
from safedial._address import seconds
from safedial._tcp.selfconnect import RESET
from safedial.testing.ports import check_whole
from safedial.testing.servers import Handler, Server

# Seconds between two looks at whether the connection was closed.
_LOOK = 0.02


def relayed(server: Server, latency: float | None, reset_after: int | None) -> Server:
    """Return *server* behind a network where each piece of its answers is *latency* seconds late, or that resets.

    A function gets one end of a socket pair; what is written there goes on to the client.
    """
    for name, value in (("latency", latency), ("reset_after", reset_after)):
        if value is not None and not callable(server):
            raise ValueError(f"{name} needs a server that is a function, not a command")
    late = 0.0 if latency is None else seconds("latency", latency)
    if reset_after is not None:
        check_whole("reset_after", reset_after)
    return _relayed(server, late, reset_after) if callable(server) and (late or reset_after) else server


def _relayed(handler: Handler, latency: float, reset_after: int | None) -> Handler:
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
