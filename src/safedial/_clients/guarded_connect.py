"""The guarded connect, below a client that dials with a socket of its own."""

import socket
import time
from collections.abc import Sequence

from safedial._address import SockAddr
from safedial._clients.layers import Below
from safedial._retry.transient import error_type
from safedial._tcp import connect, exhaustion, steering
from safedial.errors import SelfConnectError
from safedial.events import DialEvent, EventKind, OnEvent, tell, warn


def connect_and_tell(sock: socket.socket, address: SockAddr, below: Below, hooks: Sequence[OnEvent]) -> None:
    """Connect *sock* by means of *below*, never to itself, and tell the *hooks*."""
    if not hooks:
        connect_safely(sock, address, below)
        return
    began = time.monotonic()
    try:
        connect_safely(sock, address, below)
    except BlockingIOError:
        raise  # the outcome of a non-blocking connect is not known yet
    except OSError as error:
        _tell(hooks, "self_connect" if isinstance(error, SelfConnectError) else "failed", address, began, error)
        raise
    _tell(hooks, "connected", address, began, None)


def connect_safely(sock: socket.socket, address: SockAddr, below: Below) -> None:
    """Connect *sock* by means of *below*, never to itself."""
    sides = steering.side_options(address[1])
    if sides != steering.UNSTEERED and (own := steering.own_option(sock)) and own not in sides:
        sides = steering.UNSTEERED  # the caller narrowed the range
    try:
        bound = bool(sock.getsockname()[1])
    except OSError:
        bound = False  # Windows, if the socket was never bound
    except (LookupError, TypeError):
        bound = True  # a fake, of which nothing is known
    if not bound:
        connect.let_servers_bind(sock)
    try:
        try:
            connect.connect(sock, address, sides, below)
        except BlockingIOError:
            # The kernel has drawn the local port already, so the outcome is known.
            connect.check(sock, address, connecting=True)
            raise
    except SelfConnectError as error:
        warn("%s", error.strerror)
        raise
    except OSError as error:
        if exhaustion.may_be_exhausted(error, sides) and not bound:
            raise exhaustion.explained(sock, address, sides, error)  # noqa: B904  # has it as its cause, or is it
        raise


def _tell(hooks: Sequence[OnEvent], kind: EventKind, address: SockAddr, began: float, error: OSError | None) -> None:
    seconds = time.monotonic() - began
    named = None if error is None else error_type(error)
    event = DialEvent(kind, address[0], address[1], address, 1, seconds, error, None, seconds, named)
    for hook in hooks:
        tell(hook, event)
