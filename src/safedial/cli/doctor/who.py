"""Who has a port, in words. Pure functions of sockets."""

from collections.abc import Iterable, Sequence

from safedial._address import describe
from safedial.cli.doctor.facts import Socket
from safedial.cli.doctor.judge import Verdict

NOT_CHECKED = "not checked"
# So many are named; the rest is counted.
MOST_NAMES = 3


def predicate(sock: Socket) -> str:
    """Say which socket has a port, as the predicate of a sentence about the port or, of a listener, on its own."""
    return listening([sock]) if sock.kind == "listening" else f"taken {holder(sock)}"


def holders(each: Verdict) -> str:
    """Say which sockets have a port, beside its server."""
    return listed(map(holder, each.held_by or ()), MOST_NAMES, not_kept(each))


def not_kept(each: Verdict) -> int:
    """Count the sockets that have a port, and of which nothing else is known."""
    return each.live + each.time_wait - len(each.held_by or ())


def holder(sock: Socket) -> str:
    """Say which socket that is no server's has a port."""
    peer = "itself" if sock.is_self_connected else describe(*sock.peer)
    if sock.kind == "time_wait":
        return "by TIME_WAIT after a " + ("self-connect" if sock.is_self_connected else f"connection to {peer}")
    if sock.processes == ():
        return f"by a connection to {peer} that is still closing"
    return f"by a socket of {_processes([sock])} that is connected to {peer}"


def in_short(sock: Socket) -> str:
    """Say the same in a cell of a table."""
    if sock.kind == "listening":
        return _processes([sock])
    owner = "TIME_WAIT" if sock.kind == "time_wait" else _processes([sock])
    return f"{owner}, to {'itself' if sock.is_self_connected else sock.peer.written}"


def listening(listeners: Sequence[Socket] | None) -> str:
    """Say who listens, and where."""
    if listeners is None:
        return f"who listens was {NOT_CHECKED}"
    if not listeners:
        return "nobody listens"
    hosts = dict.fromkeys(each.local.host for each in listeners)
    names = {process.name for each in listeners for process in each.processes or ()}
    return f"{_processes(listeners)} listen{'s' * (len(names) < 2)} on {listed(hosts, MOST_NAMES)}"


def _processes(sockets: Iterable[Socket]) -> str:
    """Name the processes that have one of *sockets*."""
    pids: dict[str, set[int]] = {}
    others: dict[str, None] = {}
    for each in sockets:
        if not each.processes:
            others["an unseen process" if each.processes is None else "no process"] = None
        for process in each.processes or ():
            pids.setdefault(process.name or "process", set()).add(process.pid)
    names = [f"{name} (pid {listed(map(str, sorted(numbers)), MOST_NAMES)})" for name, numbers in pids.items()]
    return listed([*names, *others], MOST_NAMES)


def listed(items: Iterable[str], most: int, others: int = 0) -> str:
    """Join *items* by commas: so many of them, and the number of the rest and of *others*."""
    every = list(items)
    shown, rest = every[:most], max(len(every) - most, 0) + others
    return ", ".join(shown) + (f" and {rest:,} more" if rest > 0 else "")
