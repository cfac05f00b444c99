"""Whether a server could bind a port just now: it is tried as servers do, with SO_REUSEADDR. Linux only."""

import contextlib
import errno
import socket
from collections.abc import Collection, Iterable, Iterator

# Each is the address for all of its family.
V4, V6 = "0.0.0.0", "::"  # noqa: S104  # they are also compared
# Nobody is known to listen on it.
_OTHER_LOOPBACK = "127.78.17.6"
# There is nothing of this kind that could be bound.
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def can_bind(port: int, listening: Collection[str], holding: Iterable[str]) -> bool:
    """Return whether a server could bind *port* beside its listeners.

    *listening* are the listeners' hosts, and *holding* those of other sockets.

    Raises:
        OSError: it could not be tried, such as PermissionError for a port that is root's.
    """
    hosts = dict.fromkeys([*_families(port, listening), *holding])
    return all(_binds(host, port) for host in hosts)


def _families(port: int, listening: Collection[str]) -> Iterator[str]:
    """Yield the addresses for all of a family in which nobody listens. A listener is in the way of such a one."""
    if not any(":" not in host for host in listening) and (V6 not in listening or is_v6_only(port)):
        yield V4
    if not any(":" in host for host in listening):
        yield V6


def is_v6_only(port: int) -> bool:
    """Return whether a listener on `V6` leaves IPv4 to others. No table shows that."""
    with contextlib.suppress(OSError):
        return _binds(_OTHER_LOOPBACK, port)
    return False


def _binds(host: str, port: int) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        if error.errno not in _NO_SUCH_ADDRESS:
            raise
    return True
