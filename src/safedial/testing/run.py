"""Running a client factory: in a thread, with a time limit, and with its sockets watched."""

import asyncio
import contextlib
import gc
import inspect
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeAlias, cast

from safedial import _clock
from safedial._clients.sockets import close
from safedial.testing.cancellation import Cancellation, ClientCancelledError, cancellable_waits
from safedial.testing.dials import Dials
from safedial.testing.intercept import intercepting
from safedial.testing.retries import watching_waits
from safedial.testing.scan import Connection, connections

Factory: TypeAlias = Callable[[str, int], Any]

# Seconds that a thread has to end: after its waits and connections were ended, and once more after an interrupt.
_GRACE = 1.0


def run_client(factory: Factory, host: str, port: int, within: float) -> "Outcome":
    """Call ``factory(host, port)``, await the result if necessary, and close the connection that it returns."""
    return Outcome(factory, host, port, within)


class Outcome:
    """The outcome of one call of a factory, made in a thread. Every socket that connects to *port* is watched.

    Attributes:
        error: the exception that it raised; None if it returned, or was still running when its time was over.
        hung: whether it was still running then, and waited for something that did not come.
        retrying: whether it was still running then, between its rounds or in a new one.
        dialing: whether one of its sockets was open then.
        last_wait: the seconds of the last wait of a tenacity policy; None if there was none.
        self_connected: whether one of its sockets was connected to itself when it returned, or when its time was over.
        leaked: how many of its sockets were open after the connection that it returned was closed.
    """

    def __init__(self, factory: Factory, host: str, port: int, within: float) -> None:
        self.error: BaseException | None = None
        self.hung = self.retrying = self.dialing = self.self_connected = False
        self.last_wait: float | None = None
        self._port = port
        self._dials = Dials(port, self._dial_begins)
        # When the last dial began, the longest time between two, and whether a policy's wait has begun since.
        self._last_dial = self._longest = 0.0
        self._waits = False
        self._cancellation = Cancellation()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._others = {each.descriptor for each in connections() if each.peer[1] == port}
        thread = threading.Thread(target=self._run, args=(factory, host), name="client under test", daemon=True)
        with intercepting(self._dials.intercept), watching_waits(self._wait_begins), cancellable_waits():
            thread.start()
            thread.join(within)
            if thread.is_alive():
                self.dialing = self._open() > 0
                self.retrying = self._is_retrying()
                self.hung = not self.retrying
                self._end(thread)
                self.error = None  # of its end
        self.leaked = self._open()
        if self.leaked:
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
            raise ClientCancelledError
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
        with contextlib.suppress(ClientCancelledError), self._cancellation.cancellable():
            self._call(factory, host)

    def _call(self, factory: Factory, host: str) -> None:
        try:
            returned = factory(host, self._port)
            if inspect.isawaitable(returned):
                asyncio.run(self._await(returned))
            elif inspect.isawaitable(closing := self._close(returned)):
                asyncio.run(self._await(closing))
        except BaseException as error:
            self.error = error
            for each in error_chain(error):
                with contextlib.suppress(Exception):  # a frozen dataclass
                    each.__traceback__ = None  # its frames would keep the client's sockets alive

    async def _await(self, awaitable: Any) -> None:
        self._loop = asyncio.get_running_loop()
        if inspect.isawaitable(closing := self._close(await awaitable)):
            await closing
        await asyncio.sleep(0)  # transports close in the loop's next turn

    def _close(self, connection: Any) -> Any:
        """Look for self-connects, and close *connection*. Return the awaitable that closes it, or None."""
        self.self_connected |= any(each.self_connected for each in self._connections())
        return close(connection)

    def _end(self, thread: threading.Thread) -> None:
        """End a client whose time is over: its waits, its tasks and its connections, and what is left of it."""
        self._cancellation.cancel()
        for connection in self._connections():
            self.self_connected |= connection.self_connected
            connection.shut_down()
        for sock in self._dials.sockets():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        if (loop := self._loop) is not None:
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
        thread.join(_GRACE)
        if thread.is_alive():
            self._cancellation.interrupt()
            thread.join(_GRACE)

    def _open(self) -> int:
        """Return how many sockets are open. TLS or a C library may have taken one from the socket that dialed."""
        numbers = {sock.fileno() for sock in self._dials.sockets()} | {each.descriptor for each in self._connections()}
        return len(numbers - {-1})

    def _connections(self) -> list[Connection]:
        return [each for each in connections() if each.peer[1] == self._port and each.descriptor not in self._others]


# Not the chain that a policy looks at (`safedial._retry.transient`): that one stops at the kernel's own error, and at
# `raise … from None`. A test must find every exception, because each one's traceback keeps sockets alive.
def error_chain(error: BaseException | None) -> list[BaseException]:
    """Return *error* with its causes, contexts and members of groups, suppressed contexts included."""
    found: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or any(each is known for known in found):
            continue
        found.append(each)
        # requests and urllib3 have the reason among the arguments.
        reasons = [reason for reason in each.args if isinstance(reason, BaseException)]
        group = cast("BaseExceptionGroup[BaseException]", each)
        members = group.exceptions if isinstance(each, BaseExceptionGroup) else ()
        todo += [each.__cause__, each.__context__, *members, *reasons]
    return found
