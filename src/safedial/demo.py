"""The outage, replayed with real sockets: a server dies, a loop dials on, the server comes back.

One act has one contender, one server and one port of its own. The main thread is the server, a
second thread is the reconnect loop. May import anything of the core; knows nothing of rich, and
prints nothing: that is `demo_report`. Only loopback, and nothing is left behind.
"""

import contextlib
import functools
import logging
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeAlias

from safedial import connect, ports
from safedial.dialer import safe_connect
from safedial.errors import SelfConnectError
from safedial.events import logger
from safedial.selfconnect import is_self_connected, release

Address: TypeAlias = tuple[str, int]
Stage: TypeAlias = Literal["dialing", "forcing", "server tries to bind"]
Watch: TypeAlias = Callable[[Stage, int], object]

_HOST = "127.0.0.1"

# Reaching the server is proven by data: a self-connected socket has only its own words to read.
_GREETING = b"220 the real server\r\n"  # bytes; a reply such as SMTP's (RFC 5321 section 4.2)

# Seconds for what takes a millisecond on an idle machine: a dial, a greeting. Ample for a busy one.
_PATIENCE = 5.0

# Seconds between the server's attempts to bind. A supervisor waits longer (systemd: 0.1); more
# attempts in the same time make the count finer.
_BIND_PAUSE = 0.01

# Seconds between two looks at the loop, which is what a progress bar shows (rich draws 10 a second).
_TICK = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an act may take.

    Attributes:
        dialing: seconds that the fault has to occur by itself. Linux needs 1 to 3 (15,000 to
            50,000 dials); three acts must stay under a minute.
        comeback: seconds that the server tries to bind. Enough for hundreds of attempts.
    """

    dialing: float = 15.0
    comeback: float = 4.0


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to dial in a reconnect loop.

    Attributes:
        name: what it is called in the table.
        dial: returns a connected socket, as `socket.create_connection` does.
        connect: the same for a socket that was made beforehand, to force the fault on it.
        detects: whether the loop checks what it got, and closes a self-connected socket. If not,
            it believes it, and waits on it for words of the server that never come.
    """

    name: str
    dial: Callable[[Address, float], socket.socket]
    connect: Callable[[socket.socket, Address], object] = socket.socket.connect
    detects: bool = False


PLAIN = Contender("create_connection", socket.create_connection)
# What Go's dialTCP does (src/net/tcpsock_posix.go): compare the addresses, close, dial again.
CLOSING = Contender("plain close (Go's way)", socket.create_connection, detects=True)
SAFE = Contender("safedial", safe_connect, functools.partial(connect.connect, steered=False))


@dataclass(frozen=True, slots=True)
class Tally:
    """What was counted in one act.

    Attributes:
        name: the contender's name.
        port: the server's port.
        limits: what bounded the act.
        dials: dials in all, those while the server came back included.
        dials_alone: dials until the first self-connect, or until the server began to come back.
        seconds_alone: how many seconds they took.
        self_connects: self-connected sockets that the dial returned.
        let_go: self-connects that safedial let go of, and reported as refused.
        forced: whether the fault was forced, as it did not occur by itself in time.
        binds: the server's attempts to come back.
        failed_binds: how many of them failed.
        bind_error: what the kernel said to the last that failed.
        back_after: seconds until the server listened again; None where it never did.
        reached: whether the loop then read the server's greeting.
    """

    name: str
    port: int
    limits: Limits
    dials: int
    dials_alone: int
    seconds_alone: float
    self_connects: int
    let_go: int
    forced: bool
    binds: int
    failed_binds: int
    bind_error: str
    back_after: float | None
    reached: bool


def flaws(tally: Tally, *, steered: bool) -> list[str]:
    """Return what is wrong with safedial's *tally*, in words; empty where it is clean.

    Not steered, the kernel may draw the port, and the server's bind may fall into the moment
    before the release, so one failed bind is allowed.
    """
    found: list[str] = []
    if tally.self_connects:
        found.append(f"the loop was given {tally.self_connects} self-connected sockets")
    if tally.failed_binds > (0 if steered else 1):
        found.append(f"{tally.failed_binds} of the server's {tally.binds} binds failed ({tally.bind_error})")
    if tally.back_after is None:
        found.append("the server did not come back")
    elif not tally.reached:
        found.append("the loop did not reach the server")
    return found


def play(
    contender: Contender,
    limits: Limits,
    *,
    dials: int | None = None,
    force: bool = False,
    watch: Watch = lambda stage, dials: None,
) -> Tally:
    """Play one act: the loop reaches a server, the server dies, and tries to come back.

    Args:
        contender: how the loop dials.
        limits: how long that may take.
        dials: the server comes back after that many. None: once the loop has connected to itself,
            which is forced where it does not occur in time.
        force: force a self-connect before the server comes back, whatever happened until then.
        watch: called ten times a second with the stage and the number of dials so far.

    Raises:
        OSError: the loop could not reach its server before anything went wrong.
    """
    listener = listen()
    port = listener.getsockname()[1]
    with _Loop(contender, port) as loop:
        with listener:
            if not _serve(listener, loop):
                raise TimeoutError(f"no connection to a server on {_HOST} port {port} within {_PATIENCE:.0f} s")
        started, before = time.monotonic(), loop.dials
        enough = loop.fault.is_set if dials is None else lambda: loop.dials - before >= dials
        _wait(enough, limits.dialing, lambda: watch("dialing", loop.dials))
        forced = force or not enough() and dials is None
        if forced:
            loop.force.set()
            _wait(loop.fault.is_set, _PATIENCE, lambda: watch("forcing", loop.dials))
            loop.force.clear()
        alone, until = loop.first_fault or (loop.dials, time.monotonic())

        binds, failed, error, back_after, reached = 0, 0, "", None, False
        began = time.monotonic()
        while back_after is None and (not binds or time.monotonic() - began < limits.comeback):
            binds += 1
            try:
                listener = _listen(port)
            except OSError as failure:
                failed, error = failed + 1, failure.strerror or str(failure)
                watch("server tries to bind", loop.dials)
                time.sleep(_BIND_PAUSE)
                continue
            back_after = time.monotonic() - began
            with listener:
                reached = _serve(listener, loop)
    return Tally(
        contender.name,
        port,
        limits,
        loop.dials - before,
        alone - before,
        until - started,
        loop.self_connects,
        loop.let_go,
        forced,
        binds,
        failed,
        error,
        back_after,
        reached,
    )


def steering_works(port: int) -> bool:
    """Tell whether this kernel can be kept off *port*: set the option, and read it back."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        for option in ports.side_options(port)[:1]:
            ports.steer(probe, option)
        return ports.own_range(probe) is not None


def listen() -> socket.socket:
    """Listen on a free port that the kernel likes to draw as a local port."""
    span = ports.read_range()
    for _ in range(100):  # tries; the first does, unless somebody holds the neighbour
        with _listen(0) as probe:
            port = probe.getsockname()[1]
        if span is not None:
            # bind() with port 0 draws one parity, connect() the other, that of the range's low
            # end (Linux, inet_csk_find_open_port and __inet_hash_connect).
            port -= (port - span.low) % 2
        with contextlib.suppress(OSError):
            return _listen(port)
    raise OSError(f"no free port to listen on at {_HOST}")


def _listen(port: int) -> socket.socket:
    # As servers do: create_server() sets SO_REUSEADDR where that is not a danger (POSIX).
    return socket.create_server((_HOST, port))


def _serve(listener: socket.socket, loop: "_Loop") -> bool:
    """Greet the loop, then die. Tell whether the loop read the greeting."""
    listener.settimeout(_PATIENCE)
    loop.reached.clear()
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        return False
    connection.settimeout(_PATIENCE)
    connection.sendall(_GREETING)
    reached = loop.reached.wait(_PATIENCE)
    release(connection)  # a crash: reset, and nothing of the server keeps its port
    return reached


def _wait(done: Callable[[], bool], seconds: float, tick: Callable[[], object]) -> None:
    end = time.monotonic() + seconds
    while not done() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _TICK))
        tick()


def bound_to_itself(port: int) -> socket.socket:
    """Return a socket whose connect() to *port* reaches itself while nobody listens there."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.settimeout(_PATIENCE)
        option = struct.pack("=I", port << 16 | port)
        narrowed = False
        if sys.platform == "linux":  # elsewhere the number has another meaning
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_IP, ports.IP_LOCAL_PORT_RANGE, option)
                narrowed = True
        if not narrowed:
            # Without SO_REUSEADDR, which would spare the server the TIME_WAIT of a plain close.
            sock.bind((_HOST, port))
    except BaseException:
        sock.close()
        raise
    return sock


class _Loop(logging.Handler):
    """A bare reconnect loop in a thread of its own: dial, use the connection, dial on at once.

    It lives as long as its ``with`` block. What safedial lets go of, the loop never sees; it is
    counted from the warnings of the `safedial` logger, which is what this is a handler of.
    """

    def __init__(self, contender: Contender, port: int) -> None:
        super().__init__(logging.WARNING)
        self.dials = self.self_connects = self.let_go = 0
        # The number of dials and the time (monotonic) at the first self-connect.
        self.first_fault: tuple[int, float] | None = None
        self.fault = threading.Event()
        self.force = threading.Event()
        self.reached = threading.Event()
        self._over = threading.Event()
        self._contender = contender
        self._address = (_HOST, port)
        # A daemon, so that an interrupt at the worst moment cannot keep the process.
        self._thread = threading.Thread(target=self._run, name=f"safedial demo: {contender.name}", daemon=True)

    def __enter__(self) -> Self:
        logger.addHandler(self)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        logger.removeHandler(self)
        self.close()

    def emit(self, record: logging.LogRecord) -> None:
        """Count a warning, which safedial gives for a self-connect and for nothing else."""
        self.let_go += 1
        self._faulted()

    def _faulted(self) -> None:
        if self.first_fault is None:
            self.first_fault = self.dials, time.monotonic()
        self.fault.set()

    def _run(self) -> None:
        while not self._over.is_set():
            self.dials += 1
            try:
                with self._force() if self.force.is_set() else self._dial() as sock:
                    self._use(sock)
            except OSError:
                pass  # refused or reset: dial on, without a pause, as the loops of the outage did

    def _dial(self) -> socket.socket:
        return self._contender.dial(self._address, _PATIENCE)

    def _force(self) -> socket.socket:
        sock = bound_to_itself(self._address[1])
        try:
            self._contender.connect(sock, self._address)
        except BaseException as error:
            sock.close()
            if isinstance(error, SelfConnectError):
                self.force.clear()
                self.let_go += 1
                self._faulted()
            raise
        self.force.clear()
        return sock

    def _use(self, sock: socket.socket) -> None:
        if not is_self_connected(sock):
            if sock.recv(len(_GREETING), socket.MSG_WAITALL) == _GREETING:
                self.reached.set()
            sock.recv(1)  # until the server dies
            return
        self.self_connects += 1
        self._faulted()
        if not self._contender.detects:
            self._over.wait()  # nothing ever fails on this socket, so nothing ends the wait
            release(sock)
