"""A remedy, and how it writes ports. Pure functions."""

from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple, TypeAlias

from safedial._tcp.steering import PortRange

Kind: TypeAlias = Literal["reserve", "free", "persist", "move", "pool", "unreserve", "widen"]

# Ports, or ranges of them, that a sentence names.
_MOST_NAMED = 10


class Remedy(NamedTuple):
    """Something to do."""

    kind: Kind
    title: str  # one sentence
    lines: tuple[str, ...] = ()  # to paste
    notes: tuple[str, ...] = ()  # sentences: what it needs, what it leaves, what to take care of


def not_here(possible: bool | None, where: str) -> list[str]:
    """Say that what is to be done is not *possible* from here. *where* says what is in its way."""
    if possible is not False:
        return []
    return [f"Not from in here, {where}: run it on the host (safedial doctor --pid shows how)."]


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


def named(ports: Collection[int]) -> str:
    """Name *ports*; count them if they are many."""
    spans = as_value(merged((), ports)).split(",")
    if len(spans) > _MOST_NAMED:
        return f"{len(ports):,} ports"
    return f"port{'s' * (len(ports) > 1)} {', '.join(spans)}"


def them(ports: Collection[int]) -> str:
    """Return the pronoun for *ports*."""
    return "it" if len(ports) == 1 else "them"
