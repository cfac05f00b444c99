"""Holding a port: a socket that does not listen keeps the kernel from drawing the port, for every dial of this host.

Knows nothing of names. On Linux one holder serves IPv4 and IPv6, because connect() passes over a port that any bind has
(__inet_hash_connect, net/ipv4/inet_hashtables.c). So the holder may have an address that nobody dials, and is not in
the way of what has the port at another address: an ordinary connection, TIME_WAIT, a server.
"""

import _socket
import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from typing import TypeAlias

from safedial._address import SockAddr
from safedial._tcp import steering
from safedial._tcp.port_settings import read_reserved
from safedial._tcp.steering import ON_LINUX

# The stdlib's base: a program may put another class, or a mock, in `socket.socket`'s place.
Holder: TypeAlias = _socket.socket

# Out of descriptors or memory: nothing is known of the port.
SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# Loopback addresses to try. Two holders meet once in 16 million, so more failures mean a socket bound to all addresses.
_DRAWS = 3
# The lowest port that a system whose range can't be read draws by default: FreeBSD's (net.inet.ip.portrange.first).
_LOWEST_ELSEWHERE = 10000


def is_local(sockaddr: SockAddr) -> bool:
    """Return whether the numeric *sockaddr* is, or may be, an address of this host. Nothing is sent."""
    try:
        # A bind says it. A datagram socket draws its port from another pool than connect() does.
        with contextlib.closing(_new(sockaddr, socket.SOCK_DGRAM)) as probe:
            probe.bind((sockaddr[0], 0, *sockaddr[2:]))
    except OSError as error:
        if error.errno in SHORTAGE:
            raise
        # Any other error, such as that of a sandbox, says nothing of the address.
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True


def hold(sockaddr: SockAddr) -> Holder | None:
    """Return a socket that keeps the kernel off the port of *sockaddr*, a numeric address of this host.

    Return None if a socket that is bound to all addresses has the port, usually a server's: the kernel does not draw
    the port as long as that socket is open.

    Raises:
        OSError: the port can't be held.
    """
    codes: list[int] = []  # the errors' tracebacks would hold this frame in a cycle
    for address in _candidates(sockaddr):
        try:
            return _bound(address)
        except OSError as error:
            if error.errno in SHORTAGE:
                raise
            codes.append(error.errno or 0)
    if ON_LINUX and codes[0] == errno.EADDRINUSE:
        return None
    raise OSError(codes[-1], os.strerror(codes[-1]))


def may_be_drawn(port: int) -> bool:
    """Return whether the kernel may draw *port* for a connect, as far as its settings can be read."""
    ports = steering.read_range()
    if ports is None:
        return port >= (1 if ON_LINUX else _LOWEST_ELSEWHERE)
    reserved = read_reserved() or ()
    return ports.low <= port <= ports.high and not any(low <= port <= high for low, high in reserved)


def _candidates(sockaddr: SockAddr) -> Iterator[SockAddr]:
    """Yield the addresses to bind in turn."""
    port = sockaddr[1]
    if ON_LINUX:
        for _ in range(_DRAWS):
            # Not from `random`, which a program may seed alike in all of its processes. Nothing else uses 127.1.0.0 and
            # above, but 127.0.0.0/24 has resolvers and servers.
            high, middle, low = os.urandom(3)
            yield f"127.{1 + high % 254}.{middle}.{1 + low % 254}", port
        # A server on 0.0.0.0 is not in its way.
        yield "::1", port
    # Without an IPv4 loopback address, and on macOS and BSD, where 127.a.b.c is not local.
    yield sockaddr


def _new(address: SockAddr, kind: int) -> Holder:
    return _socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, kind)


def _bound(address: SockAddr) -> Holder:
    holder = _new(address, socket.SOCK_STREAM)
    try:
        if not ON_LINUX:
            _let_servers_bind(holder)  # TIME_WAIT would be in the way
        holder.bind(address)
        # On Linux after the bind. Before it, a port that an ordinary connection has would not be marked as bound
        # (inet_csk_update_fastreuse, net/ipv4/inet_connection_sock.c), and would be drawn.
        _let_servers_bind(holder)
    except BaseException:
        holder.close()
        raise
    return holder


def _let_servers_bind(holder: Holder) -> None:
    """Let a server that sets SO_REUSEADDR bind the port, too."""
    if os.name == "posix":  # on Windows, any other socket could then take the port over
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
