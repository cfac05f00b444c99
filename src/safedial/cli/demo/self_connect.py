"""Scene 1: a server dies, a loop dials on and connects to itself, the server tries to come back.

The main thread is the server, a second thread the reconnect loop.
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Self

from safedial._tcp import steering
from safedial._tcp.selfconnect import RESET, is_self_connected, release
from safedial.cli.demo import scene
from safedial.cli.demo.scene import ANSWER, HOST, PATIENCE, REQUEST, Contender, Limits, Stage, Watch
from safedial.events import logger
from safedial.testing import dead_port, self_connect

PLAIN = Contender(
    "create_connection",
    "trusts the socket that it gets, as most reconnect loops do",
    "The loop holds the port.",
    socket.create_connection,
)
# Go's dialTCP (src/net/tcpsock_posix.go): compare the addresses, close, dial again.
CLOSING = Contender(
    "plain close (Go's way)",
    "compares local and peer address, closes a self-connected socket, and dials on",
    "The closed socket holds the port in TIME_WAIT (60 s on Linux).",
    socket.create_connection,
    closes=True,
)
# Seconds in which a forced self-connect must happen. It takes a millisecond.
_FORCING = 2.0


@dataclass(slots=True, kw_only=True)
class Tally(scene.Tally):
    """The figures of one act. The dials are those since the server died."""

    dials: int = -1  # the first one, which reaches the server, does not count
    dials_before: int = 0  # until the first self-connect; for safedial until the comeback
    read: bytes = b""  # what the loop last read after its request

    @property
    def faults(self) -> int:
        """How often the loop's sockets were connected to themselves."""
        return self.self_connects + self.released


def flaws(tally: Tally) -> list[str]:
    """Return the flaws of safedial's *tally*, in words; empty if it is clean.

    On Linux, SO_REUSEADDR lets the server bind beside a self-connect, too. Elsewhere one bind may fail: it may come
    between a self-connect and its release.
    """
    found: list[str] = []
    if tally.self_connects:
        found.append(f"self-connected sockets that its loop was given: {tally.self_connects}")
    if tally.failed > (0 if steering.ON_LINUX else 1):
        found.append(f"{tally.failed} of the server's {tally.binds} binds failed ({tally.error})")
        if not tally.faults:
            found.append("as its loop never drew the port, another process may have: run the demo again")
    if tally.after is None:
        found.append("the server did not come back")
    elif not tally.reached:
        found.append("the loop did not reach the server that came back")
    return found


class Loop(logging.Handler):
    """A bare reconnect loop in its own thread.

    A logging handler, because each warning of the `safedial` logger is a self-connect that was released. Any handler
    also keeps the warnings off the terminal.
    """

    def __init__(self, contender: Contender, tally: Tally) -> None:
        super().__init__(logging.WARNING)
        self.first_fault: tuple[int, float] | None = None  # the dials and the time at the first self-connect
        self.reached = threading.Event()  # set when the loop has read the server's answer
        self._over = threading.Event()
        self._contender = contender
        self._tally = tally

    @contextlib.contextmanager
    def running(self) -> Generator[Self]:
        """Run the loop inside the block."""
        # A daemon, so that a second interrupt during the join can't keep the process.
        thread = threading.Thread(target=self._run, name=f"safedial demo: {self._contender.name}", daemon=True)
        logger.addHandler(self)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()
            logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002, D102  # of one kind only
        self._tally.released += 1
        self._note_fault()

    def _run(self) -> None:
        while not self._over.is_set():
            self._tally.dials += 1
            # Refused or reset: dial on without a pause, as the loops of real outages did.
            with contextlib.suppress(OSError), self._contender.dial((HOST, self._tally.port), PATIENCE) as sock:
                self._use(sock)

    def _use(self, sock: socket.socket) -> None:
        if not is_self_connected(sock):
            self._tally.read = scene.ask(sock)
            if self._tally.read == ANSWER:
                self.reached.set()
            sock.recv(1)  # returns when the server dies
            return
        self._tally.self_connects += 1
        if self._contender.closes:
            sock.close()
            self._note_fault()
        else:
            self._tally.read = scene.ask(sock)
            self._note_fault()
            self._over.wait()  # nothing fails on this socket, so nothing makes the loop dial again
            release(sock)

    def _note_fault(self) -> None:
        self.first_fault = self.first_fault or (self._tally.dials, time.monotonic())


def play(
    contender: Contender, limits: Limits, *, dials: int | None = None, force: bool = False, watch: Watch | None = None
) -> Tally:
    """Play one act: the loop reaches a server, the server dies, and tries to come back.

    It does so after *dials*, or after `limits.dialing`. If *dials* is None, it waits for a self-connect, which is
    forced if none happens in time. *force* forces one in any case. Raise OSError if the loop can't reach its server in
    the first place.
    """
    tally = Tally(name=contender.name, port=dead_port(HOST), limits=limits)
    listener = socket.create_server((HOST, tally.port))  # sets SO_REUSEADDR, as servers should on POSIX
    # The listener closes first, which ends the loop's wait if it was never accepted.
    with Loop(contender, tally).running() as loop, listener:
        if not _serve(listener, loop):
            raise TimeoutError(f"no connection to a server on {HOST} port {tally.port} within {PATIENCE:.0f} s")
        listener.close()
        died = time.monotonic()

        def look(stage: Stage) -> None:
            if watch is not None:
                watch(stage, tally.dials)

        def wait(done: Callable[[], bool], seconds: float, stage: Stage) -> None:
            end = time.monotonic() + seconds
            while not done() and (left := end - time.monotonic()) > 0:
                time.sleep(min(left, scene.TICK))
                look(stage)

        def enough() -> bool:
            return tally.faults > 0 if dials is None else tally.dials >= dials

        wait(enough, limits.dialing, "the client dials")
        tally.forced = force or (dials is None and not tally.faults)
        if tally.forced:
            faults = tally.faults
            with self_connect(tally.port, times=1, unused="ignore"):
                wait(lambda: tally.faults > faults, _FORCING, "forcing the fault")
        tally.dials_before, until = tally.dials, time.monotonic()
        if dials is None and loop.first_fault is not None:
            tally.dials_before, until = loop.first_fault
        tally.seconds_before = until - died
        tally.come_back(lambda listener: _serve(listener, loop), look)
    return tally


def steering_works(port: int) -> bool:
    """Return whether this kernel can be kept off *port*: set the option, and read it back."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        with contextlib.suppress(OSError):
            probe.setsockopt(socket.IPPROTO_IP, steering.IP_LOCAL_PORT_RANGE, steering.side_options(port)[0])
        return steering.own_range(probe) is not None


def _serve(listener: socket.socket, loop: Loop) -> bool:
    """Answer one request, then die. Return whether the loop read the answer."""
    loop.reached.clear()
    listener.settimeout(PATIENCE)
    try:
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)  # the end of a crash
            connection.settimeout(PATIENCE)
            if scene.read_line(connection) == REQUEST:
                connection.sendall(ANSWER)
            return loop.reached.wait(PATIENCE)
    except OSError:
        return False
