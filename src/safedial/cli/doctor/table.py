"""What is of interest among all TCP sockets of this network namespace. One pass keeps counts, and few sockets.

Which ports are listened on is known before that pass: a socket on such a port is a server's, and drew no port.
Sockets that are bound, and neither listen nor dial, are not in the kernel's table: see `look`.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace

from safedial._tcp import procnet
from safedial._tcp.steering import PortRange
from safedial.cli.doctor.facts import Crowd, Endpoint, Kind, Process, Socket, Sockets

# Crowds to report, and sockets of each kind on each port asked for: a server that has just ended may leave 100,000.
MOST_CROWDS, MOST_TAKEN = 100, 20

_KINDS: dict[bytes, Kind] = {procnet.LISTENING: "listening", procnet.IN_TIME_WAIT: "time_wait"}


def read(ports: Collection[int], ephemeral: PortRange | None) -> Sockets:
    """Read the kernel's tables. *ports* were asked for; *ephemeral* is the range, without which no crowd is counted.

    Raises:
        OSError: a table can't be read.
    """
    return gather(_sockets(procnet.LISTENING), _sockets(), ports, ephemeral)


def _sockets(*state: bytes) -> Iterator[Socket]:
    for table in procnet.TABLES:
        try:
            rows = procnet.rows(table, *state)
            for local, peer, now, inode in rows:
                yield Socket(_KINDS.get(now, "connected"), _endpoint(local), _endpoint(peer), int(inode))
        except FileNotFoundError:
            if table == "tcp":
                raise  # there is no /proc; a kernel without IPv6 lacks the other table


def _endpoint(column: bytes) -> Endpoint:
    return Endpoint(procnet.host_of(column[:-5]), int(column[-4:], 16))


def gather(
    listeners: Iterable[Socket], sockets: Iterable[Socket], ports: Collection[int], ephemeral: PortRange | None
) -> Sockets:
    """Pick what is of interest from *listeners* and, in one pass, from all *sockets*; listeners among these add none."""
    # Keys of a dict, because a socket may come twice.
    listening = dict.fromkeys(listeners)
    served = {each.local.port for each in listening}
    wanted = set(ports) - served
    taken: dict[tuple[int, Kind], dict[Socket, None]] = defaultdict(dict)
    self_connected: dict[Socket, None] = {}
    drawn = range(0) if ephemeral is None else range(ephemeral.low, ephemeral.high + 1)
    # Connections by source and destination. A local port serves each of these once, so they are counted by rows.
    in_use: dict[tuple[str, Endpoint], int] = defaultdict(int)
    waiting: dict[tuple[str, Endpoint], int] = defaultdict(int)
    count = 0
    for each in sockets:
        count += 1
        kind, local, peer, _, _ = each
        host, port = local
        if kind == "listening":
            continue
        if port in wanted and len(those := taken[port, kind]) < MOST_TAKEN:
            those[each] = None
        if local == peer:
            self_connected[each] = None
        elif port in drawn and port not in served:
            in_use[host, peer] += 1
            if kind == "time_wait":
                waiting[host, peer] += 1
    fullest = heapq.nlargest(MOST_CROWDS, in_use, key=lambda key: (in_use[key], key))
    return Sockets(
        tuple(sorted(listening, key=_order)),
        tuple(sorted((each for those in taken.values() for each in those), key=_order)),
        tuple(sorted(self_connected, key=_order)),
        tuple(Crowd(*key, in_use[key] - waiting.get(key, 0), waiting.get(key, 0)) for key in fullest),
        count,
    )


def with_processes(found: Sockets, processes_of: Callable[[Socket], tuple[Process, ...] | None]) -> Sockets:
    """Return *found* with the processes that *processes_of* gives for each socket."""
    listeners, taken, self_connected = (
        tuple(each._replace(processes=processes_of(each)) for each in group)
        for group in (found.listeners, found.taken, found.self_connected)
    )
    return replace(found, listeners=listeners, taken=taken, self_connected=self_connected)


def _order(each: Socket) -> tuple[int, str, Endpoint, int]:
    return each.local.port, each.local.host, each.peer, each.inode
