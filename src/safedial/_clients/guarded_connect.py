"""The guarded connect, below a client that dials with a socket of its own.

The client may use the socket again after a failure: it is left as it was before.
"""

import _socket
import socket
from collections.abc import Sequence

from safedial import _clock
from safedial._address import SockAddr
from safedial._clients.layers import Below
from safedial._retry.transient import error_type
from safedial._tcp import connect, exhaustion, steering
from safedial._tcp.selfconnect import WILDCARDS, release_if_self_connected
from safedial.errors import SelfConnectError
from safedial.events import DialEvent, EventKind, OnEvent, tell, warn


def connect_and_tell(sock: socket.socket, address: SockAddr, below: Below, hooks: Sequence[OnEvent]) -> None:
    """Connect *sock* by means of *below*, never to itself, and tell the *hooks*."""
    if not hooks:
        connect_safely(sock, address, below)
        return
    began = _clock.now()
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
        local = sock.getsockname()
        bound = bool(local[1]) and not _forgets_port(sock, local)
    except OSError:
        bound = False  # Windows, if the socket was never bound
    except (LookupError, TypeError):
        bound = True  # a fake, of which nothing is known
    try:
        lent = not bound and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    except (AttributeError, OSError):  # a fake may lack the method, and a sandbox may forbid it
        lent = False
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
    except (BlockingIOError, TimeoutError):
        raise  # the handshake may go on
    except OSError as error:
        try:
            if lent:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            if sides != steering.UNSTEERED:
                sock.setsockopt(socket.IPPROTO_IP, steering.IP_LOCAL_PORT_RANGE, 0)
        except OSError:
            pass  # a sandbox may forbid it, and the kernel may lack the option
        if exhaustion.may_be_exhausted(error, sides) and not bound:
            raise exhaustion.explained(sock, address, sides, error)  # noqa: B904  # has it as its cause, or is it
        raise
    except BaseException:  # an interrupt, before the check
        release_if_self_connected(sock)
        raise


def _tell(hooks: Sequence[OnEvent], kind: EventKind, address: SockAddr, began: float, error: OSError | None) -> None:
    seconds = _clock.now() - began
    named = None if error is None else error_type(error)
    event = DialEvent(kind, address[0], address[1], address, 1, seconds, error, None, seconds, named)
    for hook in hooks:
        tell(hook, event)


def _forgets_port(sock: socket.socket, local: SockAddr) -> bool:
    """Let *sock* forget the port of its *local* address if it has lost it by a failed connect; return whether it did.

    Linux goes on showing that port. A bind to port 0 that draws none wipes it out, and fails if the socket has the
    port (__inet_bind, net/ipv4/af_inet.c). If the address was bound, or the failure came later than connect(2), the
    address is shown too: then the bind might pin it, and the port counts as the caller's own.
    """
    if not steering.ON_LINUX or local[0] not in WILDCARDS or not isinstance(sock, _socket.socket):
        return False
    option = socket.IPPROTO_IP, steering.IP_BIND_ADDRESS_NO_PORT
    try:
        before = sock.getsockopt(*option)
        sock.setsockopt(*option, 1)
        try:
            _socket.socket.bind(sock, (local[0], 0, *local[2:]))  # PySocks' own bind() has another meaning
        finally:
            sock.setsockopt(*option, before)
    except OSError:
        return False
    return True
