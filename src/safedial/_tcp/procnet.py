"""The one reader of /proc/net/tcp and tcp6, the tables of TCP sockets in this network namespace. Linux only."""

import contextlib
import re
import socket
import struct
from collections.abc import Iterator
from io import BufferedReader, FileIO  # as in `steering`
from typing import NamedTuple

from safedial._address import V4_MAPPED, SockAddr

# Bytes. While one block is searched, no other thread of Python runs.
_BLOCK = 1 << 16
# include/net/tcp_states.h: TCP_ESTABLISHED, TCP_TIME_WAIT, TCP_LISTEN.
ESTABLISHED, IN_TIME_WAIT, LISTENING = b"01", b"06", b"0A"
TABLES = ("tcp", "tcp6")
# Local address, peer, state; from there to the inode: 40 characters of queues and timers, the user, a timeout.
_ROW = rb": (%s) (\w+:\w{4}) (%s) .{40} *\d+ +\d+ (\d+)"
_ANY_ADDRESS, _ANY_STATE = rb"\w+:\w{4}", rb".."
_LOOPBACK_V6 = bytes(15) + b"\1"


class Row(NamedTuple):
    """A socket: its columns as they stand in the table, address and port in hex."""

    local: bytes
    peer: bytes
    state: bytes
    inode: bytes


class Connection(NamedTuple):
    """A connection: its local port, and its state as it stands in the table."""

    port: int
    state: bytes


def connections_to(sockaddr: SockAddr, local: str | None = None) -> list[Connection] | None:
    """Return this host's TCP connections to *sockaddr*, None if no table can be read.

    With *local* only those from that numeric address: those from another one take no port from a dial.
    """
    connections: list[Connection] | None = None
    for table in TABLES:
        with contextlib.suppress(OSError):
            source = rb"\w+" if local is None else _words(table, local)
            peer = b"%s:%04X" % (_words(table, sockaddr[0]), sockaddr[1])
            found = _find(table, rb": (%s:\w{4}) %s (..) " % (source, peer))
            by_source = {source: Connection(int(source[-4:], 16), state) for source, state in found}
            connections = [*(connections or ()), *by_source.values()]
    return connections


def sockets_on(port: int) -> Iterator[Row]:
    """Yield this host's TCP sockets whose local port is *port*."""
    pattern = _ROW % (rb"\w+:%04X" % port, _ANY_STATE)
    for table in TABLES:
        with contextlib.suppress(OSError):
            yield from dict.fromkeys(map(Row._make, _find(table, pattern)))


def rows(table: str, state: bytes = _ANY_STATE) -> Iterator[Row]:
    """Yield the sockets of *table*, those in *state* if it is given. One may come twice, as `_find` says.

    IPv4-mapped addresses are spelled as those of IPv4.

    Raises:
        OSError: the table can't be read; FileNotFoundError for that of IPv6 if the kernel has none.
    """
    found = map(Row._make, _find(table, _ROW % (_ANY_ADDRESS, state)))
    if table == "tcp":
        return found
    mapped = _spelled(V4_MAPPED)
    return (Row(row.local.removeprefix(mapped), row.peer.removeprefix(mapped), *row[2:]) for row in found)


def spell(host: str, port: int) -> bytes:
    """Spell an address as `rows` does."""
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    return b"%s:%04X" % (_spelled(packed.removeprefix(V4_MAPPED)), port)


def read(column: bytes) -> tuple[str, int]:
    """Return the numeric host and the port that `rows` spells as *column*."""
    words, _, port = column.partition(b":")
    packed = struct.pack(f"={len(words) // 8}I", *(int(words[at : at + 8], 16) for at in range(0, len(words), 8)))
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed), int(port, 16)


def _find(table: str, pattern: bytes) -> Iterator[tuple[bytes, ...]]:
    """Yield the columns that *pattern* finds in *table*, row by row: proc_net_tcp(5) describes them.

    A row may come twice if sockets come and go while the file is read.
    """
    # The calling thread's namespace; /proc/net is that of the process's first thread. One search through many rows
    # takes less than half of a loop over the lines.
    with BufferedReader(FileIO(f"/proc/thread-self/net/{table}")) as file:
        while rows := file.read(_BLOCK):
            yield from re.findall(pattern, rows + file.readline())


def _words(table: str, host: str) -> bytes:
    """Spell the numeric *host* as *table* does: as 32-bit words in the host's byte order."""
    packed = _packed(host)
    if table == "tcp6" and len(packed) == 4:
        packed = V4_MAPPED + packed
    return _spelled(packed)


def _spelled(packed: bytes) -> bytes:
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return b"".join(b"%08X" % word for word in words)


def is_loopback(host: str) -> bool:
    """Return whether the kernel reaches the numeric *host* by the loopback addresses."""
    packed = _packed(host)
    return packed[0] == 127 or packed == _LOOPBACK_V6


def _packed(host: str) -> bytes:
    """Return the bytes of the numeric *host*, as the kernel connects to it."""
    host = host.partition("%")[0]
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    if packed.startswith(V4_MAPPED):
        packed = packed[12:]  # such a connection may be in either table
    if not any(packed):  # a wildcard destination is the loopback address
        return b"\x7f\0\0\1" if len(packed) == 4 else _LOOPBACK_V6
    return packed
