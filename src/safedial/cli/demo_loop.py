"""The reconnect loops of the demo: three ways to dial, and the thread that does it.

Knows nothing of acts and their servers: that is `demo`. Loopback only.
"""

import contextlib
import functools
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

from safedial._dial.dialer import safe_connect
from safedial._tcp import connect, steering
from safedial._tcp.selfconnect import is_self_connected, release
from safedial.errors import SelfConnectError
from safedial.events import logger

Address: TypeAlias = tuple[str, int]

HOST = "127.0.0.1"

# Bytes that prove a server by data, as SMTP's greeting does (RFC 5321 section 4.2): what connected
# to itself has nothing to read but its own words.
GREETING = b"220 the real server\r\n"

# Seconds for what takes a millisecond on an idle machine: a dial, a greeting. Ample for a busy one.
PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to dial in a reconnect loop.

    Attributes:
        name: what the report calls it.
        habit: what its loop does, after the name.
        leaves: why its server can't come back, told where that is so.
        dial: returns a connected socket, as `socket.create_connection` does.
        connect: does it with a socket made beforehand, to force the fault.
        detects: whether the loop checks what it got, and closes a self-connected socket. If not,
            it believes in it, and waits for words of the server that never come.
    """

    name: str
    habit: str
    leaves: str
    dial: Callable[[Address, float], socket.socket]
    connect: Callable[[socket.socket, Address], object] = socket.socket.connect
    detects: bool = False


PLAIN = Contender(
    "create_connection",
    "believes the socket that it got, as most reconnect loops do",
    "The loop holds the port, and waits for words from itself.",
    socket.create_connection,
)
# Go's dialTCP (src/net/tcpsock_posix.go): compare the addresses, close, dial again.
CLOSING = Contender(
    "plain close (Go's way)",
    "compares local and peer address, closes what is connected to itself, and dials on",
    "The closed socket holds the port in TIME_WAIT (60 s on Linux).",
    socket.create_connection,
    detects=True,
)
SAFE = Contender(
    "safedial",
    "safe_connect in place of create_connection, nothing else changed",
    "",
    safe_connect,
    functools.partial(connect.connect, sides=steering.UNSTEERED),
)


class Loop:
    """A bare reconnect loop in a thread of its own, which lives as long as the ``with`` block."""

    def __init__(self, contender: Contender, port: int) -> None:
        self.dials = self.self_connects = self.let_go = 0
        # The dials and the time (monotonic) at the first self-connect.
        self.first_fault: tuple[int, float] | None = None
        self.fault = threading.Event()
        self.force = threading.Event()  # set from outside, cleared by the loop when it is done
        self.reached = threading.Event()
        self._over = threading.Event()
        self._contender = contender
        self._address = (HOST, port)
        self._warnings = _Warnings(self._let_go)
        # A daemon, so that a second interrupt during the join can't keep the process.
        self._thread = threading.Thread(target=self._run, name=f"safedial demo: {contender.name}", daemon=True)

    def __enter__(self) -> Self:
        logger.addHandler(self._warnings)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        logger.removeHandler(self._warnings)

    def _run(self) -> None:
        while not self._over.is_set():
            self.dials += 1
            # Refused or reset: dial on without a pause, as the loops of the outage did.
            with contextlib.suppress(OSError), self._dial() as sock:
                self._use(sock)

    def _dial(self) -> socket.socket:
        if not self.force.is_set():
            return self._contender.dial(self._address, PATIENCE)
        sock = doomed_socket(self._address[1])
        try:
            self._contender.connect(sock, self._address)
        except SelfConnectError:
            self._let_go()
            raise
        except BaseException:
            sock.close()
            raise
        return sock

    def _use(self, sock: socket.socket) -> None:
        if not is_self_connected(sock):
            if sock.recv(len(GREETING), socket.MSG_WAITALL) == GREETING:
                self.reached.set()
            sock.recv(1)  # returns when the server dies
            return
        self.self_connects += 1
        if self._contender.detects:
            sock.close()
            self._faulted()
        else:
            self._faulted()
            self._over.wait()  # nothing fails on this socket, so nothing makes the loop dial again
            release(sock)

    def _let_go(self) -> None:
        self.let_go += 1
        self._faulted()

    def _faulted(self) -> None:
        if self.first_fault is None:
            self.first_fault = self.dials, time.monotonic()
        self.force.clear()
        self.fault.set()


class _Warnings(logging.Handler):
    """Counts the warnings of the `safedial` logger, each of them a self-connect that was let go.

    It also keeps them off the terminal, where they would run through the report.
    """

    def __init__(self, count: Callable[[], object]) -> None:
        super().__init__(logging.WARNING)
        self._count = count

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002  # one kind of warning only
        self._count()


def doomed_socket(port: int) -> socket.socket:
    """Return a socket that *port* is the only local port for: nobody listening, it meets itself."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.settimeout(PATIENCE)
        if not _narrowed(sock, port):
            # Without SO_REUSEADDR, which would spare the server the TIME_WAIT of a plain close.
            sock.bind((HOST, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _narrowed(sock: socket.socket, port: int) -> bool:
    if sys.platform != "linux":
        return False  # there the option's number has another meaning
    try:
        sock.setsockopt(
            socket.IPPROTO_IP, steering.IP_LOCAL_PORT_RANGE, steering.option_value(steering.PortRange(port, port))
        )
    except OSError:
        return False
    return True
