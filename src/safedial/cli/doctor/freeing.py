"""How to free the ports that are taken. Pure functions.

``ss -K`` left nothing, and a server could bind at once, with SO_REUSEADDR and without. That was so for sockets that
were alive and for those in TIME_WAIT, IPv4 and IPv6 (measured on Linux 6.18). The program of a live one gets
ECONNABORTED; if it bound the port itself, it keeps it until it closes the socket. Without ss, a process that ends
leaves its port in TIME_WAIT. A smaller tcp_max_tw_buckets frees nothing that is there.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from safedial.cli.doctor.facts import Facts, Socket
from safedial.cli.doctor.judge import Verdict
from safedial.cli.doctor.remedy import Remedy, named, not_here
from safedial.errors import TIME_WAIT


class _Way(NamedTuple):
    """How to free a port. The ports for which this is the same are one remedy."""

    state: str  # of the port, after "it is"
    notes: tuple[str, ...]


def free(facts: Facts, verdicts: Iterable[Verdict], there: str) -> Iterator[Remedy]:
    """Say how to free what is taken. *there* is the command that enters the namespace, if it is another one."""
    ways: dict[_Way, list[Verdict]] = defaultdict(list)
    on_linux = facts.system == "linux"
    here = not_here(facts.can_close, "where root has no CAP_NET_ADMIN")
    for verdict in verdicts:
        if verdict.verdict == "taken":
            way = _end(verdict, on_linux=on_linux) if verdict.held_by else _unbind(on_linux=on_linux)
            ways[way].append(verdict)
    for way, those in ways.items():
        ports = [verdict.port for verdict in those]
        lines = tuple(there + line for verdict in those for line in _lines(verdict)) if on_linux else ()
        title = f"Free {named(ports)}: {'it' if len(ports) == 1 else 'each'} is {way.state}."
        yield Remedy("free", title, lines, (*(here if those[0].held_by else ()), *way.notes))


def _lines(verdict: Verdict) -> Iterator[str]:
    alive = _alive(verdict.held_by or ())
    if verdict.live == 1:
        (only,) = alive
        yield f"ss -K -t src '{only.local.written}' dst '{only.peer.written}'"
    elif verdict.listeners:  # not what they accepted
        yield from dict.fromkeys(f"ss -K -t src '{each.local.written}'" for each in alive)
    elif alive:
        yield f"ss -K -t 'sport = :{verdict.port}'"
    if verdict.time_wait:
        yield f"ss -K -t state time-wait 'sport = :{verdict.port}'"
    if not verdict.held_by:
        yield f"ss -tanp --bound-inactive 'sport = :{verdict.port}'"


def _alive(sockets: Iterable[Socket]) -> list[Socket]:
    return [each for each in sockets if each.kind != "time_wait"]


def _unbind(*, on_linux: bool) -> _Way:
    notes = ["End that program."]
    if on_linux:
        notes[0] += " As root, ss shows it, if ss and Linux are new enough (2024)."
        # lsof names the protocol of a socket that no table has (4.95, Linux 6.18). fuser shows nothing of it.
        notes.append("Else lsof shows the programs that have any such socket: lsof -nP | grep 'protocol: TCP'")
    return _Way("bound by a program", tuple(notes))


def _end(verdict: Verdict, *, on_linux: bool) -> _Way:
    held_by, live = verdict.held_by or (), verdict.live
    alive = _alive(held_by)
    notes: list[str] = []
    if on_linux:
        notes.append("As root. It needs a kernel with CONFIG_INET_DIAG_DESTROY.")
    if not alive:
        notes.append(f"Or wait: TIME_WAIT lasts {TIME_WAIT:g} s at most.")
        if not on_linux and not any(each.is_self_connected for each in held_by):
            notes.append("If a server had accepted the connection, one with SO_REUSEADDR can bind the port now.")
        return _Way("in TIME_WAIT", tuple(notes))
    state = "taken by a self-connected socket" if live == 1 else f"taken by {live:,} self-connected sockets"
    if not all(each.is_self_connected for each in alive):
        state = "taken by an ordinary connection" if live == 1 else f"taken by {live:,} connections"
        notes.append("This breaks a connection that works: its program and its peer get an error.")
    return _Way(state, (*notes, f"{_without_ss(alive)} The port may then stay in TIME_WAIT for {TIME_WAIT:g} s."))


def _without_ss(alive: Iterable[Socket]) -> str:
    owners = [each.processes for each in alive]
    pids = sorted({process.pid for processes in owners for process in processes or ()})
    if pids:
        return f"Or end the program: kill {' '.join(map(str, pids))}."
    # Such as a connection that is closing.
    return "Or wait: no process has it any more." if None not in owners else "Or end the program that has it."
