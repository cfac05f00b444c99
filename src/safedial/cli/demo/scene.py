"""What both scenes need: who dials, the protocol, the server that comes back, and the figures of an act.

An act is a scene played by one contender, with its own server and port. Prints nothing: `report` does.
"""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from safedial._dial.dialer import safe_connect
from safedial.testing.servers import Address

Stage: TypeAlias = Literal["the client dials", "forcing the fault", "the server binds"]
# Called ten times a second, and after each failed bind, with the stage and the dials so far.
Watch: TypeAlias = Callable[[Stage, int], object]

HOST = "127.0.0.1"
# A made-up protocol, in which only a server can answer: a self-connected socket reads the request.
REQUEST = b"GET user:1\n"
ANSWER = b"Alice\n"
# Seconds for a dial or an answer, which takes a millisecond on an idle machine.
PATIENCE = 5.0
# Seconds between the server's attempts to bind. Supervisors wait longer (systemd's RestartSec: 0.1); the short step
# shows that the port was never free.
_BIND_PAUSE = 0.01
# Seconds between two looks at a client. rich draws its bars ten times a second.
TICK = 0.1


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to dial."""

    name: str
    habit: str  # what its client does
    leaves: str  # why its server can't come back; empty if it can
    dial: Callable[[Address, float], socket.socket]
    closes: bool = False  # whether its client closes a self-connected socket; if not, it uses it


SAFE = Contender("safedial", "safe_connect in place of create_connection, nothing else changed", "", safe_connect)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an act may take, in seconds. Five acts must stay under a minute."""

    # For the fault to happen by itself. 15,000 to 50,000 dials take 1 second on an idle Linux, several on a busy one.
    dialing: float = 8.0
    comeback: float = 2.0  # for the server to bind, some 200 times


@dataclass(slots=True, kw_only=True)
class Tally:
    """The figures of one act."""

    name: str  # the contender's
    port: int  # the server's
    limits: Limits
    dials: int = 0
    self_connects: int = 0  # self-connected sockets that the client was given
    released: int = 0  # self-connects that safedial released, and reported as refused
    seconds_before: float = 0.0  # the time until the server came back, or was kept from it
    forced: bool = False  # whether the fault was forced
    binds: int = 0  # how often the server tried to come back
    failed: int = 0  # binds that failed
    error: str = ""  # the kernel's words for the last that failed
    after: float | None = None  # seconds until the server listened again; None if it gave up
    reached: bool = False  # whether a client then read its answer

    def come_back(self, serve: Callable[[socket.socket], bool], look: Callable[[Stage], object]) -> None:
        """Let the server try to listen again. *serve* returns whether a client reached it."""
        began = time.monotonic()
        while not self.binds or time.monotonic() - began < self.limits.comeback:
            self.binds += 1
            try:
                with socket.create_server((HOST, self.port)) as listener:
                    self.after = time.monotonic() - began
                    self.reached = serve(listener)
                    return
            except OSError as error:
                self.failed += 1
                self.error = os.strerror(error.errno or 0)
                look("the server binds")
                time.sleep(_BIND_PAUSE)


def ask(sock: socket.socket) -> bytes:
    """Send the request, and return the line that is read back."""
    sock.sendall(REQUEST)
    return read_line(sock)


def read_line(sock: socket.socket) -> bytes:
    """Return the next line; there is only one at a time."""
    with sock.makefile("rb") as lines:
        return lines.readline()
