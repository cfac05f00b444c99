"""The guard: the guarded connect under every client that dials in Python, blocking or not."""

import contextlib
import functools
import inspect
import socket
import time
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from safedial._address import SockAddr, same_endpoint
from safedial._clients import patch
from safedial._clients.awaitables import Step, made_later
from safedial._clients.patch import Below
from safedial._retry.transient import error_type
from safedial._tcp import connect, exhaustion, steering
from safedial._tcp.selfconnect import peer_of
from safedial.errors import SelfConnectError
from safedial.events import DialEvent, EventKind, OnEvent, check_hook, logger, tell

F = TypeVar("F", bound=Callable[..., Any])


class _Entry:
    """One entry of a guard. It may end in another context: a generator is closed in its caller's context."""

    open = True
    dials = 0  # the TCP connects that the guard saw in it

    def __init__(self, on_event: OnEvent | None = None) -> None:
        self.on_event = on_event


# The guards that this context has entered.
_inside: ContextVar[tuple[_Entry, ...]] = ContextVar("safedial.guard", default=())
_everywhere: _Entry | None = None  # the entry of `install`


class _Layer:
    """The layer that guards connects: those of the contexts that entered a guard, or all."""

    def wanted(self) -> bool:
        if _everywhere is not None:
            return True
        for entry in _inside.get():  # noqa: SIM110  # any() makes a generator, which costs as much as the rest
            if entry.open:
                return True
        return False

    def connect(self, sock: socket.socket, address: SockAddr, below: Below) -> None:
        for entry in _inside.get():
            entry.dials += 1
        if not _hooks or _telling.get():
            self._connect(sock, address, below)
            return
        began = time.monotonic()
        try:
            self._connect(sock, address, below)
        except BlockingIOError:
            raise  # the outcome of a non-blocking connect is not known yet
        except OSError as error:
            _tell("self_connect" if isinstance(error, SelfConnectError) else "failed", address, began, error)
            raise
        _tell("connected", address, began, None)

    def _connect(self, sock: socket.socket, address: SockAddr, below: Below) -> None:
        sides = steering.side_options(address[1])
        if sides != steering.UNSTEERED and (own := steering.own_option(sock)) and own not in sides:
            sides = steering.UNSTEERED  # the caller narrowed the range
        try:
            try:
                connect.connect(sock, address, sides, below)
            except BlockingIOError:
                # The kernel has drawn the local port already, so the outcome is known.
                if _will_reach_itself(sock, address):
                    connect.raise_self_connect(sock, address)
                raise
        except SelfConnectError as error:
            logger.warning("%s", error.strerror)
            raise
        except OSError as error:
            if exhaustion.may_be_exhausted(error, sides) and not _has_port(sock):  # the caller bound no port
                raise exhaustion.explained(sock, address, sides, error)  # noqa: B904  # has it as its cause, or is it
            raise


_layer = _Layer()
_hooks = 0  # how many entries have a hook
# Whether a hook runs in this context. It may dial itself, which no hook is told of.
_telling: ContextVar[bool] = ContextVar("safedial.guard.telling", default=False)


def _tell(kind: EventKind, address: SockAddr, began: float, error: OSError | None) -> None:
    """Tell the hooks of this context, and `install`'s, about an attempt."""
    seconds = time.monotonic() - began
    named = None if error is None else error_type(error)
    event = DialEvent(kind, address[0], address[1], address, 1, seconds, error, None, seconds, named)
    running = _telling.set(True)
    try:
        for entry in (*_inside.get(), _everywhere):
            if entry is not None and entry.open and entry.on_event is not None:
                tell(entry.on_event, event)
    finally:
        _telling.reset(running)


def _count_hook(entry: _Entry, change: int) -> None:
    global _hooks
    with patch.lock:
        _hooks += change * (entry.on_event is not None)


def _has_port(sock: socket.socket) -> bool:
    try:
        return bool(sock.getsockname()[1])
    except OSError:
        return False  # Windows, if the socket was never bound


def _will_reach_itself(sock: socket.socket, address: SockAddr) -> bool:
    local = sock.getsockname()
    if local[1] != address[1]:
        return False
    # A connect to a wildcard address goes to this host, from the same address.
    peer = local if address[0] in ("", "0.0.0.0", "::") else address  # noqa: S104  # nothing listens on them
    with contextlib.suppress(OSError):
        peer = peer_of(sock)
    with contextlib.suppress(OSError, TypeError):  # the address is a host name, and the socket has no peer yet
        return same_endpoint(local, peer)
    return False


class Guard:
    """The result of `guard`: a context manager and decorator. It can be entered again, and shared."""

    def __init__(self, on_event: OnEvent | None = None) -> None:
        self._on_event = on_event
        self._entries: list[_Entry] = []

    def __enter__(self) -> _Entry:
        patch.put(_layer)
        entry = _Entry(self._on_event)
        _count_hook(entry, 1)
        self._entries.append(entry)
        _inside.set((*(each for each in _inside.get() if each.open), entry))
        return entry

    def __exit__(self, *raised: object) -> None:
        own = [entry for entry in _inside.get() if entry in self._entries]
        entry = own[-1] if own else self._entries[-1]  # entered in another context
        self._entries.remove(entry)
        entry.open = False
        _count_hook(entry, -1)
        _inside.set(tuple(each for each in _inside.get() if each.open))
        patch.remove(_layer)

    def __call__(self, function: F) -> F:
        """Guard each call of *function*, which may be a coroutine function."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"guard() can't decorate a generator function: {function!r} runs in its caller's context")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def guarded_async(*args: Any, **kwds: Any) -> Any:
                with Guard(self._on_event):
                    return await function(*args, **kwds)

            return cast("F", guarded_async)

        @functools.wraps(function)
        def guarded(*args: Any, **kwds: Any) -> Any:
            with Guard(self._on_event):
                returned: Any = function(*args, **kwds)
            return made_later(returned, functools.partial(self._guarded, returned))

        return cast("F", guarded)

    async def _guarded(self, returned: Any, step: Step) -> Any:
        with Guard(self._on_event):
            return await step(returned)


def guard(*, on_event: OnEvent | None = None) -> Guard:
    """Guard every TCP connect that Python code makes inside, in this thread or task only.

    A context manager, and a decorator for functions and coroutine functions. Inside, a connect that reaches itself
    raises `SelfConnectError`, a `ConnectionRefusedError`, from ``socket.connect``, so each client behaves as if nobody
    listens. The socket is closed and the port is free. Exhausted ports raise `PortsExhaustedError`. Nothing is dialed
    again: that is up to the client, or `wrap`.

    It works for blocking and non-blocking sockets (selectors, asyncio, trio), behind TLS and proxies. Sockets with a
    source port are checked too. Libraries that dial in C (libpq, grpc, uvloop) are not reached: see `hold`. A thread
    that a client starts for itself is outside, unless it copies the context: see `install`. A task that is started
    inside is guarded until the block ends. With gevent, patch first, and enter the guard in each greenlet.

    Args:
        on_event: called with a `DialEvent` after each connect: ``connected``, ``failed`` or ``self_connect``. Of a
            non-blocking connect it gets what is known at once: nothing while the handshake goes on. Default: None.

    Example::

        with guard():
            client = redis.Redis(host, port)
            client.ping()
    """
    check_hook(on_event)
    return Guard(on_event)


@contextlib.contextmanager
def inside(on_event: OnEvent | None = None) -> Generator[_Entry]:
    """Guard as `guard` does, for our own code: without the warnings about a user's guard. Yield the entry."""
    with Guard(on_event) as entry:
        yield entry


def guard_all(on_event: OnEvent | None) -> None:
    """Guard the connects of all threads until `unguard_all`."""
    global _everywhere
    with patch.lock:
        if _everywhere is None:
            patch.put(_layer)
        else:
            _count_hook(_everywhere, -1)
        _everywhere = _Entry(on_event)
        _count_hook(_everywhere, 1)
        patch.renew()


def unguard_all() -> None:
    """Undo `guard_all`. Guards that are entered stay in force."""
    global _everywhere
    with patch.lock:
        if _everywhere is not None:
            _count_hook(_everywhere, -1)
            _everywhere = None
            patch.remove(_layer)
