"""Holding a port during a dial: the guard for code that no hook reaches."""

import contextlib
import os
import socket
from collections.abc import Generator, Iterable
from typing import TypeAlias

from safedial._address import SockAddr, checked
from safedial.events import logger

Address: TypeAlias = tuple[str | bytes | None, int | str | None]


@contextlib.contextmanager
def hold(address: Address) -> Generator[None]:
    """Keep the kernel off the port of *address* inside the block, for every dial of this host.

    A socket that does not listen is bound to the port. The kernel never draws a bound port, so nothing connects to
    itself, C libraries (libpq, grpc, uvloop) included, and a dial to a dead port is refused. An address of another
    host, or of a server that listens, needs no holding and is not held. Hold it only for the dial: meanwhile a server
    that sets SO_REUSEADDR (PostgreSQL does, most do) can bind the port and listen; any other gets EADDRINUSE.

    Args:
        address: (host, port). Resolving a name blocks.

    Raises:
        OSError: the resolver's.
        TypeError, ValueError: *address* is wrong; the message says how.
    """
    host, port, infos = checked(address, 0)
    with contextlib.ExitStack() as stack:
        for family, _, _, _, sockaddr in infos or socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                holder = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                if os.name == "posix":  # on Windows another socket could then take the port over
                    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                holder.bind(sockaddr)
            except OSError as error:
                # EADDRNOTAVAIL: the address is another host's. EADDRINUSE: the port is taken, usually by a server.
                # EACCES: a port below 1024, which the kernel never draws.
                logger.debug("not held: %s port %s: %s", sockaddr[0], sockaddr[1], error)
        yield


@contextlib.contextmanager
def holding(sockaddrs: Iterable[SockAddr]) -> Generator[None]:
    """Stand-in."""
    with contextlib.ExitStack() as stack:
        for sockaddr in sockaddrs:
            stack.enter_context(hold(sockaddr[:2]))
        yield
