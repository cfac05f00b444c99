"""A server's answers on their way through a bad network: late, or cut off by a reset."""

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Sequence

from safedial import _clock
from safedial._address import seconds
from safedial._tcp.selfconnect import RESET
from safedial.testing.fault import CountingFault, Wording
from safedial.testing.ports import check_whole
from safedial.testing.servers import Handler, Server

# Pieces of an answer that are on their way, of at most 64 kB each; then the server has to wait.
_MOST = 256
RESETS = Wording("connection", "the answers had fewer bytes", "nobody has connected")


def relayed(
    server: Server, latency: float | None, reset_after: int | None, reset: CountingFault
) -> Callable[[socket.socket, threading.Event], object] | Sequence[str]:
    """Return *server* behind a network where each piece of its answers is *latency* seconds late, or that resets.

    A function gets one end of a socket pair; what is written there goes on to the client. *reset* counts the resets.
    """
    for name, value in (("latency", latency), ("reset_after", reset_after)):
        if value is not None and not callable(server):
            raise ValueError(f"{name} needs a server that is a function, not a command")
    late = 0.0 if latency is None else seconds("latency", latency)
    if reset_after is not None:
        check_whole("reset_after", reset_after)
    if not callable(server):
        return server
    if late or reset_after:
        return _relayed(server, late, reset_after, reset)
    return lambda connection, _: server(connection)


def _relayed(
    handler: Handler, latency: float, reset_after: int | None, reset: CountingFault
) -> Callable[[socket.socket, threading.Event], object]:
    def relay(connection: socket.socket, ended: threading.Event) -> None:
        near, far = socket.socketpair()
        errors: list[BaseException] = []
        threading.Thread(target=_serve, args=(handler, far, errors), daemon=True).start()
        requests = threading.Thread(target=_forward, args=(connection, near), daemon=True)
        requests.start()
        answers: queue.Queue[tuple[float, bytes]] = queue.Queue(_MOST)
        threading.Thread(target=_take, args=(near, answers, latency), daemon=True).start()
        left, answer = reset_after, b"?"
        try:
            while left != 0:
                due, answer = answers.get()
                ended.wait(max(0.0, due - _clock.real()))
                if not answer:
                    break
                connection.sendall(answer[:left])
                left = None if left is None else max(0, left - len(answer))
            if left == 0:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                reset.trigger(connection.getsockname())
            elif errors:
                raise errors[0]
        finally:
            if left and reset_after:
                reset.note(str(reset_after - left))
            _wake(connection, socket.SHUT_RD)
            _wake(near, socket.SHUT_RDWR)
            while answer:
                _, answer = answers.get()
            requests.join()  # as long as it reads, the connection can't be closed
            near.close()

    return relay


def _serve(handler: Handler, far: socket.socket, errors: list[BaseException]) -> None:
    with far:  # closed when *errors* are known
        try:
            handler(far)
        except OSError:  # the client has gone
            pass
        except BaseException as error:
            errors.append(error)


def _take(near: socket.socket, answers: "queue.Queue[tuple[float, bytes]]", latency: float) -> None:
    """Put each piece into *answers*, with the time when it is due; at the end an empty one."""
    answer = b"?"
    while answer:
        try:
            answer = near.recv(65536)
        except OSError:  # the server has ended
            answer = b""
        answers.put((_clock.real() + latency, answer))


def _forward(connection: socket.socket, near: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while request := connection.recv(65536):
            near.sendall(request)
        near.shutdown(socket.SHUT_WR)


def _wake(sock: socket.socket, direction: int) -> None:
    """End what another thread waits for."""
    with contextlib.suppress(OSError):
        sock.shutdown(direction)
