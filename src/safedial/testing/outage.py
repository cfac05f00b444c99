"""A real TCP server on a port that stays its own, and that goes away and comes back as a test says."""

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from safedial._address import SockAddr, shown
from safedial._address import seconds as check_seconds
from safedial._tcp.selfconnect import peer_of
from safedial.testing.connects import Between, Real, Sockets, between
from safedial.testing.faults import check_count, check_target
from safedial.testing.holders import holders
from safedial.testing.ports import check_numeric, dead_port
from safedial.testing.servers import Address, Handler, ProcessServer, Server, ThreadServer, echo, fill

State = Literal["down", "up", "frozen"]

# Seconds between two attempts to bind.
_BIND_PAUSE = 0.01
# A server that has had thousands of connections leaves as many in TIME_WAIT.
_MOST_NOTES = 5


@dataclass(frozen=True, slots=True)
class Start:
    """How a server came up.

    Attributes:
        seconds: how long it took until it listened.
        binds: its attempts to bind; 1 where the port was free.
        holders: who held the port when the first attempt failed, in words; empty where none did,
            and where nobody can be named (elsewhere than on Linux).
    """

    seconds: float
    binds: int
    holders: tuple[str, ...] = ()


class Outage:
    """A TCP server for tests of reconnecting clients. A context manager, up from its begin on.

    Args:
        server: what serves. A function is called with each connected socket, in a thread of its
            own; a list of words is a command that listens on ``{host}`` and ``{port}``, such as
            ``["redis-server", "--bind", "{host}", "--port", "{port}"]``. Default: an echo.
        host: the numeric address to listen on. Default: 127.0.0.1.
        port: the port. Default: a free one that is at risk, `dead_port`.
        within: seconds that a start may take, binding and, for a command, answering. Default: 10.

    Attributes:
        host: the address.
        port: the port, the same after each start.
        state: ``down``, ``up`` or ``frozen``.
        started: how it came up the last time, a `Start`.

    Raises:
        TypeError, ValueError: an argument is of no use; the message names it.
        OSError: the server did not come up; the message says who holds the port, or what the
            command said.
    """

    def __init__(
        self,
        server: Handler | Sequence[str] = echo,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        within: float = 10.0,
    ) -> None:
        if not callable(server) and not _is_command(server):
            raise TypeError(f"server must be a function or a list of words, not {shown(server)}")
        check_numeric(host)
        if port is not None:
            check_target(port)
        self._within = check_seconds("within", within)
        self.host = host
        self.port: int = dead_port(host) if port is None else port
        self.state: State = "down"
        self.started: Start | None = None
        self._what = server
        self._server: Server | None = None
        self._fillers: list[socket.socket] = []
        # A dial that a client makes in another thread may end a refusal.
        self._lock = threading.RLock()
        self._refusing = contextlib.ExitStack()
        # The refusal that may yet end by itself. One that was ended may have a dial under way, or its timer.
        self._refusal: object = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def address(self) -> Address:
        """Host and port, as clients take them."""
        return self.host, self.port

    def start(self) -> Start:
        """Come up on the same port, or go on after `freeze`; return how it came up the last time."""
        self._refusing.close()  # before the lock, which its timer may wait for
        with self._lock:
            self._refusal = None
            if self.state == "frozen":
                self._thaw()
            if self._server is not None and not self._server.alive:
                self._server.kill()
                self._server = None
            if self._server is None:
                self._server, self.started = self._bind()
            self.state = "up"
            assert self.started is not None
            return self.started

    def stop(self) -> None:
        """End as a server does that is told to: connections are closed, dials refused."""
        self._end("stop")

    def kill(self) -> None:
        """End as in a crash: connections are reset, dials refused. A command's children die too."""
        self._end("kill")

    def freeze(self) -> None:
        """Accept nothing more, with a backlog that is full: dials get no answer. A command is stopped
        by SIGSTOP, so that its connections get none either; a function's connections live on.
        """
        with self._lock:
            if self._server is None or not self._server.alive:
                raise RuntimeError("the server is down: only one that is up can freeze")
            if self.state == "up":
                self._server.freeze()
                try:
                    self._fillers = fill(self.address)
                except BaseException:
                    self._server.thaw()
                    raise
                self.state = "frozen"

    def refuse_for(self, *, dials: int | None = None, seconds: float | None = None) -> None:
        """Be down for a while: stop, and come up again before the dial after *dials*, or after *seconds*.

        Dials are the connects of this process's Python code; those of C libraries can't be
        counted. Exactly one of the two is given.
        """
        if (dials is None) == (seconds is None):
            raise TypeError("refuse_for() takes either dials or seconds")
        if dials is not None:
            check_count("dials", dials)
        delay = None if seconds is None else check_seconds("seconds", seconds)
        self.stop()
        with self._lock:
            refusal = self._refusal = object()
            if dials is not None:
                self._refusing.enter_context(between(self._count(dials, refusal)))
            else:
                timer = threading.Timer(delay or 0.0, self._come_back, [refusal])
                timer.start()
                self._refusing.callback(_end, timer)

    def _come_back(self, refusal: object) -> None:
        with self._lock:
            if self._refusal is refusal:
                self.start()

    def _end(self, how: Literal["stop", "kill"]) -> None:
        self._refusing.close()
        with self._lock:
            self._drop_fillers()
            server, self._server, self.state, self._refusal = self._server, None, "down", None
            if server is not None:
                getattr(server, how)()  # whoever starts it again waits until the port is free

    def _thaw(self) -> None:
        assert self._server is not None
        self._drop_fillers()
        self._server.thaw()

    def _drop_fillers(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._fillers = []

    def _bind(self) -> tuple[Server, Start]:
        began, binds = time.monotonic(), 0
        held_by: tuple[str, ...] = ()
        while True:
            binds += 1
            try:
                server = self._serve()
            except OSError as error:
                late = time.monotonic() - began > self._within
                held_by = held_by or tuple(holders(self.port))  # which takes its time
                if error.errno != errno.EADDRINUSE or late:
                    for holder in held_by[:_MOST_NOTES]:
                        error.add_note(f"safedial: port {self.port} is held: {holder}")
                    raise
                time.sleep(_BIND_PAUSE)
            else:
                return server, Start(time.monotonic() - began, binds, held_by)

    def _serve(self) -> Server:
        if callable(self._what):
            return ThreadServer(self.address, self._what)
        return ProcessServer(self.address, self._what, self._within)

    def _count(self, dials: int, refusal: object) -> Between:
        left = dials
        # Non-blocking dials ask one socket more than once, where another fault may have made the connect.
        begun = Sockets()

        def connect(sock: socket.socket, address: SockAddr, _real: Real) -> bool:
            nonlocal left
            if address[1] != self.port or _connected(sock):
                return False
            with self._lock:
                if sock not in begun and self._refusal is refusal:
                    begun.add(sock)
                    if not left:
                        self.start()
                    left -= 1
            return False

        return connect


def _connected(sock: socket.socket) -> bool:
    try:
        peer_of(sock)
    except OSError:
        return False
    return True


def _is_command(words: Sequence[str]) -> bool:
    return (
        isinstance(words, Sequence)
        and not isinstance(words, str)
        and bool(words)
        and all(isinstance(word, str) for word in words)
    )


def _end(timer: threading.Timer) -> None:
    timer.cancel()
    if timer is not threading.current_thread():
        timer.join()
