"""The sentences of the report. Pure functions of the figures."""

from collections.abc import Sequence

from safedial.cli.demo import ordinary, scene, self_connect
from safedial.cli.demo.scene import ANSWER, REQUEST

_REQUEST, _ANSWER = (line.decode().strip() for line in (REQUEST, ANSWER))
OPENING = (
    "A server dies, a client dials on, the server tries to come back.",
    "All of it is real: sockets on 127.0.0.1, and this kernel. It takes less than a minute.",
)
SELF_CONNECT = (
    "1. A client connects to itself",
    f'Each loop asks its server for "{_REQUEST}". The server answers "{_ANSWER}", and dies. The loop dials on.',
)
ORDINARY = (
    "2. An ordinary connection is in the server's way",
    "One server is down. A client connects to another, again and again, until the kernel draws the port of the first.",
)
ONLY_LINUX = "This scene needs Linux: elsewhere safedial does not set SO_REUSEADDR, which means something else there."
# How many of its servers came back, and of how many.
_CAME_BACK = {
    (0, 1): "its server could not come back",
    (1, 1): "its server came back",
    (0, 2): "neither of its servers could come back",
    (1, 2): "only one of its servers came back",
    (2, 2): "both of its servers came back",
}


def dialed(tally: self_connect.Tally) -> str:
    """Say what happened in scene 1 until the server tried to come back."""
    port, dials = tally.port, _count(tally.dials_before, "time")
    loop = f"The server on port {port} died. The loop dialed {dials} in {tally.seconds_before:.2f} s"
    released = f"safedial released {_count(tally.released, 'self-connect')}"
    if tally.forced:
        outcome = released if tally.released else "without success"
        if tally.self_connects:
            outcome = f"with {port} the only local port to draw, the loop was connected to itself"
        return f"{loop}. The fault was then forced: {outcome}."
    if tally.self_connects:
        return f"{loop}, until the kernel drew {port} as the local port too and connected it to itself."
    return f"{loop}, and {released if tally.released else 'was never connected to itself'}."


def dialed_on(tally: self_connect.Tally) -> str:
    """Say that the loop dialed on while its server tried to come back; empty if it did not."""
    if tally.dials <= tally.dials_before:
        return ""
    again = f", and was connected to itself {_count(tally.self_connects, 'time')}" if tally.self_connects else ""
    return f"Meanwhile the loop dialed on: {_count(tally.dials, 'time')} in all{again}."


def echoed(tally: self_connect.Tally) -> str:
    """Say that the loop read its own request; empty if it did not."""
    if tally.read != REQUEST:
        return ""
    return f'The loop sent "{_REQUEST}" and read back "{_REQUEST}". It takes its own request for the server\'s answer.'


def steering(port: int, *, steered: bool) -> str:
    """Say whether the kernel was kept off *port*."""
    if steered:
        return f"Steering was in effect: the kernel was kept off local port {port} (IP_LOCAL_PORT_RANGE)."
    return "This system can't be steered; safedial detects a self-connect and releases it."


def connected(tally: ordinary.Tally) -> str:
    """Say what happened in scene 2 until the server tried to come back."""
    port, dials = tally.port, _count(tally.dials, "time")
    client = f"The server on port {port} is down. A client of the server on port {tally.other_port} connected {dials}"
    client = f"{client} in {tally.seconds_before:.2f} s"
    if not tally.drawn:
        return f"{client}. The kernel never drew {port}, so this act shows nothing."
    if tally.forced:
        return f"{client}. The fault was then forced: {port} was the only local port to draw."
    return f"{client}, until the kernel drew {port} as its local port."


def came_back(tally: scene.Tally, leaves: str) -> str:
    """Say whether the server came back; *leaves* is the reason if it did not."""
    if tally.after is None:
        failed = f"bind failed {_count(tally.failed, 'time')} in {tally.limits.comeback:g} s, {tally.error}"
        return f"The server could not come back: {failed}. {leaves}".rstrip()
    failed = f", after {_count(tally.failed, 'failed bind')} ({tally.error})" if tally.failed else ""
    reached = "and its client reached it" if tally.reached else "but its client did not reach it"
    return f"The server was back in {tally.after:.2f} s{failed}, {reached}."


def works(tally: ordinary.Tally) -> str:
    """Say whether the connection in the server's way is still of use."""
    return f"The connection to the other server {'still works' if tally.works else 'does not work any more'}."


def verdict(tallies: Sequence[scene.Tally]) -> tuple[str, bool]:
    """Sum up the acts of one contender: return a sentence, and whether nothing went wrong."""
    played = [tally for tally in tallies if tally.binds]
    back = sum(tally.after is not None for tally in played)
    fooled = any(isinstance(tally, self_connect.Tally) and tally.read == REQUEST for tally in tallies)
    findings = [_CAME_BACK[back, len(played)]]
    if fooled:
        findings.insert(0, "it read its own request as the answer")
    elif not any(tally.self_connects for tally in tallies):
        findings.insert(0, "it was never given a self-connected socket")
    return f"{tallies[0].name}: {', and '.join(findings)}.", back == len(played) and not fooled


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
