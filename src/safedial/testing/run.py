"""Running a client factory: in a thread, with a time limit, and with its sockets watched."""

import asyncio
import contextlib
import gc
import inspect
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from safedial import _clock
from safedial._clients.sockets import close
from safedial.testing.cancellation import Cancellation, ClientCancelledError, cancellable_waits, silent_in_threads
from safedial.testing.dials import Dials
from safedial.testing.intercept import intercepting
from safedial.testing.logged import logged
from safedial.testing.raised import error_chain, place_of
from safedial.testing.retries import watching_waits
from safedial.testing.scan import Connection, connections

# As in `resilience`: a client's own mistake is raised with its traceback, which begins here.
__tracebackhide__ = True

Factory: TypeAlias = Callable[[str, int], Any]

# Seconds that a thread has to end: after its waits and connections were ended, and once more after an interrupt.
_GRACE = 1.0
# How often it is interrupted. A loop that catches every exception has lines that are in no `try`, and may be there.
_INTERRUPTS = 20


def run_client(factory: Factory, host: str, port: int, within: float) -> "Outcome":
    """Call ``factory(host, port)``, await the result if necessary, and close the connection that it returns."""
    return Outcome(factory, host, port, within)


class Outcome:
    """The outcome of one call of a factory, made in a thread. Every socket that connects to *port* is watched.

    Attributes:
        error: the exception that it raised; None if it returned, or was still running when its time was over.
        raised_at: the line of its own code that the error came from, as ``file:line``; "" if there is none.
        own_mistake: whether the error came before a dial, and from no OSError. It has its traceback.
        hung: whether it was still running then, and waited for something that did not come.
        retrying: whether it was still running then, between its rounds or in a new one.
        dialing: whether one of its sockets was open then.
        still_running: whether it could not be ended.
        clock_stood: whether ``time.monotonic``, which clients go by, stood still meanwhile: freezegun does that.
        last_wait: the seconds of the last wait of a tenacity policy; None if there was none.
        self_connected: whether one of its sockets was connected to itself when it returned, or when its time was over.
        leaked: how many of its sockets were open after the connection that it returned was closed.
    """

    def __init__(self, factory: Factory, host: str, port: int, within: float) -> None:
        self.error: BaseException | None = None
        self.raised_at = ""
        self.hung = self.retrying = self.dialing = self.self_connected = False
        self.own_mistake = self.clock_stood = self.still_running = False
        self.last_wait: float | None = None
        self._port = port
        self._dials = Dials(port, self._dial_begins)
        # When the last dial began, the longest time between two, and whether a policy's wait has begun since.
        self._last_dial = self._longest = 0.0
        self._waits = False
        self._cancellation = Cancellation()
        # Not Thread.join: if it is interrupted, the thread counts as ended before Python 3.13.
        self._ended = threading.Event()
        self._others = {each.descriptor for each in connections() if each.peer[1] == port}
        thread = threading.Thread(target=self._run, args=(factory, host), name="client under test", daemon=True)
        with (
            logged() as log,
            intercepting(self._dials.intercept),
            watching_waits(self._wait_begins),
            cancellable_waits(),
            silent_in_threads(),
        ):
            began = time.monotonic()
            try:
                thread.start()
                if not self._ended.wait(within):
                    self.clock_stood = time.monotonic() == began
                    self.dialing = self._open() > 0
                    self.retrying = self._is_retrying()
                    self.hung = not self.retrying
            finally:  # Ctrl-C or a time limit of the test's may interrupt it
                if not self._ended.is_set():
                    self._end()
                    self.still_running = not self._ended.is_set()
                    self.error = None  # of its end
                if not self.still_running:
                    thread.join()
        self.leaked = self._open()
        if self.leaked:
            log.forget_variables()
            gc.collect()  # frees cycles; in a large program it takes longer than most clients
            self.leaked = self._open()

    @property
    def returned(self) -> bool:
        """Whether it returned a connection."""
        return self.error is None and not (self.hung or self.retrying)

    @property
    def dials(self) -> int:
        """How many sockets Python code connected to the port, or tried to."""
        return self._dials.count

    def _dial_begins(self, sock: socket.socket) -> None:
        if self._cancellation.cancelled:
            sock.close()  # not all clients close one whose connect raises this
            self._cancellation.raise_here()
        now = _clock.real()
        if self.dials:
            self._longest = max(self._longest, now - self._last_dial)
        self._last_dial, self._waits = now, False

    def _wait_begins(self, seconds: float) -> None:
        if self._cancellation.is_here():
            self.last_wait, self._waits = seconds, True

    def _is_retrying(self) -> bool:
        """Return whether the client is between two rounds, or in one that is not much longer than those before."""
        if self._waits:
            return True
        return self.dials > 1 and not (self.dialing and _clock.real() - self._last_dial > 2 * self._longest)

    def _run(self, factory: Factory, host: str) -> None:
        try:
            with contextlib.suppress(ClientCancelledError), self._cancellation.cancellable():
                self._call(factory, host)
        finally:
            self._ended.set()

    def _call(self, factory: Factory, host: str) -> None:
        try:
            returned = factory(host, self._port)
            if inspect.isawaitable(returned):
                asyncio.run(self._await(returned))
            elif inspect.isawaitable(closing := self._close(returned)):
                _run_async(closing)
        except BaseException as error:
            self.error, self.raised_at = error, place_of(error)
            chain = error_chain(error)
            self.own_mistake = not self.dials and not any(issubclass(type(each), OSError) for each in chain)
            for each in () if self.own_mistake else chain:
                BaseException.with_traceback(each, None)  # its frames would keep the client's sockets alive

    async def _await(self, awaitable: Any) -> None:
        if inspect.isawaitable(closing := self._close(await awaitable)):
            await closing
        await asyncio.sleep(0)  # transports close in the loop's next turn

    def _close(self, connection: Any) -> Any:
        """Look for self-connects, and close *connection*. Return the awaitable that closes it, or None."""
        self.self_connected |= any(each.self_connected for each in self._connections())
        return close(connection)

    def _end(self) -> None:
        """End a client whose time is over: its waits, its tasks and its connections, and what is left of it."""
        self._cancellation.cancel()
        for connection in self._connections():
            self.self_connected |= connection.self_connected
            connection.shut_down()
        for sock in self._dials.sockets():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._cancellation.cancel_tasks()
        self._ended.wait(_GRACE)
        for _ in range(_INTERRUPTS):
            if not self._ended.is_set():
                self._cancellation.interrupt()
                self._ended.wait(_GRACE / _INTERRUPTS)
        self._cancellation.join_others(_GRACE)

    def _open(self) -> int:
        """Return how many sockets are open. TLS or a C library may have taken one from the socket that dialed."""
        numbers = {sock.fileno() for sock in self._dials.sockets()} | {each.descriptor for each in self._connections()}
        return len(numbers - {-1})

    def _connections(self) -> list[Connection]:
        return [each for each in connections() if each.peer[1] == self._port and each.descriptor not in self._others]


def _run_async(closing: Awaitable[Any]) -> None:
    """Await what closes the connection of a sync factory, in a loop of the library that it belongs to."""

    async def main() -> None:
        await closing

    frame = getattr(closing, "cr_frame", None)
    if frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "trio":
        sys.modules["trio"].run(main)
    else:
        asyncio.run(main())
