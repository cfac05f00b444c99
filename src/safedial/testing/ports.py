"""Ports where nobody listens, of the kind that is at risk: inside the ephemeral range, of the parity
that ``connect()`` likes to draw.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Generator

from safedial._address import family_of
from safedial._tcp import steering

# Linux's own, where it can't be read (Documentation/networking/ip-sysctl.rst).
_USUAL_RANGE = steering.PortRange(32768, 60999)

# Of 220 ports each in Linux's own range.
_PARTS = 64

# More would need more descriptors than a process mostly has.
_FEW = 1000

# How many places of its part this process has used.
_used = 0


def dead_port(host: str = "127.0.0.1") -> int:
    """Return a free port where nobody listens, and that the kernel may draw for a connect.

    It lies inside the ephemeral range and has the parity of the range's low end, which connect()
    draws first on Linux (__inet_hash_connect). So a loop that dials it may connect to itself. It
    is not held: another process may take it. Calls in a row return others.

    Args:
        host: a numeric address of this host.

    Raises:
        OSError: no such port is free, or *host* is not an address of this host.
    """
    with _bound(host) as holder:
        port: int = holder.getsockname()[1]
        return port


@contextlib.contextmanager
def refused_port(host: str = "127.0.0.1") -> Generator[int]:
    """Hold a port like `dead_port`, bound and not listening: connects are refused for certain.

    The kernel never draws a port that is held by a bind, so no dial connects to itself.
    """
    with _bound(host) as holder:
        yield holder.getsockname()[1]


@contextlib.contextmanager
def all_taken() -> Generator[None]:
    """Hold all free ports of a range of at most 1,000, so that the kernel has none to draw."""
    found = steering.read_range()
    with contextlib.ExitStack() as stack:
        if found is not None and found.high - found.low < _FEW:
            for port in range(found.low, found.high + 1):
                holder = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                with contextlib.suppress(OSError):  # taken already
                    holder.bind(("127.0.0.1", port))
        yield


def check_numeric(host: object) -> None:
    """Raise TypeError or ValueError where *host* is no numeric address."""
    if not isinstance(host, str):
        raise TypeError(f"host must be a numeric address, not {host!r}")
    if not family_of(host):
        raise ValueError(f"host must be a numeric address, not {host!r}")


def _bound(host: str) -> socket.socket:
    global _used
    check_numeric(host)
    low, high = steering.read_range() or _USUAL_RANGE
    step = 2 if high > low else 1
    # Processes that test at the same time have parts of the range of their own, and each call begins
    # behind the one before, so that two dead ports of one test differ.
    places = (high - low) // step + 1
    part = max(1, places // _PARTS)
    first = os.getpid() % _PARTS * part + _used % part
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    failure: OSError | None = None
    for place in range(places):
        port = low + (first + place) % places * step
        if not _unused(port):
            continue
        holder = socket.socket(family, socket.SOCK_STREAM)
        try:
            holder.bind((host, port))
        except OSError as error:
            holder.close()
            failure = error
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            _used += place + 1
            return holder
    raise OSError(errno.EADDRINUSE, f"no port of {low} to {high} is free on {host}") from failure


def _unused(port: int) -> bool:
    """Tell whether no socket has *port*, of either family, TIME_WAIT included: the kernel would not
    draw it for the other one then.
    """
    for family, wildcard in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104  # nothing listens
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind((wildcard, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
    return True
