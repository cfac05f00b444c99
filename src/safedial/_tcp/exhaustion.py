"""EADDRNOTAVAIL from connect(2): exhausted local ports, or an address that this host lacks?"""

import _socket
import contextlib
import errno
import socket
from typing import cast

from safedial._address import SockAddr, as_text, family_of
from safedial._tcp import steering
from safedial._tcp.steering import Sides
from safedial._tcp.usage import Counter
from safedial.errors import PortsExhaustedError


def may_be_exhausted(error: BaseException, sides: Sides) -> bool:
    """Return whether *error* is EADDRNOTAVAIL of a connect whose port the kernel chose."""
    return isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL and bool(sides)


def explained(sock: socket.socket, sockaddr: SockAddr, sides: Sides, unavailable: OSError) -> OSError:
    """Return the error to raise for *unavailable*, EADDRNOTAVAIL.

    *unavailable* is permanent, and returned as it is, if this host lacks an address to reach *sockaddr* from (IPv6 is
    switched off). Exhausted ports, or a port in use that the kernel picked, are transient: PortsExhaustedError.
    """
    host = as_text(sockaddr[0])
    reached: SockAddr | None = None
    local: str | None = None
    try:
        reached, local = _addresses(sock.family, sockaddr)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            return unavailable
        # Another number says nothing of the address. No port is left for the probe, either (all are reserved), or no
        # descriptor: transient, even if the address is missing, too.
        if family_of(host):
            reached = host, sockaddr[1]
        # Else a name that no longer resolves: nothing can be counted.
    with contextlib.suppress(AttributeError, LookupError, OSError, TypeError):  # of a fake
        source = sock.getsockname()[0]  # a wildcard, unless the caller bound it
        local = local if source in ("0.0.0.0", "::") else source  # noqa: S104  # it is compared
    own = steering.own_range(sock) if sides == steering.UNSTEERED else None
    exhausted = PortsExhaustedError.at(host, sockaddr[1], counter=Counter(sock, reached, local, own))
    exhausted.__cause__ = unavailable
    return exhausted


def _addresses(family: int, sockaddr: SockAddr) -> tuple[SockAddr, str]:
    """Return *sockaddr* in numbers, and the local address to reach it from. Raise EADDRNOTAVAIL if there is none."""
    # connect() of a datagram socket chooses a local address in the same way, sends nothing, and draws its port from
    # another pool. So it fails with that number only if the address is missing. A plain socket: PySocks' would ask the
    # proxy.
    with contextlib.closing(_socket.socket(family, socket.SOCK_DGRAM)) as probe:
        probe.connect(sockaddr)
        return cast("SockAddr", probe.getpeername()), probe.getsockname()[0]
