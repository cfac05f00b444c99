"""What to do, as lines to paste. Pure functions.

What the lines do was measured on Linux 6.18, in a network namespace: see each function. The lines are for the network
namespace that the doctor looked at.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Literal, NamedTuple, TypeAlias

from safedial._tcp.port_settings import PortSettings
from safedial._tcp.procnet import is_loopback
from safedial._tcp.steering import PortRange
from safedial.cli.doctor.facts import Endpoint, Facts, Socket
from safedial.cli.doctor.judge import Diagnosis, Filled, Verdict, usable_ports
from safedial.errors import TIME_WAIT

Kind: TypeAlias = Literal["reserve", "free", "persist", "kubernetes", "docker", "move", "pool", "unreserve", "widen"]

_RESERVED = "net.ipv4.ip_local_reserved_ports"
_RANGE = "net.ipv4.ip_local_port_range"
# Characters of the list. Linux takes a page in one write, and drops the rest without an error (proc_do_large_bitmap,
# kernel/sysctl.c): of 4,095 characters, and the line's end, the last port was missing.
_LONGEST = 4094
# Ports, or ranges of them, that a sentence names.
_MOST_NAMED = 10
# The doctor widens the range to this. Few servers have a fixed port in what is added. The bounds differ in parity, for
# which the kernel asks.
_WIDER = PortRange(16384, 65535)


class Remedy(NamedTuple):
    """Something to do. The *lines* are one thing to paste; () if there is nothing to paste."""

    kind: Kind
    title: str  # one sentence
    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # sentences: what it needs, what it leaves, what to take care of


def remedies(facts: Facts, diagnosis: Diagnosis, *, pid: int | None = None) -> tuple[Remedy, ...]:
    """Say what to do, in the order in which to do it: first keep connect() off the ports, then free them.

    *pid* is a process in the network namespace that *facts* are of; None: it is the user's own namespace.
    """
    there = "" if pid is None else f"nsenter -t {pid} -n "
    drawn = [each.port for each in diagnosis.verdicts if each.inside and each.reserved is False]
    reserve = _reserve(facts, drawn, there)
    return (
        *reserve[:1],
        *_free(facts, diagnosis.verdicts, there),
        *reserve[1:],
        *_move(facts, drawn, can_reserve=bool(reserve)),
        *_crowded(facts, diagnosis, drawn, there),
    )


def merged(reserved: Iterable[PortRange], ports: Iterable[int]) -> tuple[PortRange, ...]:
    """Return *reserved* and *ports* as the fewest ranges, in order."""
    found: list[PortRange] = []
    for low, high in sorted([*reserved, *(PortRange(port, port) for port in ports)]):
        if found and low <= found[-1].high + 1:
            found[-1] = PortRange(found[-1].low, max(found[-1].high, high))
        else:
            found.append(PortRange(low, high))
    return tuple(found)


def as_value(ranges: Iterable[PortRange]) -> str:
    """Write *ranges* as the kernel reads them: ``8080,40000-40002``."""
    return ",".join(f"{low}-{high}" if low < high else f"{low}" for low, high in ranges)


def _reserve(facts: Facts, ports: Collection[int], there: str) -> tuple[Remedy, ...]:
    """Reserve *ports*: connect() then drew them 0 times in 3,000 (before: 1,500; a range of four ports).

    A socket that has one already keeps it. Servers bind it as before. Nothing if no port to connect from would be left.
    """
    settings = facts.settings
    if not ports or settings.reserved is None or facts.system != "linux":
        return ()
    ranges = merged(settings.reserved, ports)
    left, size = usable_ports(settings._replace(reserved=ranges)), _size(settings)
    if not left:
        return ()
    value = as_value(ranges)
    title = f"Reserve {_named(ports)}: connect() then never draws {_them(ports)}."
    notes = [
        "As root. It holds at once, for IPv4 and IPv6, until the next boot. Servers can still bind the ports.",
        "Leave out a port that its server did not choose (it bound port 0): it gets another one at each start.",
        f"To connect from, {left:,} of the {size:,} ports of the range are left."
        + " That is few: better move servers out of the range." * (2 * left < size),
    ]
    if settings.reserved:
        notes.insert(1, "The list replaces the present one, so it has what is reserved already.")
    if len(value) > _LONGEST:
        too_long = (
            f"Linux takes a list of {_LONGEST:,} characters, and this one is longer: reserve fewer, wider ranges."
        )
        return (Remedy("reserve", title, (), (*notes, too_long)),)
    persist = Remedy(
        "persist",
        f"Keep {_them(ports)} reserved after the next boot.",
        (f"echo '{_RESERVED} = {value}' > /etc/sysctl.d/90-reserved-ports.conf",),
        ("As root, on the host. The last file that sets the list wins: see /etc/sysctl.conf and /etc/sysctl.d.",),
    )
    return (
        Remedy("reserve", title, (f"{there}sysctl -w {_RESERVED}={value}",), tuple(notes)),
        *(() if there else (persist,)),
        Remedy(
            "kubernetes",
            f"In Kubernetes, reserve {_them(ports)} in the spec of the pod.",
            ("securityContext:", "  sysctls:", f"    - name: {_RESERVED}", f'      value: "{value}"'),
            ("It is a safe sysctl in current versions; older ones must be told to allow it. Not with hostNetwork.",),
        ),
        Remedy(
            "docker",
            f"In a container, reserve {_them(ports)} when you start it.",
            (f"docker run --sysctl {_RESERVED}={value} IMAGE",),
            ("Not with --network host: there, the host's list counts.",),
        ),
    )


def _free(facts: Facts, verdicts: Iterable[Verdict], there: str) -> Iterator[Remedy]:
    """Free what is taken. ``ss -K`` left nothing, and a server could bind at once, with SO_REUSEADDR and without.

    That was so for sockets that were alive and for those in TIME_WAIT, IPv4 and IPv6. The program of a live one gets
    ECONNABORTED; if it bound the port itself, it keeps it until it closes the socket. Without ss, a process that ends
    leaves its port in TIME_WAIT. A smaller tcp_max_tw_buckets frees nothing that is there.
    """
    for verdict in verdicts:
        if verdict.verdict == "taken" and not verdict.taken_by:
            yield _unbind(facts, verdict.port, there)
        if not verdict.taken_by:
            continue
        alive = [each for each in verdict.taken_by if each.kind != "time_wait"]
        waiting = len(alive) < len(verdict.taken_by)
        lines: tuple[str, ...] = ()
        notes: list[str] = []
        if facts.system == "linux":
            lines = tuple(f"{there}ss -K -t src '{_written(each.local)}' dst '{_written(each.peer)}'" for each in alive)
            if waiting:
                lines += (f"{there}ss -K -t state time-wait 'sport = :{verdict.port}'",)
            notes.append("As root. It needs a kernel with CONFIG_INET_DIAG_DESTROY. Then a server can bind the port.")
        healthy = [each for each in alive if not _is_self_connected(each)]
        if healthy:
            notes.append("This breaks a connection that works: its program and its peer get an error.")
        if alive:
            notes.append(f"{_end(alive)} The port may then stay in TIME_WAIT for {TIME_WAIT:g} s.")
        else:
            notes.append(f"Or wait: TIME_WAIT lasts {TIME_WAIT:g} s at most.")
            if not any(map(_is_self_connected, verdict.taken_by)):
                notes.append("If a server had accepted the connection, one with SO_REUSEADDR can bind the port now.")
        yield Remedy("free", f"Free port {verdict.port}: {_taken(alive, healthy)}.", lines, tuple(notes))


def _unbind(facts: Facts, port: int, there: str) -> Remedy:
    title = f"Free port {port}: end the program that has bound it."
    if facts.system != "linux":
        return Remedy("free", title)
    note = "As root. It shows the program, where ss and Linux are new enough (2024)."
    return Remedy("free", title, (f"{there}ss -tanp --bound-inactive 'sport = :{port}'",), (note,))


def _taken(alive: list[Socket], healthy: list[Socket]) -> str:
    if not alive:
        return "it is in TIME_WAIT"
    if healthy:
        return "an ordinary connection has it" if len(alive) == 1 else f"{len(alive)} connections have it"
    return "a self-connected socket has it" if len(alive) == 1 else f"{len(alive)} self-connected sockets have it"


def _end(alive: Iterable[Socket]) -> str:
    owners = [each.processes for each in alive]
    pids = sorted({process.pid for processes in owners for process in processes or ()})
    if pids:
        return f"Or end the program: kill {' '.join(map(str, pids))}."
    # Such as a connection that is closing.
    return "Or wait: no process has it any more." if None not in owners else "Or end the program that has it."


def _is_self_connected(socket: Socket) -> bool:
    return socket.local == socket.peer


def _written(endpoint: Endpoint) -> str:
    return f"[{endpoint.host}]:{endpoint.port}" if ":" in endpoint.host else f"{endpoint.host}:{endpoint.port}"


def _move(facts: Facts, ports: Collection[int], *, can_reserve: bool) -> Iterator[Remedy]:
    if not ports or facts.settings.ports is None:
        return
    low, high = facts.settings.ports
    if low > 1024:
        where = f"a port below {low}"
    elif high < 65535:
        where = f"a port above {high}"
    elif low > 1:
        where = f"a port below {low}, for which most systems ask for a privilege"
    else:
        return
    give = "If you can't reserve ports, give" if can_reserve else "Give"
    notes = ["Or let the programs here that connect to it use safedial: they are never connected to themselves."]
    if not can_reserve and facts.system == "linux":
        notes.insert(0, "Don't reserve what is at risk: no port to connect from would be left.")
    title = f"{give} the server of {_named(ports)} {where}, which connect() never draws."
    yield Remedy("move", title, (), tuple(notes))


def _crowded(facts: Facts, diagnosis: Diagnosis, drawn: Collection[int], there: str) -> Iterator[Remedy]:
    crowds = [each for each in diagnosis.crowds or () if each.level in ("past half", "near the end", "used up")]
    for filled in crowds:
        yield _pool(facts.settings, filled)
    if not any(each.level in ("near the end", "used up") for each in crowds):
        return
    size = _size(facts.settings)
    if diagnosis.usable is not None and 2 * diagnosis.usable < size:
        kept = f"{size - diagnosis.usable:,} of the {size:,} ports of the range are reserved"
        yield Remedy("unreserve", f"Reserve fewer ports: {kept}.")
    yield from _widen(facts, diagnosis, drawn, there)


def _pool(settings: PortSettings, filled: Filled) -> Remedy:
    source, destination, live, time_wait = filled.crowd
    to = f"{_written(destination)} from {source}"
    if live >= time_wait:
        title = f"Share connections to {to} (a pool): {live:,} are open."
        return Remedy("pool", title)
    title = f"Reuse connections to {to} (a pool): {time_wait:,} closed ones keep their ports in TIME_WAIT."
    seconds = settings.wait_on_loopback if is_loopback(destination.host) else settings.wait
    notes: tuple[str, ...] = ()
    if seconds is not None:
        why = f" ({settings.wait_setting})" if seconds < TIME_WAIT else ""
        notes = (f"connect() takes such a port again after {seconds:g} s{why}.",)
    return Remedy("pool", title, (), notes)


def _widen(facts: Facts, diagnosis: Diagnosis, drawn: Collection[int], there: str) -> Iterator[Remedy]:
    """Widen the range, once the ports that this puts at risk are reserved: those listened on, and those asked for."""
    now, reserved = facts.settings.ports, facts.settings.reserved
    if facts.sockets is None or facts.system != "linux" or now is None or reserved is None:
        return
    wider = PortRange(min(now.low, _WIDER.low), max(now.high, _WIDER.high))
    if wider == now:
        return
    added = [
        each.port
        for each in diagnosis.verdicts
        if wider.low <= each.port <= wider.high and not (each.inside or each.reserved)
    ]
    ranges = merged(reserved, [*drawn, *added])
    value = as_value(ranges)
    if len(value) > _LONGEST:
        return
    lines: tuple[str, ...] = (f"{there}sysctl -w {_RANGE}='{wider.low} {wider.high}'",)
    if ranges != merged(reserved, ()):
        lines = (f"{there}sysctl -w {_RESERVED}={value}", *lines)
    puts_at_risk = "No server listens in what is added."
    if added:
        puts_at_risk = f"It puts {_named(added)} at risk: the first line reserves {_them(added)}."
    yield Remedy(
        "widen",
        f"If no pool is possible, widen the range to {wider.low}-{wider.high}.",
        lines,
        (puts_at_risk, "As root. The port of a server that is down now may be in what is added: reserve it first."),
    )


def _size(settings: PortSettings) -> int:
    return 0 if settings.ports is None else settings.ports.high - settings.ports.low + 1


def _named(ports: Collection[int]) -> str:
    spans = as_value(merged((), ports)).split(",")
    if len(spans) > _MOST_NAMED:
        return f"{len(ports):,} ports"
    return f"port{'s' * (len(ports) > 1)} {', '.join(spans)}"


def _them(ports: Collection[int]) -> str:
    return "it" if len(ports) == 1 else "them"
