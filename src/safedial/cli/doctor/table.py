"""What is of interest among all TCP sockets of this network namespace. One pass keeps counts, and few sockets.

Which ports are listened on is known before that pass: a socket on such a port is a server's, and drew no port.
Sockets that are bound, and neither listen nor dial, are not in the kernel's table: see `look`.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from itertools import chain, takewhile

from safedial._tcp import procnet
from safedial._tcp.procnet import Row
from safedial._tcp.steering import PortRange
from safedial.cli.doctor.facts import Crowd, Endpoint, Kind, Socket, Sockets

# Crowds to report, and sockets of each kind on each port asked for: a server that has just ended may leave 100,000.
MOST_CROWDS, MOST_TAKEN = 100, 20

_KINDS: dict[bytes, Kind] = {procnet.LISTENING: "listening", procnet.IN_TIME_WAIT: "time_wait"}


def read(ports: Collection[int], ephemeral: PortRange | None) -> Sockets:
    """Read the kernel's tables. *ports* were asked for; *ephemeral* is the range, without which no crowd is counted.

    Raises:
        OSError: a table can't be read.
    """
    # Linux puts listeners first (tcp_get_idx, net/ipv4/tcp_ipv4.c). Others that have such a table (gVisor) may not.
    first = {int(row.local[-4:], 16) for table in procnet.TABLES for row in takewhile(_listens, _rows(table))}
    found = gather(_all_rows(), first, ports, ephemeral)
    served = {each.local.port for each in found.listeners}
    return found if served <= first else gather(_all_rows(), served, ports, ephemeral)


def _all_rows() -> Iterator[Row]:
    return chain.from_iterable(map(_rows, procnet.TABLES))


def _rows(table: str) -> Iterator[Row]:
    try:
        yield from procnet.rows(table)
    except FileNotFoundError:
        if table == "tcp":
            raise  # there is no /proc; a kernel without IPv6 lacks the other table


def _listens(row: Row) -> bool:
    return row.state == procnet.LISTENING


def gather(
    rows: Iterable[Row], served: Collection[int], ports: Collection[int], ephemeral: PortRange | None
) -> Sockets:
    """Pick what is of interest from *rows* in one pass. *served* are the ports on which somebody listens."""
    # Ports as the table spells them: with many rows, each conversion costs.
    wanted = {b"%04X" % port for port in set(ports) - set(served)}
    inside = range(0) if ephemeral is None else range(ephemeral.low, ephemeral.high + 1)
    drawn = {b"%04X" % port for port in set(inside) - set(served)}
    # Keys of a dict, because a row may come twice.
    listening: dict[Row, None] = {}
    taken: dict[tuple[bytes, Kind], dict[Row, None]] = defaultdict(dict)
    self_connected: dict[Row, None] = {}
    # Connections by local host, peer host and peer port. Each row of these has another local port.
    in_use: dict[bytes, int] = defaultdict(int)
    waiting: dict[bytes, int] = defaultdict(int)
    count = 0
    for row in rows:
        count += 1
        local, peer, state, _ = row
        port = local[-4:]
        if state == procnet.LISTENING:
            listening[row] = None
            continue
        if port in wanted and len(those := taken[port, _kind(state)]) < MOST_TAKEN:
            those[row] = None
        if local == peer:
            self_connected[row] = None
        elif port in drawn:
            key = local[:-4] + peer
            in_use[key] += 1
            if state == procnet.IN_TIME_WAIT:
                waiting[key] += 1
    fullest = heapq.nlargest(MOST_CROWDS, in_use, key=lambda key: (in_use[key], key))
    return Sockets(
        _sockets(listening),
        _sockets(row for those in taken.values() for row in those),
        _sockets(self_connected),
        tuple(_crowd(key, in_use[key], waiting.get(key, 0)) for key in fullest),
        count,
    )


def _sockets(rows: Iterable[Row]) -> tuple[Socket, ...]:
    """Return *rows* in the records' words, by port."""
    found = {  # a row that came twice may have come in another state, which is the same kind
        Socket(_kind(row.state), Endpoint(*procnet.read(row.local)), Endpoint(*procnet.read(row.peer)), int(row.inode))
        for row in rows
    }
    return tuple(sorted(found, key=lambda each: (each.local.port, each[:4])))


def _kind(state: bytes) -> Kind:
    return _KINDS.get(state, "connected")


def _crowd(key: bytes, in_use: int, waiting: int) -> Crowd:
    source, _, peer = key.partition(b":")
    return Crowd(procnet.read(source + b":0")[0], Endpoint(*procnet.read(peer)), in_use - waiting, waiting)


def changed(found: Sockets, change: Callable[[Socket], Socket]) -> Sockets:
    """Return *found* with each socket as *change* returns it."""
    groups = (found.listeners, found.taken, found.self_connected)
    listeners, taken, self_connected = (tuple(map(change, group)) for group in groups)
    return replace(found, listeners=listeners, taken=taken, self_connected=self_connected)
