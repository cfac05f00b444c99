"""What to do, as lines to paste. Pure functions.

What the lines do was measured on Linux 6.18, in a network namespace: see each function. The lines are for the network
namespace that the doctor looked at.
"""

from collections.abc import Collection, Iterator

from safedial._tcp.port_settings import PortSettings
from safedial._tcp.procnet import is_loopback
from safedial._tcp.steering import PortRange
from safedial.cli.doctor.facts import Facts
from safedial.cli.doctor.freeing import free
from safedial.cli.doctor.judge import Diagnosis, Filled, usable_ports
from safedial.cli.doctor.remedy import Remedy, as_value, merged, named, not_here, them
from safedial.errors import TIME_WAIT

_RESERVED = "net.ipv4.ip_local_reserved_ports"
_RANGE = "net.ipv4.ip_local_port_range"
_READ_ONLY = "where root can't write /proc/sys"
# Characters of the list. Linux takes a page in one write, and drops the rest without an error (proc_do_large_bitmap,
# kernel/sysctl.c): of 4,095 characters, and the line's end, the last port was missing.
_LONGEST = 4094
# The doctor widens the range to this, but not to ports that only root binds: EINVAL (net/ipv4/sysctl_net_ipv4.c). Few
# servers have a fixed port in what is added. The bounds differ in parity, for which the kernel asks.
_WIDER = PortRange(16384, 65535)


def remedies(facts: Facts, diagnosis: Diagnosis, *, pid: int | None = None) -> tuple[Remedy, ...]:
    """Say what to do, in the order in which to do it: first keep connect() off the ports, then free them.

    *pid* is a process in the network namespace that *facts* are of; None: it is the user's own namespace.
    """
    there = "" if pid is None else f"nsenter -t {pid} -n "
    verdicts = diagnosis.verdicts
    drawable = [each for each in verdicts if each.inside and each.reserved is False]
    drawn = [each.port for each in drawable]
    reserve = _reserve(facts, drawn, there, served=any(each.listeners for each in drawable))
    return (
        *reserve[:1],
        *free(facts, verdicts, there),
        *reserve[1:],
        *_move(facts, drawn, can_reserve=bool(reserve)),
        *_destinations(facts, diagnosis, drawn, there),
    )


def _reserve(facts: Facts, ports: Collection[int], there: str, *, served: bool) -> tuple[Remedy, ...]:
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
    title = f"Reserve {named(ports)}: connect() then never draws {them(ports)}."
    until = "the network namespace ends" if there else "the next boot"
    notes = [
        *not_here(facts.can_set, _READ_ONLY),
        f"As root. It holds until {until}, for IPv6, too. Servers can bind {them(ports)}.",
    ]
    if settings.reserved:
        notes.append("The list replaces the present one, so it has what is reserved already.")
    if served:
        notes.append("Leave out the port of a server that binds port 0: it changes at each start.")
    if 2 * left < size:
        notes.append(f"Only {left:,} of the {size:,} ports of the range are then left: better move servers out of it.")
    if len(value) > _LONGEST:
        notes.append(
            f"Linux takes a list of {_LONGEST:,} characters, and this one is longer: reserve fewer, wider ranges."
        )
        return (Remedy("reserve", title, (), tuple(notes)),)
    return (
        Remedy("reserve", title, (f"{there}sysctl -w {_RESERVED}={value}",), tuple(notes)),
        _persist(ports, value, on_host=not there),
    )


def _persist(ports: Collection[int], value: str, *, on_host: bool) -> Remedy:
    lines = [
        f"echo '{_RESERVED} = {value}' > /etc/sysctl.d/90-reserved-ports.conf",
        f"docker run --sysctl {_RESERVED}={value} IMAGE",
        f'securityContext: {{sysctls: [{{name: {_RESERVED}, value: "{value}"}}]}}',
    ]
    notes = [
        "The first line is for a host, as root. The last file that sets the list wins.",
        "For containers with a network of their own: Docker, Kubernetes 1.27+ (a pod's spec).",
    ]
    if not on_host:
        del lines[0], notes[0]
    return Remedy("persist", f"Reserve {named(ports)} for good.", tuple(lines), tuple(notes))


def _move(facts: Facts, ports: Collection[int], *, can_reserve: bool) -> Iterator[Remedy]:
    if not ports or facts.settings.ports is None:
        return
    low, high = facts.settings.ports
    if low > 1024:
        where = f"below {low}"
    elif high < 65535:
        where = f"above {high}"
    elif low > 1:
        where = f"below {low} (most systems ask for a privilege there)"
    else:
        return
    notes = [f"Or dial {them(ports)} with safedial in all programs: none is then connected to itself."]
    if not can_reserve and facts.system == "linux":
        notes.insert(0, f"Don't reserve {them(ports)}: no port to connect from would be left.")
    servers, place = ("server", "a port") if len(ports) == 1 else ("servers", "ports")
    move = "If you can't reserve ports, move" if can_reserve else "Move"
    title = f"{move} the {servers} of {named(ports)} to {place} {where}, which connect() never draws."
    yield Remedy("move", title, (), tuple(notes))


def _destinations(facts: Facts, diagnosis: Diagnosis, drawn: Collection[int], there: str) -> Iterator[Remedy]:
    destinations = [each for each in diagnosis.destinations or () if each.level == "past half" or each.runs_out]
    if diagnosis.usable:  # if none is, no pool helps
        for filled in destinations:
            yield _pool(facts.settings, filled)
    if diagnosis.usable != 0 and not any(each.runs_out for each in destinations):
        return
    size = _size(facts.settings)
    unreserved = usable_ports(facts.settings)
    if unreserved is not None and 2 * unreserved < size:
        kept = f"{size - unreserved:,} of the {size:,} ports of the range are reserved"
        yield Remedy("unreserve", f"Reserve fewer ports: {kept}.")
    yield from _widen(facts, diagnosis, drawn, there)


def _pool(settings: PortSettings, filled: Filled) -> Remedy:
    source, peer, live, time_wait = filled.destination
    to = f"{peer.written} from {source}"
    if live >= time_wait:
        title = f"Share connections to {to} (a pool): {live:,} are open."
        return Remedy("pool", title)
    title = f"Reuse connections to {to} (a pool): {time_wait:,} closed ones keep their ports in TIME_WAIT."
    seconds = settings.wait_on_loopback if is_loopback(peer.host) else settings.wait
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
    start = facts.unprivileged_start or 0
    wider = PortRange(min(now.low, max(_WIDER.low, start + start % 2)), max(now.high, _WIDER.high))
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
        puts_at_risk = f"It puts {named(added)} at risk: the first line reserves {them(added)}."
    notes = (
        *not_here(facts.can_set, _READ_ONLY),
        puts_at_risk,
        "As root. The port of a server that is down now may be in what is added: reserve it first.",
    )
    yield Remedy("widen", f"Or widen the range to {wider.low}-{wider.high}.", lines, notes)


def _size(settings: PortSettings) -> int:
    return 0 if settings.ports is None else settings.ports.high - settings.ports.low + 1
