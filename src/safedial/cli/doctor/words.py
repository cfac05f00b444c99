"""The sentences of the report. Pure functions of what was seen and what was judged."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from safedial._address import describe
from safedial._tcp.steering import PortRange
from safedial.cli.doctor import who
from safedial.cli.doctor.facts import Facts
from safedial.cli.doctor.judge import Diagnosis, Filled, Level, Verdict, Word
from safedial.cli.doctor.who import NOT_CHECKED

AT_RISK = (
    "connect() may draw a port at risk while nobody listens on it. Then its server can't start, or a client is "
    "connected to itself."
)
HEADERS = ("port", "verdict", "in range", "reserved", "drawn", "who has it")
# So many are named; the rest is counted.
_MOST_PORTS = 10

_BOUND = "by a socket that is bound, and neither listens nor is connected. No table shows its process"
_SYSTEMS = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}
_STEERING = {
    True: "works (IP_LOCAL_PORT_RANGE)",
    False: "does not work here (no IP_LOCAL_PORT_RANGE): safedial releases self-connected sockets",
    None: NOT_CHECKED,
}
_NEWS: dict[Word, str] = {"taken": "taken now", "at risk": "at risk", "not checked": NOT_CHECKED}
_LEVELS: dict[Level | None, str] = {
    "near half": "near half, from where on connect() takes much longer",
    "past half": "past half, so connect() takes much longer",
    "near the end": "near the end, where connect() fails",
    "used up": "used up, so connect() fails until one is free again",
}


class Finding(NamedTuple):
    """A line of the verdict, and whether it is good or bad news."""

    said: str
    word: Word | None = None


def verdict(diagnosis: Diagnosis) -> list[Finding]:
    """Say what matters most: of the ports that the user named, then of the others and of the machine."""
    asked = [each for each in diagnosis.verdicts if each.asked]
    others = [each for each in diagnosis.verdicts if not each.asked]
    servers = [f"Port {each.port} has a server: {who.listening(each.listeners)}." for each in asked if each.listeners]
    found = [Finding(f"{server} No other can bind it there.") for server in servers[:_MOST_PORTS]]
    found += _by_word(asked)
    if free := [each.port for each in asked if each.verdict == "safe" and not each.listeners]:
        found.append(Finding(f"Safe: {_ports(free)}.", "safe"))
    return [*found, *_of_all(diagnosis, others, asked=bool(asked))]


def _of_all(diagnosis: Diagnosis, others: Sequence[Verdict], *, asked: bool) -> list[Finding]:
    found = _by_word(others, "others " if asked else "")
    if diagnosis.usable == 0:
        found.insert(0, Finding("No port is left to connect from: all are reserved or listened on.", "at risk"))
    elif full := [f"to {describe(*each.destination.peer)}" for each in diagnosis.destinations or () if each.runs_out]:
        found.append(Finding(f"Local ports run out: {who.listed(full, who.MOST_NAMES)}.", "at risk"))
    if not found and diagnosis.unknown:
        return [Finding("Others not checked: see below." if asked else "Not checked: see below.", "not checked")]
    return found or [Finding("Nothing else is at risk." if asked else "Nothing is at risk.", "safe")]


def _by_word(verdicts: Sequence[Verdict], whose: str = "") -> list[Finding]:
    """Say which ports are not safe."""
    return [
        Finding(f"{whose}{said}: {_ports(those)}.".capitalize(), word)
        for word, said in _NEWS.items()
        if (those := [each.port for each in verdicts if each.verdict == word])
    ]


def port(each: Verdict) -> str:
    """Say what is known of a port."""
    if each.verdict == "taken":
        return f"Port {each.port}: taken {who.holders(each) or _BOUND}."
    causes: list[str] = [each.verdict]
    if each.inside is not None:
        causes.append(f"{'inside' if each.inside else 'outside'} the ephemeral range")
    if each.inside and each.reserved is not None:
        causes.append("reserved" if each.reserved else "not reserved")
    if each.verdict == "at risk" and each.preferred is not None:
        causes.append(f"{'first' if each.preferred else 'last'} to be drawn")
    said = f"Port {each.port}: {', '.join(causes)}; {who.listening(each.listeners)}"
    if each.held_by:
        said += f"; held {who.holders(each)}"
        if each.verdict != "not checked":
            said += ", so that its server needs SO_REUSEADDR"
    return f"{said}."


def row(each: Verdict) -> tuple[str, ...]:
    """Return what is known of a port as cells, below `HEADERS`."""
    drawn = {True: "first", False: "last", None: NOT_CHECKED}[each.preferred] if each.verdict == "at risk" else ""
    if each.listeners is None:
        has_it = NOT_CHECKED
    else:
        sockets = (*(each.held_by or ()), *each.listeners)
        has_it = who.listed(dict.fromkeys(map(who.in_short, sockets)), 1, who.not_kept(each))
        has_it = has_it or ("a bound socket" if each.verdict == "taken" else "nobody")
    return str(each.port), each.verdict, _yes(each.inside), _yes(each.reserved), drawn, has_it


def more(rest: Sequence[Verdict]) -> str:
    """Say how many ports the report leaves out."""
    counts = Counter(each.verdict for each in rest)
    said = ", ".join(f"{number:,} {name}" for name, number in counts.items())
    return f"Other ports: {said}. --json has them all."


def destination(each: Filled) -> str:
    """Say how many local ports the connections to a destination have."""
    source, peer, live, time_wait = each.destination
    said = f"From {source} to {describe(*peer)}: {_count(live + time_wait, 'local port')}"
    if time_wait:
        said += f", {time_wait:,} of them in TIME_WAIT"
    if each.share is None:
        return f"{said}."
    said += f"; {100 * each.share:.0f} % of the usable ones"
    if each.soon is not None and time_wait:
        said += f", but connect() takes those in TIME_WAIT again after {each.soon:g} s"
    return said + (f", {_LEVELS[each.level]}." if each.level else ".")


def more_remedies(number: int) -> str:
    """Say that the report leaves out *number* lines or remedies that are like the one before."""
    return f"The same for {number:,} more: --json has the lines."


def details(facts: Facts) -> list[str]:
    """Say what was read of the system, one fact a line."""
    return [
        f"Ephemeral range: {_range(facts)}",
        f"Reserved ports: {_reserved(facts.settings.reserved)}",
        f"Steering: {_STEERING[facts.steering]}",
        f"TIME_WAIT: {_time_wait(facts)}",
        f"IPv6: {_ipv6(facts)}",
        f"System: {_SYSTEMS.get(facts.system, facts.system)} {facts.kernel or ''}".rstrip() + f"; {_sockets(facts)}",
    ]


def _range(facts: Facts) -> str:
    ports = facts.settings.ports
    if ports is None:
        return NOT_CHECKED
    drawn = f"drawn first: {'odd' if ports.low % 2 else 'even'} ones"
    if facts.step_width:
        drawn = f"drawn in steps of {facts.step_width} (net.ipv4.ip_local_port_step_width)"
    return f"{ports.low} to {ports.high}, {_count(ports.high - ports.low + 1, 'port')}; {drawn}"


def _reserved(reserved: Sequence[PortRange] | None) -> str:
    if reserved is None:
        return NOT_CHECKED
    spelled = (str(low) if low == high else f"{low}-{high}" for low, high in reserved)
    return who.listed(spelled, _MOST_PORTS) or "none"


def _time_wait(facts: Facts) -> str:
    here, elsewhere = facts.settings.wait_on_loopback, facts.settings.wait
    if here is None or elsewhere is None:
        return NOT_CHECKED
    said = f"keeps a port for {elsewhere:g} s"
    if here != elsewhere:
        said += f", towards loopback for {here:g} s"
    return said if facts.tw_reuse is None else f"{said} (tcp_tw_reuse = {facts.tw_reuse})"


def _ipv6(facts: Facts) -> str:
    if facts.ipv6 is None:
        return NOT_CHECKED
    if not facts.ipv6:
        return "no IPv6 address"
    return {True: "on, with ::1", False: "on, but without ::1", None: f"on, ::1 {NOT_CHECKED}"}[facts.loopback_v6]


def _sockets(facts: Facts) -> str:
    if facts.sockets is None:
        return f"TCP sockets {NOT_CHECKED}"
    said = _count(facts.sockets.count, "TCP socket")
    time_wait = facts.settings.time_wait
    return said if time_wait is None else f"{said}, {time_wait:,} in TIME_WAIT"


def _ports(ports: Sequence[int]) -> str:
    if not ports:
        return ""
    return f"port{'s' if len(ports) > 1 else ''} {who.listed(map(str, ports), _MOST_PORTS)}"


def _yes(fact: bool | None) -> str:
    return {True: "yes", False: "no", None: NOT_CHECKED}[fact]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
