"""EADDRNOTAVAIL from connect(2): exhausted local ports, or an address that this host lacks?"""

import errno
import socket
from typing import cast

from safedial._address import SockAddr
from safedial._tcp import procnet, steering
from safedial._tcp.steering import Sides
from safedial.errors import PortsExhaustedError

# Addresses that nobody is connected to.
_UNKNOWN: dict[int, SockAddr] = {socket.AF_INET: ("255.255.255.255", 0), socket.AF_INET6: ("ff00::", 0)}


def may_be_exhausted(error: BaseException, sides: Sides) -> bool:
    """Return whether *error* is EADDRNOTAVAIL of a connect whose port the kernel chose."""
    return isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL and bool(sides)


def explained(sock: socket.socket, sockaddr: SockAddr, sides: Sides, unavailable: OSError) -> OSError:
    """Return the error to raise for *unavailable*, EADDRNOTAVAIL. Counting many ports takes a tenth of a second.

    *unavailable* is permanent, and returned as it is, if this host lacks an address to reach *sockaddr* from (IPv6 is
    switched off). Exhausted ports, or a port in use that the kernel picked, are transient: PortsExhaustedError.
    """
    reached = _address_reached(sock.family, sockaddr)
    if reached is None:
        return unavailable
    own = steering.own_range(sock) if sides == steering.UNSTEERED else None
    error = PortsExhaustedError.at(sockaddr[0], sockaddr[1], procnet.usage(reached, own or steering.read_range()))
    error.__cause__ = unavailable
    return error


def _address_reached(family: int, sockaddr: SockAddr) -> SockAddr | None:
    """Return *sockaddr* in numbers; None if this host has no address to reach it from."""
    # connect() of a datagram socket chooses a local address in the same way, sends nothing, and draws its port from
    # another pool. So it fails only if the address is missing.
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(sockaddr)
            return cast("SockAddr", probe.getpeername())
    except OSError as error:
        # Other errors concern the address itself, such as a name that no longer resolves.
        return None if error.errno == errno.EADDRNOTAVAIL else _UNKNOWN.get(family, sockaddr)
