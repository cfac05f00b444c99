"""A server's answers on their way through a bad network: late, or cut off by a reset."""

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence

from safedial._address import seconds
from safedial._tcp.selfconnect import RESET
from safedial.testing.accepted import Accepted
from safedial.testing.fault import Fault, Wording
from safedial.testing.ports import check_whole
from safedial.testing.servers import Handler, Server

RESETS = Wording("connection", "the answers had fewer bytes", "nobody has connected")


def relayed(
    server: Server, latency: float | None, reset_after: int | None, reset: Fault
) -> Callable[[Accepted], object] | Sequence[str]:
    """Return *server* behind a network where each piece of its answers is *latency* seconds late, or that resets.

    A function gets one end of a socket pair; what is written there goes on to the client. *reset* counts the resets.
    """
    for name, value in (("latency", latency), ("reset_after", reset_after)):
        if value is not None and not callable(server):
            raise ValueError(f"{name} needs a server that is a function, not a command")
    late = 0.0 if latency is None else seconds("latency", latency)
    if reset_after is not None:
        check_whole("reset_after", reset_after)
    return _relayed(server, late, reset_after, reset) if callable(server) and (late or reset_after) else server


def _relayed(handler: Handler, latency: float, reset_after: int | None, reset: Fault) -> Callable[[Accepted], object]:
    def relay(connection: Accepted) -> None:
        near, far = socket.socketpair()
        errors: list[BaseException] = []
        threading.Thread(target=_serve, args=(handler, far, errors), daemon=True).start()
        requests = threading.Thread(target=_forward, args=(connection, near), daemon=True)
        requests.start()
        left = reset_after
        try:
            while left != 0 and (answer := near.recv(65536)[:left]):
                connection.ended.wait(latency)
                connection.sendall(answer)
                left = None if left is None else left - len(answer)
            if left == 0:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                reset.trigger(connection.getsockname())
            elif errors:
                raise errors[0]
        finally:
            if left and reset_after:
                reset.note(str(reset_after - left))
            # A reset comes when it is closed; an end of file before that, even if not all requests were read.
            _wake(connection, socket.SHUT_RDWR if left != 0 else socket.SHUT_RD)
            _wake(near, socket.SHUT_RDWR)
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


def _forward(connection: socket.socket, near: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while request := connection.recv(65536):
            near.sendall(request)
        near.shutdown(socket.SHUT_WR)


def _wake(sock: socket.socket, direction: int) -> None:
    """End what another thread waits for."""
    with contextlib.suppress(OSError):
        sock.shutdown(direction)
