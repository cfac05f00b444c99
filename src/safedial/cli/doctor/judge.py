"""What the doctor's facts mean: verdicts on ports, how full the destinations are, the exit status. Pure functions."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from safedial._tcp.port_settings import PortSettings, reserved_in
from safedial._tcp.procnet import is_loopback
from safedial.cli.doctor.facts import Destination, Facts, Kind, Socket, Sockets

# safe: connect() never draws the port, and no socket is in the way of its server.
# at risk: connect() may draw it while nobody listens there.
# taken: a server that sets SO_REUSEADDR can't bind it now, because of a socket that is neither its server's nor a
# connection that its server accepted; or a self-connected socket has it.
Word: TypeAlias = Literal["safe", "at risk", "taken", "not checked"]

# How full the usable ports are towards a destination; None: less than 40 %. Past half of them, connect() takes 13 to 18
# times as long (`python -m bench.ports`).
Level: TypeAlias = Literal["near half", "past half", "near the end", "used up"]
_LEVELS: tuple[tuple[float, Level], ...] = (
    (1.0, "used up"),
    (0.9, "near the end"),
    (0.5, "past half"),
    (0.4, "near half"),
)


# Seconds. With tcp_tw_reuse, the kernel's own delay after which connect() draws a port in TIME_WAIT again.
_SOON = 1.0


class Verdict(NamedTuple):
    """What is true of a port. None: not checked."""

    port: int
    asked: bool  # the user named it
    inside: bool | None  # the ephemeral range
    reserved: bool | None
    preferred: bool | None  # connect() draws it before the ports of the other parity
    verdict: Word
    listeners: tuple[Socket, ...] | None
    # Other sockets that have it, or some of them. () if it is taken: by a socket of no table, a bound one that neither
    # listens nor is connected.
    held_by: tuple[Socket, ...] | None
    live: int = 0  # the number of those
    time_wait: int = 0


class Filled(NamedTuple):
    """How full the usable ports are towards a destination. *share* and *level* are None if the range is not known."""

    destination: Destination
    share: float | None  # live ports and those in TIME_WAIT, of the usable ones
    # Without those in TIME_WAIT if connect() draws them again soon: it did not take longer with 75 % of 8,000 ports in
    # TIME_WAIT for more than a second, where live ones made it 50 times as long (Linux 6.18).
    level: Level | None
    soon: float | None = None  # seconds after which that is

    @property
    def runs_out(self) -> bool:
        """Whether hardly a port is left, or none."""
        return self.level in ("near the end", "used up")

    @property
    def is_of_note(self) -> bool:
        """Whether it has a level, or would have one if ports in TIME_WAIT were not drawn again soon."""
        return self.share is not None and self.share >= _LEVELS[-1][0]


@dataclass(frozen=True)
class Diagnosis:
    """What the facts mean."""

    # By port: those that somebody listens on, those asked for, and those that have a self-connected socket.
    verdicts: tuple[Verdict, ...]
    destinations: tuple[Filled, ...] | None  # as in the facts, the fullest first
    usable: int | None  # ports of the ephemeral range that are not reserved, and on which nobody listens
    unknown: bool  # something that decides, beside the verdicts, could not be checked
    status: int  # 0: nothing is at risk; 1: something is; 2: something that decides could not be checked

    def ports(self, verdict: Word) -> tuple[int, ...]:
        """Return the ports that have this *verdict*."""
        return tuple(each.port for each in self.verdicts if each.verdict == verdict)


def judge(facts: Facts, ports: Collection[int]) -> Diagnosis:
    """Say what *facts* mean for this machine, and for the *ports* that the user named."""
    sockets = facts.sockets
    asked = set(ports)
    by_port = {} if sockets is None else _by_port(sockets)
    named = sorted(asked.union(port for port, here in by_port.items() if here.listeners or here.self_connected))
    verdicts = tuple(_verdict(facts, port, port in asked, by_port.get(port, _Here())) for port in named)
    usable = usable_ports(facts.settings)
    if usable is not None:  # connect() passes over what is bound
        usable -= sum(each.inside is True and each.reserved is False and bool(each.listeners) for each in verdicts)
    destinations = None
    if sockets is not None:
        destinations = tuple(_filled(each, usable, facts.settings) for each in sockets.destinations)
    unknown = destinations is None or facts.settings.ports is None or bool(destinations and usable is None)
    status = _status(verdicts, destinations or (), usable, unknown=unknown)
    return Diagnosis(verdicts, destinations, usable, unknown, status)


def usable_ports(settings: PortSettings) -> int | None:
    """Count the ports that connect() may draw if nobody listens; None if that is not known."""
    if settings.ports is None or settings.reserved is None:
        return None
    return settings.ports.high - settings.ports.low + 1 - len(reserved_in(settings, settings.ports))


@dataclass
class _Here:
    """The sockets on one port."""

    listeners: list[Socket] = field(default_factory=list[Socket])
    held: list[Socket] = field(default_factory=list[Socket])
    self_connected: list[Socket] = field(default_factory=list[Socket])


def _by_port(sockets: Sockets) -> dict[int, _Here]:
    found: dict[int, _Here] = defaultdict(_Here)
    for each in sockets.listeners:
        found[each.local.port].listeners.append(each)
    for each in sockets.held:
        found[each.local.port].held.append(each)
    for each in sockets.self_connected:
        found[each.local.port].self_connected.append(each)
    return found


def _verdict(facts: Facts, port: int, asked: bool, here: _Here) -> Verdict:
    settings = facts.settings
    inside = None if settings.ports is None else settings.ports.low <= port <= settings.ports.high
    reserved = None if settings.reserved is None else any(low <= port <= high for low, high in settings.reserved)
    drawn = _all_true(inside, None if reserved is None else not reserved)
    preferred = _preferred(facts, port, drawn)
    if facts.sockets is None:
        return Verdict(port, asked, inside, reserved, preferred, "at risk" if drawn else "not checked", None, None)
    held_by = (*here.self_connected, *(each for each in here.held if each not in here.self_connected))
    can_bind = facts.sockets.binds.get(port, not held_by)
    word: Word
    if here.self_connected or can_bind is False:
        word = "taken"
    elif drawn:
        word = "at risk"
    elif drawn is None or can_bind is None:
        word = "not checked"
    else:
        word = "safe"
    live, time_wait = (_number(facts.sockets, port, kind, held_by) for kind in ("connected", "time_wait"))
    return Verdict(port, asked, inside, reserved, preferred, word, tuple(here.listeners), held_by, live, time_wait)


def _number(sockets: Sockets, port: int, kind: Kind, held_by: Iterable[Socket]) -> int:
    """Count the sockets of a port that was asked for as the table has them, of others as they are here."""
    return max(sockets.numbers.get((port, kind), 0), sum(each.kind == kind for each in held_by))


def _all_true(*values: bool | None) -> bool | None:
    """Return whether all *values* are true; None if that hangs on one that is not known."""
    if False in values:
        return False
    return None if None in values else True


def _preferred(facts: Facts, port: int, drawn: bool | None) -> bool | None:
    """Return whether connect() draws *port* before others.

    It takes the ports of the parity of the range's low end first (__inet_hash_connect, net/ipv4/inet_hashtables.c).
    With net.ipv4.ip_local_port_step_width (Linux 7.2) it goes by other steps.
    """
    if not drawn or facts.settings.ports is None:
        return drawn
    return None if facts.step_width else (port - facts.settings.ports.low) % 2 == 0


def _filled(destination: Destination, usable: int | None, settings: PortSettings) -> Filled:
    if usable is None:
        return Filled(destination, None, None)
    live, both = destination.live, destination.live + destination.time_wait
    wait = settings.wait_on_loopback if is_loopback(destination.peer.host) else settings.wait
    soon = wait if wait is not None and wait <= _SOON else None
    # With each port reserved, none is left for this destination, whoever bound the ports that it has.
    share, blocked = (number / usable if usable else 1.0 for number in (both, live if soon is not None else both))
    return Filled(destination, share, next((level for least, level in _LEVELS if blocked >= least), None), soon)


def _status(
    verdicts: Collection[Verdict], destinations: Collection[Filled], usable: int | None, *, unknown: bool
) -> int:
    words = {each.verdict for each in verdicts}
    if words & {"at risk", "taken"} or usable == 0 or any(each.runs_out for each in destinations):
        return 1
    return 2 if unknown or "not checked" in words else 0
