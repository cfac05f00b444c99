"""The outage, replayed with real sockets: a server dies, a loop dials on, the server comes back.

Each act has one contender, one server and one port of its own. The main thread is the server, a
second thread is the reconnect loop. May import anything of the core; knows nothing of rich, and
prints nothing: that is `demo_report`. Loopback only, and nothing is left behind.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from safedial._tcp import steering
from safedial._tcp.selfconnect import release
from safedial.cli.demo_loop import GREETING, HOST, PATIENCE, Contender, Loop

Stage: TypeAlias = Literal["the loop dials", "forcing the fault", "the server tries to bind"]
Watch: TypeAlias = Callable[[Stage, int], object]

# Seconds in which a forced dial must have come about. It takes a millisecond too, but three of them
# that fail must not carry the demo past its minute.
_FORCING = 2.0

# Seconds between the server's attempts to bind. A supervisor waits longer (systemd's RestartSec:
# 0.1); a finer step shows that no moment was free.
_BIND_PAUSE = 0.01

# Seconds between two looks at the loop. rich draws its bars ten times a second.
_TICK = 0.1

# How often a free port is looked for. The first look finds one unless its neighbour is taken.
_PORT_TRIES = 100


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an act may take.

    Attributes:
        dialing: seconds that the fault has to occur by itself. An idle Linux takes 1 (it needs
            15,000 to 50,000 dials), a busy one several; three acts must stay under a minute.
        comeback: seconds that the server tries to bind: hundreds of attempts.
    """

    dialing: float = 12.0
    comeback: float = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comeback:
    """How the server came back, or failed to.

    Attributes:
        binds: its attempts to bind and listen.
        failed: how many of them failed.
        error: what the kernel said to the last that failed; empty where none did.
        after: seconds until it listened again; None where it gave up.
        reached: whether the loop then read its greeting.
    """

    binds: int
    failed: int = 0
    error: str = ""
    after: float | None = None
    reached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What was counted in one act.

    Attributes:
        name: the contender's name.
        port: the server's port.
        limits: what bounded the act.
        dials: dials since the server died.
        dials_before: those before the self-connect; for safedial those before the comeback.
        seconds_before: how long they took.
        self_connects: self-connected sockets that the loop was given.
        let_go: self-connects that safedial let go of, and reported as refused.
        forced: whether the fault was forced.
        comeback: how the server fared.
    """

    name: str
    port: int
    limits: Limits
    dials: int
    dials_before: int
    seconds_before: float
    self_connects: int
    let_go: int
    forced: bool
    comeback: Comeback


def flaws(tally: Tally, *, steered: bool) -> list[str]:
    """Return what is wrong with safedial's *tally*, in words; empty where it is clean.

    Where the kernel can't be steered it may still draw the port, and a bind may fall into the
    moment before the release: one that failed is allowed there.
    """
    comeback = tally.comeback
    found: list[str] = []
    if tally.self_connects:
        found.append(f"self-connected sockets that its loop was given: {tally.self_connects}")
    if comeback.failed > (0 if steered else 1):
        found.append(f"{comeback.failed} of the server's {comeback.binds} binds failed ({comeback.error})")
        if not tally.self_connects and not tally.let_go:
            found.append("as its loop never drew the port, another process may have: run the demo again")
    if comeback.after is None:
        found.append("the server did not come back")
    elif not comeback.reached:
        found.append("the loop did not reach the server that came back")
    return found


def play(
    contender: Contender,
    limits: Limits,
    *,
    dials: int | None = None,
    force: bool = False,
    watch: Watch | None = None,
) -> Tally:
    """Play one act: the loop reaches a server, the server dies, and tries to come back.

    Args:
        contender: how the loop dials.
        limits: how long it may take.
        dials: the server comes back after that many, or when `limits.dialing` is over. None: once
            the loop has connected to itself, which is forced where it does not occur in time.
        force: force a self-connect before the server comes back, whatever happened until then.
        watch: called ten times a second, and after each failed bind, with the stage and the dials
            since the server died.

    Raises:
        OSError: the loop and its server could not even meet before anything went wrong.
    """
    listener = listen()
    port = listener.getsockname()[1]
    # The listener closes first, which ends the loop's wait where it was never accepted.
    with Loop(contender, port) as loop, listener:
        if not _serve(listener, loop):
            raise TimeoutError(f"no connection to a server on {HOST} port {port} within {PATIENCE:.0f} s")
        listener.close()
        died, first = time.monotonic(), loop.dials

        def tick(stage: Stage) -> None:
            if watch is not None:
                watch(stage, loop.dials - first)

        enough = loop.fault.is_set if dials is None else lambda: loop.dials - first >= dials
        _wait(enough, limits.dialing, lambda: tick("the loop dials"))
        forced = force or (dials is None and not loop.fault.is_set())
        if forced:
            loop.force.set()
            _wait(lambda: not loop.force.is_set(), _FORCING, lambda: tick("forcing the fault"))
        last, until = loop.dials, time.monotonic()
        if dials is None and loop.first_fault is not None:
            last, until = loop.first_fault
        comeback = _come_back(port, loop, limits.comeback, lambda: tick("the server tries to bind"))
    return Tally(
        name=contender.name,
        port=port,
        limits=limits,
        dials=loop.dials - first,
        dials_before=last - first,
        seconds_before=until - died,
        self_connects=loop.self_connects,
        let_go=loop.let_go,
        forced=forced,
        comeback=comeback,
    )


def steering_works(port: int) -> bool:
    """Tell whether this kernel can be kept off *port*: set the option, and read it back."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        steering.steer(probe, steering.side_options(port)[0])
        return steering.own_range(probe) is not None


def listen() -> socket.socket:
    """Listen on a port that no socket has, and that the kernel likes to draw for outgoing connections."""
    span = steering.read_range()
    for _ in range(_PORT_TRIES):
        with _listen(0) as probe:
            port = probe.getsockname()[1]
        if span is not None:
            # connect() draws ports of the parity of the range's low end, bind(0) the others
            # (Linux, __inet_hash_connect and inet_csk_find_open_port).
            port -= (port - span.low) % 2
        with contextlib.suppress(OSError):
            # Without SO_REUSEADDR first: a server may have a port that an old connection in TIME_WAIT
            # has too, but connect() never draws it, so that the fault could not even be forced.
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.bind((HOST, port))
            return _listen(port)
    raise OSError(f"found no free port on {HOST} to listen on")


def _listen(port: int) -> socket.socket:
    # create_server() sets SO_REUSEADDR where servers should (POSIX).
    return socket.create_server((HOST, port))


def _serve(listener: socket.socket, loop: Loop) -> bool:
    """Greet the loop, then die. Tell whether the loop read the greeting."""
    loop.reached.clear()
    listener.settimeout(PATIENCE)
    try:
        connection, _ = listener.accept()
        try:
            connection.sendall(GREETING)
            return loop.reached.wait(PATIENCE)
        finally:
            release(connection)  # as a crash does: reset, with nothing left behind
    except OSError:
        return False


def _come_back(port: int, loop: Loop, seconds: float, tick: Callable[[], object]) -> Comeback:
    began = time.monotonic()
    binds, error = 0, ""
    while not binds or time.monotonic() - began < seconds:
        binds += 1
        try:
            listener = _listen(port)
        except OSError as failure:
            error = os.strerror(failure.errno or 0)
            tick()
            time.sleep(_BIND_PAUSE)
        else:
            with listener:
                after = time.monotonic() - began
                reached = _serve(listener, loop)
            return Comeback(binds=binds, failed=binds - 1, error=error, after=after, reached=reached)
    return Comeback(binds=binds, failed=binds, error=error)


def _wait(done: Callable[[], bool], seconds: float, tick: Callable[[], object]) -> None:
    end = time.monotonic() + seconds
    while not done() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _TICK))
        tick()
