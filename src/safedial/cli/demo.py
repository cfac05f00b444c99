"""The outage, replayed with real sockets: a server dies, a loop dials on, the server tries to come back.

Each act has one contender, and its own server and port. The main thread is the server, a second thread the reconnect
loop. Loopback only. Prints nothing: `demo_report` does.
"""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from safedial._tcp import steering
from safedial._tcp.selfconnect import RESET
from safedial.cli.demo_loop import GREETING, HOST, PATIENCE, Contender, Loop
from safedial.testing import dead_port, self_connect

Stage: TypeAlias = Literal["the loop dials", "forcing the fault", "the server tries to bind"]
Watch: TypeAlias = Callable[[Stage, int], object]

# Seconds in which a forced self-connect must happen. It takes a millisecond; three that fail must fit into a minute.
_FORCING = 2.0
# Seconds between the server's attempts to bind. Supervisors wait longer (systemd's RestartSec: 0.1); the short step
# shows that the port was never free.
_BIND_PAUSE = 0.01
# Seconds between two looks at the loop. rich draws its bars ten times a second.
_TICK = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an act may take, in seconds. Three acts must stay under a minute."""

    # For the fault to happen by itself. 15,000 to 50,000 dials take 1 second on an idle Linux, several on a busy one.
    dialing: float = 12.0
    comeback: float = 4.0  # for the server to bind, hundreds of times


@dataclass(slots=True, kw_only=True)
class Tally:
    """The figures of one act."""

    name: str  # the contender's
    port: int
    limits: Limits
    dials: int = 0  # since the server died
    dials_before: int = 0  # until the first self-connect; for safedial until the comeback
    seconds_before: float = 0.0  # the time that these took
    self_connects: int = 0  # self-connected sockets that the loop was given
    released: int = 0  # self-connects that safedial released, and reported as refused
    forced: bool = False  # whether a self-connect was forced
    binds: int = 0  # how often the server tried to come back
    failed: int = 0  # binds that failed
    error: str = ""  # the kernel's words for the last that failed
    after: float | None = None  # seconds until the server listened again; None if it gave up
    reached: bool = False  # whether the loop then read its greeting


def flaws(tally: Tally, *, steered: bool) -> list[str]:
    """Return the flaws of safedial's *tally*, in words; empty if it is clean.

    If the kernel can't be steered, one bind may fail: it may come between a self-connect and its release.
    """
    found: list[str] = []
    if tally.self_connects:
        found.append(f"self-connected sockets that its loop was given: {tally.self_connects}")
    if tally.failed > (0 if steered else 1):
        found.append(f"{tally.failed} of the server's {tally.binds} binds failed ({tally.error})")
        if not tally.self_connects and not tally.released:
            found.append("as its loop never drew the port, another process may have: run the demo again")
    if tally.after is None:
        found.append("the server did not come back")
    elif not tally.reached:
        found.append("the loop did not reach the server that came back")
    return found


def play(
    contender: Contender, limits: Limits, *, dials: int | None = None, force: bool = False, watch: Watch | None = None
) -> Tally:
    """Play one act: the loop reaches a server, the server dies, and tries to come back.

    It does so after *dials*, or after `limits.dialing`. If *dials* is None, it waits for a self-connect, which is
    forced if none happens in time. *force* forces one in any case. *watch* is called ten times a second, and after
    each failed bind, with the stage and the dials since the server died. Raise OSError if the loop can't reach its
    server in the first place.
    """
    tally = Tally(name=contender.name, port=dead_port(HOST), limits=limits)
    listener = socket.create_server((HOST, tally.port))  # sets SO_REUSEADDR, as servers should on POSIX
    # The listener closes first, which ends the loop's wait if it was never accepted.
    with Loop(contender, tally.port).running() as loop, listener:
        if not _serve(listener, loop):
            raise TimeoutError(f"no connection to a server on {HOST} port {tally.port} within {PATIENCE:.0f} s")
        listener.close()
        died, first = time.monotonic(), loop.dials

        def look(stage: Stage) -> None:
            tally.dials = loop.dials - first
            if watch is not None:
                watch(stage, tally.dials)

        def wait(done: Callable[[], bool], seconds: float, stage: Stage) -> None:
            end = time.monotonic() + seconds
            while not done() and (left := end - time.monotonic()) > 0:
                time.sleep(min(left, _TICK))
                look(stage)

        def enough() -> bool:
            return loop.faults > 0 if dials is None else loop.dials - first >= dials

        wait(enough, limits.dialing, "the loop dials")
        tally.forced = force or (dials is None and not loop.faults)
        if tally.forced:
            faults = loop.faults
            with self_connect(tally.port, times=1):
                wait(lambda: loop.faults > faults, _FORCING, "forcing the fault")
        last, until = loop.dials, time.monotonic()
        if dials is None and loop.first_fault is not None:
            last, until = loop.first_fault
        _come_back(tally, loop, lambda: look("the server tries to bind"))
    tally.dials, tally.dials_before, tally.seconds_before = loop.dials - first, last - first, until - died
    tally.self_connects, tally.released = loop.self_connects, loop.released
    return tally


def steering_works(port: int) -> bool:
    """Return whether this kernel can be kept off *port*: set the option, and read it back."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        steering.steer(probe, steering.side_options(port)[0])
        return steering.own_range(probe) is not None


def _serve(listener: socket.socket, loop: Loop) -> bool:
    """Greet the loop, then die. Return whether the loop read the greeting."""
    loop.reached.clear()
    listener.settimeout(PATIENCE)
    try:
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)  # the end of a crash
            connection.sendall(GREETING)
            return loop.reached.wait(PATIENCE)
    except OSError:
        return False


def _come_back(tally: Tally, loop: Loop, look: Callable[[], object]) -> None:
    began = time.monotonic()
    while not tally.binds or time.monotonic() - began < tally.limits.comeback:
        tally.binds += 1
        try:
            listener = socket.create_server((HOST, tally.port))
        except OSError as error:
            tally.failed += 1
            tally.error = os.strerror(error.errno or 0)
            look()
            time.sleep(_BIND_PAUSE)
        else:
            with listener:
                tally.after = time.monotonic() - began
                tally.reached = _serve(listener, loop)
            return
