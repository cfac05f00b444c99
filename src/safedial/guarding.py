"""The guard: the guarded connect put under other people's code.

It reaches every client that dials in Python, blocking or not, and none that dials in C: for those the
port is held (`safedial.hold`).
"""

import functools
import inspect
import socket
import threading
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeVar, cast

from safedial import connect, patching, ports
from safedial.addresses import SockAddr, same_endpoint
from safedial.errors import SelfConnectError
from safedial.events import logger
from safedial.patching import Below
from safedial.selfconnect import reached_itself

F = TypeVar("F", bound=Callable[..., Any])

# How many guards this context is inside of.
_depth: ContextVar[int] = ContextVar("safedial.guard", default=0)


class _Layer:
    """Between a program and its connects: guards those whose context wants it, or all."""

    def __init__(self) -> None:
        self.everywhere = False
        self._users = 0
        self._lock = threading.Lock()

    def begin(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                patching.put(self)

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                patching.remove(self)

    def wanted(self) -> bool:
        return self.everywhere or _depth.get() > 0

    def connect(self, sock: socket.socket, address: SockAddr, below: Below) -> None:
        try:
            if _has_port(sock):
                # Its caller bound it, or asks again how a non-blocking connect went: it is checked alone.
                _ask(below, sock, address)
                if reached_itself(sock, address[1]):
                    connect.refuse(sock, address)
                return
            # Whoever narrowed the range himself is not steered; a Dialer of ours is one.
            sides = ports.UNSTEERED if ports.own_range(sock) else ports.side_options(address[1])
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
        peer = sock.getpeername()
    except OSError:
        peer = local if address[0] in _WILDCARDS else address
    try:
        return same_endpoint(local, peer)
    except OSError:
        return False  # a name, which only a system that answers later leaves us with


# A connect to one goes to this host, from the same address.
_WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104  # nothing listens on them


class Guard:
    """What `guard` returns: a context manager and decorator, which may be entered again and shared."""

    def __enter__(self) -> None:
        _layer.begin()
        _depth.set(_depth.get() + 1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _depth.set(_depth.get() - 1)
        _layer.end()

    def __call__(self, function: F) -> F:
        """Guard each call of *function*, which may be a coroutine function."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"guard() can't decorate {function!r}: a generator runs in its caller's context")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def guarded_async(*args: Any, **kwds: Any) -> Any:
                with self:
                    return await function(*args, **kwds)

            return cast("F", guarded_async)

        @functools.wraps(function)
        def guarded(*args: Any, **kwds: Any) -> Any:
            with self:
                return function(*args, **kwds)

        return cast("F", guarded)


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
    for itself is outside, unless it copies the context: see `install`. Where gevent is, patch first.

    Example::

        with guard():
            client = redis.Redis(host, port)
            client.ping()
    """
    return Guard()


def install() -> None:
    """Guard the connects of the whole process, in all its threads, from now on. Once is enough."""
    if not _layer.everywhere:
        _layer.everywhere = True
        _layer.begin()


def uninstall() -> None:
    """Take `install` back. Guards that are entered go on."""
    if _layer.everywhere:
        _layer.everywhere = False
        _layer.end()
