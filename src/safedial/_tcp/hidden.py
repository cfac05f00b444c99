"""Self-connects that getpeername() hides: suspect one by what the kernel counts, then look it up. Linux only.

A socket-level load balancer may rewrite what getpeername() answers (a BPF program of the type cgroup/getpeername4 or
getpeername6; Cilium has them). It can't rewrite these two:

- TCP_INFO. A handshake with a server brings one segment without data, the SYN-ACK. One with itself brings three. But so
  may a server that closes at once, or a SYN-ACK that was sent again. So this is only a suspicion.
- sock_diag, which is asked for one connection: from the local address to the local address. It finds a socket with that
  inode only if the suspicion is true. The kernel answers within send(2), so an event loop may ask.

If a sandbox or an old kernel (TCP_INFO before Linux 4.6) denies one of them, or no descriptor is left to ask with,
nothing is known, and nothing is claimed.
"""

import _socket
import contextlib
import os
import socket
import struct

from safedial._address import SockAddr
from safedial._tcp.steering import ON_LINUX

# linux/tcp.h: the option, and where struct tcp_info has tcpi_segs_in and tcpi_data_segs_in.
TCP_INFO, _SEGMENTS, _DATA_SEGMENTS, _SIZE = 11, 140, 152, 156
# linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h
AF_NETLINK, SOCK_DIAG, _BY_FAMILY, _REQUEST, _ANY_COOKIE = 16, 4, 20, 1, 0xFFFFFFFF
_ALL_STATES, _INODE, _ANSWER_SIZE = 0xFFF, 84, 88
# asm-generic/socket.h, Linux 5.0: the interface that the socket is bound to, also by the scope of its address.
_SO_BINDTOIFINDEX = 62


def is_hidden(sock: _socket.socket, local: SockAddr, peer: SockAddr) -> bool:
    """Return whether *sock*, whose address is *local*, is connected to itself though *peer* was given as the other end.

    False if both have one host. Dials to this host are the fastest and the most frequent, and TCP_INFO would make them
    dearer for the few balancers that rewrite nothing but the port of an address of this host.
    """
    if not ON_LINUX or local[0] == peer[0]:
        return False
    try:
        return is_suspicious(sock) and is_found(sock, local)
    except (AttributeError, LookupError, OSError, TypeError, ValueError):
        return False  # denied, or a fake


def is_suspicious(sock: _socket.socket) -> bool:
    """Return whether *sock* got more segments without data than a handshake with a server brings."""
    info = sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, _SIZE)
    if len(info) < _SIZE:
        return False
    segments: int = struct.unpack_from("=I", info, _SEGMENTS)[0]
    data: int = struct.unpack_from("=I", info, _DATA_SEGMENTS)[0]
    return segments - data > 1


def is_found(sock: _socket.socket, local: SockAddr) -> bool:
    """Return whether *sock* is the socket that is connected from *local* to *local*."""
    port = struct.pack("!H", local[1])
    host = socket.inet_pton(sock.family, local[0]).ljust(16, b"\0")
    interface = sock.getsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX)
    query = struct.pack("=BBxxI", sock.family, socket.IPPROTO_TCP, _ALL_STATES) + port + port + host + host
    query += struct.pack("=III", interface, _ANY_COOKIE, _ANY_COOKIE)
    # SOCK_NONBLOCK: without it, the default timeout would apply.
    kind = socket.SOCK_RAW | getattr(socket, "SOCK_NONBLOCK", 0)
    with contextlib.closing(_socket.socket(AF_NETLINK, kind, SOCK_DIAG)) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(query), _BY_FAMILY, _REQUEST, 0, 0) + query)
        answer = netlink.recv(4096)
    if len(answer) < _ANSWER_SIZE or struct.unpack_from("=H", answer, 4)[0] != _BY_FAMILY:
        return False  # an error, which repeats the query: there is no such connection
    # The inode is that of MPTCP's socket, too, whose cookie is another than its TCP connection's.
    inode: int = struct.unpack_from("=I", answer, _INODE)[0]
    return inode == os.fstat(sock.fileno()).st_ino
