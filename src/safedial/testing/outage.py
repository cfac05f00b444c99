"""A real TCP server on a stable port that goes away and comes back when a test says so."""

import contextlib
import errno
import functools
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self
from weakref import WeakSet

from safedial import _clock
from safedial._address import seconds as check_seconds
from safedial._address import shown
from safedial.testing.fault import CountingFault, Unused
from safedial.testing.holders import holders
from safedial.testing.ports import check_numeric, check_port, check_whole, dead_port
from safedial.testing.refusing import after_dials, after_seconds
from safedial.testing.relay import RESETS, relayed
from safedial.testing.retries import are_fast
from safedial.testing.servers import Address, ProcessServer, Server, ThreadServer, check_not_async, echo, fill

# As in `resilience`.
__tracebackhide__ = __unittest = True
# Seconds between two attempts to bind.
_BIND_PAUSE = 0.01
# Notes on an error: a server that has had thousands of connections leaves as many in TIME_WAIT.
_MOST_NOTES = 5


@dataclass(frozen=True, slots=True)
class Start:
    """How a server came up.

    Attributes:
        seconds: the time until it listened.
        binds: how often it tried to bind; 1 if the port was free.
        holders: the sockets that held the port when the first bind failed, described in words; empty if the port was
            free, and on other systems than Linux.
    """

    seconds: float
    binds: int
    holders: tuple[str, ...] = ()


class Outage:
    """A TCP server for tests of reconnecting clients. A context manager: it starts the server, and kills it at the end.

    A command and its child processes end with this process, also if that is killed. What a function raises, such as an
    assertion that fails, is raised again at the end of the context manager, the first of several. Only an OSError is
    not: the client has gone. In a forked child, the server is the parent's: it is ``down`` there, and nothing ends it.

    Args:
        server: the server. A function is called with each connected socket, in a thread of its own. A list of words is
            a command that listens on ``{host}`` and ``{port}``, such as
            ``["redis-server", "--bind", "{host}", "--port", "{port}"]``. ``{port}`` may be missing if *port* is given.
            Default: an echo.
        host: the numeric address to listen on. Default: 127.0.0.1.
        port: the port. Default: a free one that is at risk, a `dead_port`.
        within: seconds that a start may take: until the port is bound and a command answers. Default: 10.
        latency: seconds that each piece of the server's answers is late, also the end of them; connecting is not. Only
            for a function. With this or *reset_after*, its socket is a Unix one: TCP's options and addresses are not
            there.
        reset_after: the number of bytes of the answers after which a connection is reset. A client that has not read
            the last of many may lose them, as always with a reset. Only for a function.
        unused: what happens at the end if *reset_after* has reset no connection: ``error`` raises AssertionError, which
            says how long the answers were; ``warn`` warns; ``ignore``. Default: ``error``.

    Attributes:
        host: the address.
        port: the port, the same after each start.
        state: ``down``, ``up`` or ``frozen``.
        started: the last `Start`; None before the first.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
        OSError: the server did not come up. The message or a note says who holds the port, or what the command printed.
    """

    def __init__(
        self,
        server: Server = echo,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        within: float = 10.0,
        latency: float | None = None,
        reset_after: int | None = None,
        unused: Unused = "error",
    ) -> None:
        check_not_async(server)
        if not callable(server):
            words: Sequence[object] = () if isinstance(server, str) or not isinstance(server, Sequence) else server
            if not words or not all(isinstance(word, str) for word in words):
                # The words may have a password.
                given = f"a {type(server).__name__}" if words else shown(server)
                raise TypeError(f"server must be a function or a list of words, each a str, not {given}")
            if port is None and not any("{port}" in word for word in server):
                raise ValueError("server has no word with {port}: it can't know where to listen, unless port is given")
        check_numeric(host)
        if port is not None:
            check_port(port)
        self._within = check_seconds("within", within)
        reset = CountingFault(f"reset_after={reset_after}", None, None, unused, RESETS)
        self._handler_or_command = relayed(server, latency, reset_after, reset)
        self.host = host
        self.port: int = dead_port(host) if port is None else port
        self.state: Literal["down", "up", "frozen"] = "down"
        self.started: Start | None = None
        self._server: ThreadServer | ProcessServer | None = None
        self._backlog = contextlib.ExitStack()  # the connections that fill it while the server is frozen
        # Reentrant: a client's attempt, in any thread, may start the server.
        self._lock = threading.RLock()
        self._refusing = contextlib.ExitStack()
        # The current refusal, a fault if it ends with a dial. An older one may still have an attempt under way, or its
        # timer.
        self._refusal: object = None
        # What must have hit something when the outage ends.
        self._faults: list[CountingFault] = [] if reset_after is None else [reset]
        # What handlers have raised.
        self._errors: list[BaseException] = []
        self._entered = False
        _outages.add(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on port {self.port}>"  # the command may have a password

    def __enter__(self) -> Self:
        self._entered = True
        try:
            self.start()
        except BaseException:
            self._entered = False
            self._end(kill=True)  # nobody else would, and an interrupt may come at any moment
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._end(kill=True)
        self._entered = False
        errors, self._errors = self._errors, []
        faults, self._faults = self._faults, []
        if kind is not None:  # it says more than an unused fault does, but what a handler raised may be its cause
            for each in errors:
                threading.excepthook(threading.ExceptHookArgs((type(each), each, each.__traceback__, None)))
            return
        if errors:
            errors[0].add_note(f"safedial: raised by the server on port {self.port}")
            raise errors[0]
        for fault in faults:
            fault.check_hit()

    def _failed(self, error: BaseException) -> None:
        if not self._entered:  # nobody else would tell
            raise error
        self._errors.append(error)

    def __del__(self) -> None:
        if not sys.is_finalizing():
            for fault in getattr(self, "_faults", ()):  # an argument may have been wrong
                fault.check_hit(raises=False)

    @property
    def address(self) -> Address:
        """Host and port, as clients take them."""
        return self.host, self.port

    def start(self) -> Start:
        """Come up on the same port, or go on after `freeze`; return how the server last came up."""
        self._refusing.close()  # before the lock is taken, because its timer may wait for the lock
        with self._lock:
            self._forget_refusal("start()")
            return self._come_up()

    def stop(self) -> None:
        """End in order: connections are closed, attempts to connect refused."""
        self._end(kill=False, by="stop()")

    def kill(self) -> None:
        """End as in a crash: connections are reset, attempts refused. A command's child processes die too."""
        self._end(kill=True, by="kill()")

    def freeze(self) -> None:
        """Accept nothing more, with a full backlog: attempts to connect get no answer.

        Open connections get no answer either: a command is suspended with its process group (SIGSTOP), and a function
        in the next method of its socket that reads or writes. Two kinds live on: those of child processes that have
        left the group, such as PostgreSQL's sessions (setsid), and those that a function has wrapped in TLS.

        Raises:
            RuntimeError: the server is down.
        """
        with self._lock:
            if self._server is None or not self._server.alive:
                raise RuntimeError("the server is down: only one that is up can freeze")
            if self.state == "up":
                self._server.freeze()
                try:
                    self._backlog = fill(self.address)
                except BaseException:
                    self._server.thaw()
                    raise
                self.state = "frozen"

    def refuse_for(self, dials: int | None = None, *, seconds: float | None = None, unused: Unused = "error") -> None:
        """Be down for a while: stop, and come up again before the dial after *dials*, or after *seconds*.

        Give exactly one of the two. The start is awaited in that dial, whatever its timeout, and in others that come
        meanwhile: with a command that takes a second to start, an event loop stands still for that second.

        Args:
            dials: how many dials are refused. A dial is a ``connect()`` of this process's Python code, once for each
                socket. Dials of C libraries, such as psycopg's, and of other processes can't be seen: for them the
                server never comes back, so give *seconds*.
            seconds: for how long; more than 0. Not while `fast_retries` is active: it does not sleep a client's waits,
                so that all its dials would come before this time is over.
            unused: for *dials*, what happens when the outage ends, as a context manager, if none was refused: ``error``
                raises AssertionError, which says what was dialed instead; ``warn`` warns; ``ignore``. If it was no
                context manager, ``error`` warns, too, once nobody has the outage any more.

        Raises:
            TypeError, ValueError: an argument is wrong; the message names it.
            RuntimeError: *seconds* were given while `fast_retries` is active.
        """
        if (dials is None) == (seconds is None):
            raise TypeError("refuse_for() takes either dials or seconds")
        if seconds is not None:
            if not check_seconds("seconds", seconds):
                raise ValueError("seconds must be more than 0")
            if are_fast():
                raise RuntimeError("fast_retries is active: waits are not slept; give refuse_for() dials, not seconds")
        else:
            check_whole("dials", dials)
        fault = None if dials is None else CountingFault(f"refuse_for({dials})", self.port, dials, unused)
        self._refusing.close()
        with self._lock:
            self._forget_refusal("another refuse_for()")
            back = functools.partial(self._come_back, refusal := fault or object())
            if fault is not None:  # before the end, so that each dial after it is counted
                self._faults.append(fault)
                self._refusing.enter_context(after_dials(fault, back, self._lock))
            self._go_down(kill=False)
            self._refusal = refusal
            if seconds is not None:
                self._refusing.enter_context(after_seconds(seconds, back))

    def _come_back(self, refusal: object) -> None:
        with self._lock:
            if self._refusal is refusal:
                self._forget_refusal(None)
                try:
                    self._come_up()
                finally:
                    self._refusing.close()  # not before: other dials wait there until the server is up

    def _forget_refusal(self, by: str | None) -> None:
        if by and isinstance(self._refusal, CountingFault):
            self._refusal.end_early(by)
        self._refusal = None

    def _end(self, *, kill: bool, by: str | None = None) -> None:
        self._refusing.close()
        with self._lock:
            self._forget_refusal(by)
            self._go_down(kill=kill)

    # The lock is held until the port is free, or the server is up: another start waits.
    def _go_down(self, *, kill: bool) -> None:
        self._backlog.close()
        self.state = "down"
        if self._server is not None:
            self._server.end(kill=kill)
            self._server = None

    def _come_up(self) -> Start:
        self._backlog.close()
        if self._server is not None and not self._server.alive:
            self._go_down(kill=True)
        try:
            if self._server is None or self.started is None:
                self.started = self._bind()
            elif self.state == "frozen":
                self._server.thaw()
            self.state = "up"
        except BaseException:  # also an interrupt
            self._go_down(kill=True)
            raise
        return self.started

    def _bind(self) -> Start:
        began, binds = _clock.real(), 0
        held_by: tuple[str, ...] = ()
        what, address = self._handler_or_command, self.address
        while True:
            binds += 1
            if callable(what):
                self._server = ThreadServer(address, what, self._failed)
            else:
                self._server = ProcessServer(address, what, self._within)
            try:
                self._server.begin()
                return Start(_clock.real() - began, binds, held_by)
            except OSError as error:
                late = _clock.real() - began > self._within
                held_by = held_by or tuple(holders(self.port))  # after the clock was read, because it takes time
                if error.errno != errno.EADDRINUSE or late:
                    for holder in held_by[:_MOST_NOTES]:
                        error.add_note(f"safedial: port {self.port} is held: {holder}")
                    raise error.with_traceback(None)  # noqa: B904  # it is the same exception
                self._server.end(kill=True)
                time.sleep(_BIND_PAUSE)

    def _leave_to_parent(self) -> None:
        """In a forked child: the server is the parent's, and no dial of this process is counted."""
        self._lock = threading.RLock()  # another thread may have held it
        self._refusing.close()
        self._backlog.close()
        self._refusal, self._faults, self._errors = None, [], []
        if self._server is not None:
            self._server.leave_to_parent()
            _of_parent.append(self._server)
            self._server, self.state = None, "down"


_outages: WeakSet[Outage] = WeakSet()
# Kept: `subprocess.Popen` would warn that its process still runs.
_of_parent: list[ThreadServer | ProcessServer] = []


def _leave_all_to_parent() -> None:
    for outage in tuple(_outages):
        outage._leave_to_parent()  # pyright: ignore[reportPrivateUsage]  # its class is of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)
