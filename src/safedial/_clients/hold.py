"""Holding a port while somebody dials it: the guard for what no hook reaches."""

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
    """Keep the kernel off the port of *address* while this is entered, for every dial of this host.

    A socket is bound to it that does not listen. ``connect()`` never draws a port that a bind holds, so
    nothing connects to itself, C libraries (libpq, grpc, uvloop) included, and a dial of a dead port is
    refused. An address of another host, and one where a server listens, needs no holding and gets none.

    Hold it only for the dial: a server that sets SO_REUSEADDR can bind meanwhile, and listen; one that
    does not (PostgreSQL does, most do) gets EADDRINUSE.

    Args:
        address: (host, port); a name is resolved, blocking.

    Raises:
        OSError: the resolver's.
        TypeError, ValueError: *address* is of no use; the message names it.
    """
    with holding(addresses_of(address)):
        yield


def addresses_of(address: Address) -> list[tuple[int, SockAddr]]:
    """Return (family, socket address) for each that *address* stands for; a name is resolved, blocking."""
    host, port, known = checked(address, 0)
    infos = known or socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(info[0], info[4]) for info in infos]


async def addresses_of_async(address: Address) -> list[tuple[int, SockAddr]]:
    """Do as `addresses_of` does, without blocking the running loop."""
    host, port, known = checked(address, 0)
    if known:
        return [(info[0], info[4]) for info in known]
    import asyncio  # late: a program without asyncio gets here never

    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(info[0], info[4]) for info in infos]


@contextlib.contextmanager
def holding(addresses: Iterable[tuple[int, SockAddr]]) -> Generator[None]:
    """Hold each of *addresses*, (family, socket address) each, that can be held."""
    with contextlib.ExitStack() as stack:
        for family, sockaddr in addresses:
            try:
                holder = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                if os.name == "posix":  # on Windows it would let others take the port over
                    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                holder.bind(sockaddr)
            except OSError as error:
                # EADDRNOTAVAIL: not an address of this host. EADDRINUSE: somebody has it already, a
                # server mostly. EACCES: a port below 1024, which the kernel draws for nobody.
                logger.debug("not held: %s port %s: %s", sockaddr[0], sockaddr[1], error)
        yield
