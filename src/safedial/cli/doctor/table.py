"""What is of interest among all TCP sockets of this network namespace. One pass keeps counts, and few sockets.

Who listens is known before that pass: a socket on such a port is a server's, and drew no port. It has no port that was
asked for either if it is on the listener's address.
Sockets that are bound, and neither listen nor dial, are not in the kernel's table: see `binding`.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from itertools import chain, takewhile

from safedial._tcp import procnet
from safedial._tcp.procnet import Row
from safedial._tcp.steering import PortRange
from safedial.cli.doctor import binding
from safedial.cli.doctor.facts import Destination, Endpoint, Kind, Socket, Sockets

# Destinations to report, and sockets of each kind on each port asked for: a server that has just ended may leave
# 100,000.
MOST_DESTINATIONS, MOST_HELD = 100, 20

_ANY_V4, _ANY_V6 = b"0" * 8, b"0" * 32
_KINDS: dict[bytes, Kind] = {procnet.LISTENING: "listening", procnet.IN_TIME_WAIT: "time_wait"}


def read(ports: Collection[int], ephemeral: PortRange | None) -> Sockets:
    """Read the kernel's tables.

    *ports* were asked for; *ephemeral* is the range, without which no connections are counted.

    Raises:
        OSError: a table can't be read.
    """
    # Linux puts listeners first (tcp_get_idx, net/ipv4/tcp_ipv4.c). Others that have such a table (gVisor) may not.
    first = {row.local for table in procnet.TABLES for row in takewhile(_listens, _rows(table))}
    v6_only = {port for port in ports if b"%s:%04X" % (_ANY_V6, port) in first and binding.is_v6_only(port)}
    found = gather(_all_rows(), first, ports, ephemeral, v6_only)
    served = {procnet.spell(*each.local) for each in found.listeners}
    return found if served <= first else gather(_all_rows(), served, ports, ephemeral, v6_only)


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
    rows: Iterable[Row],
    served: Iterable[bytes],
    ports: Collection[int],
    ephemeral: PortRange | None,
    v6_only: Collection[int] = (),
) -> Sockets:
    """Pick what is of interest from *rows* in one pass.

    *served* are the addresses on which somebody listens; on the ports *v6_only*, ``::`` is not for IPv4.
    """
    # Ports as the table spells them: with many rows, each conversion costs.
    listeners: dict[bytes, set[bytes]] = defaultdict(set)
    for local in served:
        host, _, port = local.partition(b":")
        listeners[port].add(host)
        if host == _ANY_V6 and int(port, 16) not in v6_only:
            listeners[port].add(_ANY_V4)
    wanted = {b"%04X" % port for port in ports}
    inside = range(0) if ephemeral is None else range(ephemeral.low, ephemeral.high + 1)
    drawn = {b"%04X" % port for port in inside} - listeners.keys()
    # Keys of a dict, because a row may come twice.
    listening: dict[Row, None] = {}
    held: dict[tuple[bytes, Kind], dict[Row, None]] = defaultdict(dict)
    numbers: dict[tuple[int, Kind], int] = defaultdict(int)
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
        if port in wanted and not _accepted(local[:-5], listeners.get(port, ())):
            numbers[int(port, 16), _kind(state)] += 1
            if len(those := held[port, _kind(state)]) < MOST_HELD:
                those[row] = None
        if local == peer:
            self_connected[row] = None
        elif port in drawn:
            key = local[:-4] + peer
            in_use[key] += 1
            if state == procnet.IN_TIME_WAIT:
                waiting[key] += 1
    fullest = heapq.nlargest(MOST_DESTINATIONS, in_use, key=lambda key: (in_use[key], key))
    return Sockets(
        _sockets(listening),
        _sockets(row for those in held.values() for row in those),
        numbers,
        _sockets(self_connected),
        tuple(_destination(key, in_use[key], waiting.get(key, 0)) for key in fullest),
        count,
    )


def _accepted(host: bytes, listening: Collection[bytes]) -> bool:
    """Return whether a socket on *host* is one that a listener on these hosts accepted."""
    return host in listening or (_ANY_V4 if len(host) == len(_ANY_V4) else _ANY_V6) in listening


def _sockets(rows: Iterable[Row]) -> tuple[Socket, ...]:
    """Return *rows* in the records' words, by port."""
    found = {  # a row that came twice may have come in another state, which is the same kind
        Socket(_kind(row.state), Endpoint(*procnet.read(row.local)), Endpoint(*procnet.read(row.peer)), int(row.inode))
        for row in rows
    }
    return tuple(sorted(found, key=lambda each: (each.local.port, each[:4])))


def _kind(state: bytes) -> Kind:
    return _KINDS.get(state, "connected")


def _destination(key: bytes, in_use: int, waiting: int) -> Destination:
    source, _, peer = key.partition(b":")
    return Destination(procnet.read(source + b":0")[0], Endpoint(*procnet.read(peer)), in_use - waiting, waiting)


def changed(found: Sockets, change: Callable[[Socket], Socket]) -> Sockets:
    """Return *found* with each socket as *change* returns it."""
    groups = (found.listeners, found.held, found.self_connected)
    listeners, held, self_connected = (tuple(map(change, group)) for group in groups)
    return replace(found, listeners=listeners, held=held, self_connected=self_connected)
