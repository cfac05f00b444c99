"""The guard: the guarded connect put under other people's code.

It reaches every client that dials in Python, blocking or not, and none that dials in C: for those the
port is held (`safedial.hold`).
"""

import functools
import inspect
import socket
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeVar, cast

from safedial._address import SockAddr, same_endpoint
from safedial._clients import patch
from safedial._clients.awaitables import Step, dials_later, made_later
from safedial._clients.patch import Below
from safedial._tcp import connect, steering
from safedial._tcp.selfconnect import peer_of, reached_itself
from safedial.errors import SelfConnectError
from safedial.events import logger

F = TypeVar("F", bound=Callable[..., Any])


class _Entry:
    """A guard that was entered, until it is left. Left where it may be: a generator's end has the
    context of whoever ends it.
    """

    __slots__ = ("guard", "open")

    def __init__(self, guard: "Guard") -> None:
        self.guard = guard
        self.open = True


# The guards that this context is inside of.
_inside: ContextVar[tuple[_Entry, ...]] = ContextVar("safedial.guard", default=())


class _Layer:
    """Between a program and its connects: guards those whose context wants it, or all."""

    def __init__(self) -> None:
        self.everywhere = False
        self._users = 0
        self.lock = patch.lock_held_across_forks()

    def begin(self) -> None:
        with self.lock:
            self._users += 1
            if self._users == 1:
                patch.put(self)
            else:
                patch.renew()

    def end(self) -> None:
        with self.lock:
            self._users -= 1
            if not self._users:
                patch.remove(self)

    def wanted(self) -> bool:
        if self.everywhere:
            return True
        entries = _inside.get()
        return bool(entries) and any(entry.open for entry in entries)

    def connect(self, sock: socket.socket, address: SockAddr, below: Below) -> None:
        try:
            if _has_port(sock):
                # Its caller bound it, or asks again how a non-blocking connect went: it is checked alone.
                _ask(below, sock, address)
                if reached_itself(sock, address[1]):
                    connect.refuse(sock, address)
                return
            sides = steering.side_options(address[1])
            own = steering.own_range(sock)
            if own is not None and steering.option_value(own) not in sides:
                sides = steering.UNSTEERED  # its caller narrowed the range
            connect.guarded(functools.partial(_ask, below), sock, address, sides)
        except SelfConnectError as error:
            logger.warning("%s", error.strerror)
            raise


_layer = _Layer()


def _has_port(sock: socket.socket) -> bool:
    try:
        return bool(sock.getsockname()[1])
    except OSError:
        return False  # Windows, of a socket that was never bound


def _ask(below: Below, sock: socket.socket, address: SockAddr) -> bool:
    try:
        below(sock, address)
    except BlockingIOError:
        # The local port is drawn already, so it is known now whom the socket will meet.
        if _will_reach_itself(sock, address):
            connect.refuse(sock, address)
        raise
    return True


def _will_reach_itself(sock: socket.socket, address: SockAddr) -> bool:
    local = sock.getsockname()
    if local[1] != address[1]:
        return False
    try:
        peer = peer_of(sock)
    except OSError:
        peer = local if address[0] in _WILDCARDS else address
    try:
        return same_endpoint(local, peer)
    except (OSError, TypeError):
        return False  # a name, which only a system that answers later leaves us with


# A connect to one goes to this host, from the same address.
_WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104  # nothing listens on them


class Guard:
    """What `guard` returns: a context manager and decorator, which may be entered again and shared."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def __enter__(self) -> None:
        entry = _Entry(self)
        _layer.begin()
        self._entries.append(entry)
        _inside.set((*(each for each in _inside.get() if each.open), entry))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entries = _inside.get()
        own = [entry for entry in entries if entry.guard is self and entry.open]
        entry = own[-1] if own else self._entries[-1]  # the latter where it was entered in another context
        self._entries.remove(entry)
        entry.open = False
        _inside.set(tuple(each for each in entries if each.open))
        _layer.end()

    def __call__(self, function: F) -> F:
        """Guard each call of *function*, which may be a coroutine function."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"guard() can't decorate {function!r}: a generator runs in its caller's context")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def guarded_async(*args: Any, **kwds: Any) -> Any:
                with Guard():
                    return await function(*args, **kwds)

            return cast("F", guarded_async)

        @functools.wraps(function)
        def guarded(*args: Any, **kwds: Any) -> Any:
            with Guard():
                returned: Any = function(*args, **kwds)
            return made_later(returned, functools.partial(_guarded, returned)) if dials_later(returned) else returned

        return cast("F", guarded)


async def _guarded(returned: Any, step: Step) -> Any:
    with Guard():
        return await step(returned)


def guard() -> Guard:
    """Guard every TCP connect that Python code makes inside, in this thread or task only.

    A context manager, and a decorator for functions and coroutine functions. Inside, a connect that
    reaches itself raises `SelfConnectError`, a `ConnectionRefusedError`, from ``socket.connect``, so
    that each client does what it does when nobody listens; its socket is closed, and the port free.
    Exhausted ports raise `PortsExhaustedError`. Nothing is dialed again: that is the client's, or
    `wrap`'s.

    It works for blocking sockets, with timeouts, and non-blocking ones (selectors, asyncio, trio), behind
    TLS and proxies. Sockets with a source port are checked too. Datagram and AF_UNIX sockets pass
    through, and whatever dials in C (libpq, grpc, uvloop): see `hold`. A thread that a client starts
    for itself is outside, unless it copies the context: see `install`. A task that is started inside is
    guarded until the block ends. Where gevent is, patch first, and enter the guard in each greenlet.

    Example::

        with guard():
            client = redis.Redis(host, port)
            client.ping()
    """
    return Guard()


def install() -> None:
    """Guard the connects of the whole process, in all its threads, from now on. Once is enough."""
    with _layer.lock:
        if _layer.everywhere:
            patch.renew()
        else:
            _layer.everywhere = True
            _layer.begin()


def uninstall() -> None:
    """Take `install` back. Guards that are entered go on."""
    with _layer.lock:
        if _layer.everywhere:
            _layer.everywhere = False
            _layer.end()
