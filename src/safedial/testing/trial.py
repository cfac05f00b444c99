"""Running a client factory under a fault: in a thread, with a time limit, its sockets watched."""

import asyncio
import contextlib
import gc
import inspect
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from safedial._address import SockAddr
from safedial._clients.sockets import close
from safedial.testing.connects import Real, Sockets, between
from safedial.testing.scan import Connection, connections

Factory: TypeAlias = Callable[[str, int], Any]

# Seconds for a thread to end whose sockets were shut down.
_GRACE = 2.0


@dataclass
class Trial:
    """What became of one call of a factory.

    Attributes:
        error: what it raised; None where it returned, or did not end.
        hung: whether it did not end in time.
        dialed: whether a connect of its to the port was seen.
        to_itself: whether a socket of its was connected to itself when it ended, or hung.
        leaked: how many of its sockets were open when all that it returned was closed and gone.
    """

    error: BaseException | None = None
    hung: bool = False
    dialed: bool = False
    to_itself: bool = False
    leaked: int = 0

    @property
    def returned(self) -> bool:
        """Whether it returned a connection."""
        return self.error is None and not self.hung


def attempt(factory: Factory, host: str, port: int, within: float) -> Trial:
    """Call ``factory(host, port)``, await it where it must be, and close what it returns."""
    return _Run(factory, host, port, within).trial


class _Run:
    """One call of a factory, in a thread of its own, with every socket that dialed *port* watched."""

    def __init__(self, factory: Factory, host: str, port: int, within: float) -> None:
        self.trial = Trial()
        self._factory, self._host, self._port = factory, host, port
        self._seen = Sockets()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._others: set[int] = set()
        self._others = {each.descriptor for each in self._connections()}
        thread = threading.Thread(target=self._call, name="a client on trial", daemon=True)
        with between(self._watch):
            thread.start()
            thread.join(within)
            if thread.is_alive():
                self.trial.hung = True
                self._look()
                self._wake()
                thread.join(_GRACE)
        gc.collect()
        self.trial.leaked = len(self._left())

    def _watch(self, sock: socket.socket, address: SockAddr, _real: Real) -> bool:
        if address[1] == self._port:  # other threads may dial elsewhere
            self.trial.dialed = True
            self._seen.add(sock)
        return False

    def _call(self) -> None:
        try:
            returned = self._factory(self._host, self._port)
            if inspect.isawaitable(returned):
                asyncio.run(self._await(returned))
                return
            self._look()
            if inspect.isawaitable(closing := close(returned)):
                asyncio.run(_wait_for(closing))
        except BaseException as error:
            self.trial.error = error
            _cut_frames(error)

    async def _await(self, awaitable: Any) -> None:
        self._loop = asyncio.get_running_loop()
        returned = await awaitable
        self._look()
        if inspect.isawaitable(closing := close(returned)):
            await closing
        await asyncio.sleep(0)  # transports close in the loop's next turn

    def _look(self) -> None:
        self.trial.to_itself |= any(each.to_itself for each in self._connections())

    def _wake(self) -> None:
        """Make an end of a client that hangs: its sockets are shut down, its tasks cancelled."""
        for each in self._connections():
            each.shut_down()
        for sock in self._seen.alive():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        if (loop := self._loop) is not None:
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])

    def _left(self) -> set[int]:
        """Return the descriptors of the client's sockets: those that dialed and are open, and those
        that are connected, which TLS or a C library may have taken from the socket that dialed.
        """
        dialed = {sock.fileno() for sock in self._seen.alive()} - {-1}
        return dialed | {each.descriptor for each in self._connections()}

    def _connections(self) -> list[Connection]:
        return [each for each in connections() if each.peer[1] == self._port and each.descriptor not in self._others]


async def _wait_for(awaitable: Any) -> None:
    await awaitable


def _cut_frames(error: BaseException) -> None:
    """Cut the tracebacks of *error* and all it came from, which would keep the client's sockets alive."""
    for each in chain(error):
        with contextlib.suppress(Exception):  # a frozen dataclass
            each.__traceback__ = None


def chain(error: BaseException | None) -> list[BaseException]:
    """Return *error* and what it came from, members of groups included."""
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
