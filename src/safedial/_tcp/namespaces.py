"""Which network namespace a socket and this thread belong to. A process may have several."""

import _socket
import contextlib
import os
import sys

from safedial._steps import in_event_loop
from safedial._tcp import steering

# asm-generic/socket.h, Linux 5.14. Python has no name for it.
_SO_NETNS_COOKIE = 71


def namespace_of(sock: _socket.socket) -> int:
    """Return a number for the network namespace of *sock*, 0 if it has none to tell."""
    if steering.ON_LINUX:
        with contextlib.suppress(OSError):
            return int.from_bytes(sock.getsockopt(_socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        if not in_event_loop():
            with contextlib.suppress(OSError):
                return os.stat("/proc/thread-self/ns/net").st_ino
    return 0


def namespace_here() -> int:
    """Return the number of this thread's network namespace, whose files it finds in /proc; -1 if that is not known."""
    with (
        contextlib.suppress(OSError),  # no descriptor is left
        contextlib.closing(_socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)) as sock,
    ):
        return namespace_of(sock)
    return -1
