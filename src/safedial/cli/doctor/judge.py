"""What the doctor's facts mean: verdicts on ports, how full the destinations are, the exit status. Pure functions."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from safedial._address import same_endpoint
from safedial._tcp.port_settings import PortSettings
from safedial.cli.doctor.facts import Crowd, Facts, Socket, Sockets

# safe: connect() never draws the port, and no socket is in the way of its server.
# at risk: connect() may draw it while nobody listens there.
# taken: a socket has it now that is neither its server's nor a connection that its server accepted.
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
_ENDING: tuple[Level, ...] = ("near the end", "used up")


class Verdict(NamedTuple):
    """What is true of a port. None: not checked."""

    port: int
    asked: bool  # the user named it
    inside: bool | None  # the ephemeral range
    reserved: bool | None
    preferred: bool | None  # connect() draws it before the ports of the other parity
    verdict: Word
    listeners: tuple[Socket, ...] | None
    # () if it is taken: by a socket of no table, a bound one that neither listens nor is connected.
    taken_by: tuple[Socket, ...] | None


class Filled(NamedTuple):
    """How full the usable ports are towards a destination. *share* and *level* are None if the range is not known."""

    crowd: Crowd
    share: float | None  # live ports and those in TIME_WAIT, of the usable ones
    level: Level | None


@dataclass(frozen=True)
class Diagnosis:
    """What the facts mean."""

    # By port: those that somebody listens on, those asked for, and those that have a self-connected socket.
    verdicts: tuple[Verdict, ...]
    self_connected: tuple[Socket, ...] | None
    crowds: tuple[Filled, ...] | None  # as in the facts, the fullest first
    usable: int | None  # ports of the ephemeral range that are not reserved
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
    nothing = None if sockets is None else _Here()
    verdicts = tuple(_verdict(facts, port, port in asked, by_port.get(port, nothing)) for port in named)
    usable = usable_ports(facts.settings)
    crowds = None if sockets is None else tuple(_filled(each, usable) for each in sockets.crowds)
    self_connected = None if sockets is None else sockets.self_connected
    return Diagnosis(verdicts, self_connected, crowds, usable, _status(facts, verdicts, crowds or (), usable))


def usable_ports(settings: PortSettings) -> int | None:
    """Count the ports that connect() may draw; None if that is not known."""
    if settings.ports is None or settings.reserved is None:
        return None
    low, high = settings.ports
    kept: set[int] = set()
    for first, last in settings.reserved:
        kept.update(range(max(first, low), min(last, high) + 1))
    return high - low + 1 - len(kept)


@dataclass
class _Here:
    """The sockets on one port."""

    listeners: list[Socket] = field(default_factory=list)
    taken: list[Socket] = field(default_factory=list)
    self_connected: list[Socket] = field(default_factory=list)
    bound: bool = False


def _by_port(sockets: Sockets) -> dict[int, _Here]:
    found: dict[int, _Here] = defaultdict(_Here)
    for each in sockets.listeners:
        found[each.local.port].listeners.append(each)
    for each in sockets.taken:
        found[each.local.port].taken.append(each)
    for each in sockets.self_connected:
        found[each.local.port].self_connected.append(each)
    for port in sockets.bound:
        found[port].bound = True
    return found


def _verdict(facts: Facts, port: int, asked: bool, here: _Here | None) -> Verdict:
    settings = facts.settings
    inside = None if settings.ports is None else settings.ports.low <= port <= settings.ports.high
    reserved = None if settings.reserved is None else any(low <= port <= high for low, high in settings.reserved)
    listeners = taken_by = None
    if here is not None:
        listeners, taken_by = tuple(here.listeners), tuple(_takers(here))
    drawn = _all_true(inside, None if reserved is None else not reserved)
    word: Word
    if taken_by or (here is not None and here.bound):
        word = "taken"
    elif drawn:
        word = "at risk"
    elif drawn is None or taken_by is None:
        word = "not checked"
    else:
        word = "safe"
    return Verdict(port, asked, inside, reserved, _preferred(facts, port, drawn), word, listeners, taken_by)


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


def _takers(here: _Here) -> Iterable[Socket]:
    """Yield the sockets that have a port, without listeners and the connections that they accepted."""
    yield from here.self_connected
    seen = {(each.local, each.peer) for each in here.self_connected}
    for each in here.taken:
        if (each.local, each.peer) not in seen and not any(_accepts(listener, each) for listener in here.listeners):
            yield each


def _accepts(listener: Socket, connection: Socket) -> bool:
    host = listener.local.host
    if host == "::":  # IPv4 too, unless it set IPV6_V6ONLY, which no table shows
        return True
    if host in ("0.0.0.0", "::ffff:0.0.0.0"):  # noqa: S104  # it is compared
        return ":" not in connection.local.host or connection.local.host.startswith("::ffff:")
    return same_endpoint(listener.local, connection.local)


def _filled(crowd: Crowd, usable: int | None) -> Filled:
    if usable is None:
        return Filled(crowd, None, None)
    # With each port reserved, none is left for this destination, whoever bound the ports that it has.
    share = (crowd.live + crowd.time_wait) / usable if usable else 1.0
    return Filled(crowd, share, next((level for least, level in _LEVELS if share >= least), None))


def _status(facts: Facts, verdicts: Collection[Verdict], crowds: Collection[Filled], usable: int | None) -> int:
    words = {each.verdict for each in verdicts}
    if words & {"at risk", "taken"} or any(each.level in _ENDING for each in crowds):
        return 1
    unknown = facts.sockets is None or facts.settings.ports is None or (crowds and usable is None)
    return 2 if unknown or "not checked" in words else 0
