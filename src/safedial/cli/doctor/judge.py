"""What the doctor's facts mean: verdicts on ports, how full the destinations are, the exit status. Pure functions."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from safedial._address import same_endpoint
from safedial._tcp.port_settings import PortSettings
from safedial.cli.doctor.facts import Crowd, Facts, Socket

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
    named = set(ports)
    if sockets is not None:
        named.update(each.local.port for each in (*sockets.listeners, *sockets.self_connected))
    verdicts = tuple(_verdict(facts, port, port in ports) for port in sorted(named))
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


def _verdict(facts: Facts, port: int, asked: bool) -> Verdict:
    settings = facts.settings
    inside = None if settings.ports is None else settings.ports.low <= port <= settings.ports.high
    reserved = None if settings.reserved is None else any(low <= port <= high for low, high in settings.reserved)
    listeners = taken_by = None
    if facts.sockets is not None:
        listeners = tuple(each for each in facts.sockets.listeners if each.local.port == port)
        taken_by = tuple(_takers(facts, port, listeners))
    drawn = _all_true(inside, None if reserved is None else not reserved)
    word: Word
    if taken_by:
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


def _takers(facts: Facts, port: int, listeners: tuple[Socket, ...]) -> Iterable[Socket]:
    """Yield the sockets that have *port*, without listeners and the connections that they accepted."""
    if facts.sockets is None:
        return
    self_connected = [each for each in facts.sockets.self_connected if each.local.port == port]
    yield from self_connected
    seen = {(each.local, each.peer) for each in self_connected}
    for each in facts.sockets.taken:
        if each.local.port != port or (each.local, each.peer) in seen:
            continue
        if not any(_accepts(listener, each) for listener in listeners):
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
