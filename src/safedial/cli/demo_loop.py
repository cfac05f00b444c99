"""The reconnect loops of the demo: three ways to dial, and the thread that does it. Loopback only."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Self

from safedial._dial.dialer import safe_connect
from safedial._tcp.selfconnect import is_self_connected, release
from safedial.events import logger
from safedial.testing.servers import Address

HOST = "127.0.0.1"

# Data that proves a server, as SMTP's greeting does (RFC 5321 section 4.2). A self-connected socket reads only its own.
GREETING = b"220 the real server\r\n"

# Seconds for a dial or a greeting, which takes a millisecond on an idle machine.
PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to dial in a reconnect loop."""

    name: str
    habit: str  # what its loop does
    leaves: str  # why its server can't come back; empty if it can
    dial: Callable[[Address, float], socket.socket]
    closes: bool = False  # whether its loop closes a self-connected socket; if not, it waits for words on it


PLAIN = Contender(
    "create_connection",
    "trusts the socket that it gets, as most reconnect loops do",
    "The loop holds the port, and waits for words from itself.",
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
SAFE = Contender("safedial", "safe_connect in place of create_connection, nothing else changed", "", safe_connect)


class Loop(logging.Handler):
    """A bare reconnect loop in its own thread.

    A logging handler, because each warning of the `safedial` logger is a self-connect that was released. Any handler
    also keeps the warnings off the terminal.
    """

    def __init__(self, contender: Contender, port: int) -> None:
        super().__init__(logging.WARNING)
        self.dials = 0
        self.self_connects = 0  # self-connected sockets that the loop was given
        self.released = 0  # self-connects that safedial released
        self.first_fault: tuple[int, float] | None = None  # the dials and the time at the first self-connect
        self.reached = threading.Event()  # set when the loop has read the greeting
        self._over = threading.Event()
        self._contender = contender
        self._address = (HOST, port)

    @property
    def faults(self) -> int:
        """How often the loop's sockets were connected to themselves."""
        return self.self_connects + self.released

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
        self.released += 1
        self._note_fault()

    def _run(self) -> None:
        while not self._over.is_set():
            self.dials += 1
            # Refused or reset: dial on without a pause, as the loops of real outages did.
            with contextlib.suppress(OSError), self._contender.dial(self._address, PATIENCE) as sock:
                self._use(sock)

    def _use(self, sock: socket.socket) -> None:
        if not is_self_connected(sock):
            if sock.recv(len(GREETING), socket.MSG_WAITALL) == GREETING:
                self.reached.set()
            sock.recv(1)  # returns when the server dies
            return
        self.self_connects += 1
        if self._contender.closes:
            sock.close()
            self._note_fault()
        else:
            self._note_fault()
            self._over.wait()  # nothing fails on this socket, so nothing makes the loop dial again
            release(sock)

    def _note_fault(self) -> None:
        self.first_fault = self.first_fault or (self.dials, time.monotonic())
