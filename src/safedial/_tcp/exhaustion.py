"""EADDRNOTAVAIL from connect(2): exhausted local ports, or an address that this host lacks?"""

import _socket
import contextlib
import errno
import socket
from typing import cast

from safedial._address import SockAddr
from safedial._steps import in_event_loop
from safedial._tcp import procnet, steering
from safedial._tcp.steering import Sides
from safedial.errors import PortsExhaustedError, PortUsage


def may_be_exhausted(error: BaseException, sides: Sides) -> bool:
    """Return whether *error* is EADDRNOTAVAIL of a connect whose port the kernel chose."""
    return isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL and bool(sides)


def explained(
    sock: socket.socket, sockaddr: SockAddr, sides: Sides, unavailable: OSError, *, count: bool = True
) -> OSError:
    """Return the error to raise for *unavailable*, EADDRNOTAVAIL.

    To *count* many ports takes a tenth of a second, so it is not done in an event loop.

    *unavailable* is permanent, and returned as it is, if this host lacks an address to reach *sockaddr* from (IPv6 is
    switched off). Exhausted ports, or a port in use that the kernel picked, are transient: PortsExhaustedError.
    """
    own = steering.own_range(sock) if sides == steering.UNSTEERED else None
    ports = own or steering.known_range()
    try:
        reached = _address_reached(sock.family, sockaddr)
        usage = procnet.usage(reached, ports) if count and not in_event_loop() else PortUsage(*(ports or ()))
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            return unavailable
        usage = PortUsage(*(ports or ()))  # such as a name that no longer resolves: nothing can be counted
    exhausted = PortsExhaustedError.at(sockaddr[0], sockaddr[1], usage)
    exhausted.__cause__ = unavailable
    return exhausted


def _address_reached(family: int, sockaddr: SockAddr) -> SockAddr:
    """Return *sockaddr* in numbers. Raise EADDRNOTAVAIL if this host has no address to reach it from."""
    # connect() of a datagram socket chooses a local address in the same way, sends nothing, and draws its port from
    # another pool. So it fails only if the address is missing. A plain socket: PySocks' would ask the proxy.
    with contextlib.closing(_socket.socket(family, socket.SOCK_DGRAM)) as probe:
        probe.connect(sockaddr)
        return cast("SockAddr", probe.getpeername())
