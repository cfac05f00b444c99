"""The guard: the guarded connect under every client that dials in Python, blocking or not.

An interrupt may end any function here half-way: a signal handler that raises, the recursion limit. Whatever it leaves
behind, an entry has an effect only while it is open, and while the `with` statement or the `Guard` refers to it.
"""

import encodings.idna  # noqa: F401  # pyright: ignore[reportUnusedImport]  # the first name would load it (`_forks`)
import functools
import socket
import sys
import weakref
from contextvars import ContextVar
from typing import Any, Literal, Self, overload

from safedial._address import SockAddr
from safedial._clients import elsewhere, entering, mistakes, patch
from safedial._clients.decorator import F, decorated
from safedial._clients.elsewhere import Site, Watched
from safedial._clients.guarded_connect import connect_and_tell, connect_safely
from safedial._clients.layers import Below
from safedial._clients.never_entered import warn_never_entered
from safedial._clients.outliving import Made
from safedial.events import OnEvent, check_hook, warn


class Entry(Watched):
    """One entry of a guard, and the context manager for it. It may end in another context than it began.

    A generator, for example, is closed in its caller's context.
    """

    def __init__(self, on_event: OnEvent | None = None, site: Site | None = None) -> None:
        self.on_event, self.site = on_event, site
        self.dials = 0  # the TCP connects that the guard saw
        self.made: Made | None = None

    def __enter__(self) -> Self:
        try:
            patch.put(_layer, self)
            elsewhere.watch(self)
            _inside.set((*_entered_here(), weakref.ref(self)))
            if self.site is not None:
                entering.check_guard(everywhere=_everywhere is not None)
        except BaseException:
            self.open = False
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        self.open = False
        _inside.set(_entered_here())
        elsewhere.unwatch(self)
        patch.remove(_layer, self)


# The entries that this context has made. The references are weak, so an entry is freed if its `with` statement was
# interrupted.
_inside: ContextVar[tuple[weakref.ref[Entry], ...]] = ContextVar("safedial.guard", default=())
_everywhere: Entry | None = None  # the entry of `install`


def _entered_here() -> tuple[weakref.ref[Entry], ...]:
    return tuple([ref for ref in _inside.get() if (entry := ref()) is not None and entry.open])


def _in_force() -> list[Entry]:
    """Return the entries that guard this context, `install`'s included."""
    entries = [entry for ref in _inside.get() if (entry := ref()) is not None and entry.open]
    everywhere = _everywhere  # read once: another thread may call uninstall()
    if everywhere is not None:
        entries.append(everywhere)
    return entries


def hooks_here() -> list[OnEvent]:
    """Return the hooks of the guards that are in force in this context, `install`'s included."""
    return [entry.on_event for entry in _in_force() if entry.on_event is not None]


class _Layer:
    """The layer that guards connects: those of the contexts that entered a guard, or all."""

    def wanted(self) -> bool:
        if _everywhere is not None:
            return True
        for ref in _inside.get():
            if (entry := ref()) is not None and entry.open:
                return True
        return elsewhere.is_watched()

    def connect(self, sock: socket.socket, address: SockAddr, below: Below) -> None:
        entries = _in_force()
        if not entries:
            elsewhere.connect(sock, address, below)
            return
        hooks: list[OnEvent] = []
        for entry in entries:
            entry.dials += 1
            if entry.made is not None:
                entry.made.add(sock, address)
            if entry.on_event is not None:
                hooks.append(entry.on_event)
        if hooks:
            connect_and_tell(sock, address, below, hooks)
        else:
            connect_safely(sock, address, below)


_layer = _Layer()


class Guard:
    """The result of `guard`: a context manager and decorator. It can be entered again, and shared."""

    _used = False

    def __init__(self, on_event: OnEvent | None = None, site: Site | None = None) -> None:
        self._on_event, self._site = on_event, site
        self._entries: dict[Entry, None] = {}

    def __enter__(self) -> None:
        self._used = True
        entry = Entry(self._on_event, self._site)
        if elsewhere.is_untold(self._site):
            entry.made = Made()
        entry.__enter__()
        with patch.lock:  # another thread may leave this guard, and look through the entries
            self._entries[entry] = None

    def __exit__(self, *raised: object) -> None:
        with patch.lock:
            entry = self._popped()
        entry.__exit__()
        if entry.made is not None and not any(raised) and _everywhere is None:
            entry.made.warn(self._site)

    def _popped(self) -> Entry:
        here = [entry for ref in _inside.get() if (entry := ref()) in self._entries]
        entry = here[-1] if here else next(reversed(self._entries), None)  # entered in another context
        if entry is None:
            raise RuntimeError("this guard() is not entered, so it can't be left")
        entry.open = False
        del self._entries[entry]
        return entry

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *raised: object) -> None:
        self.__exit__()

    def __del__(self) -> None:
        if not self._used:
            warn_never_entered(self, "guard()")
        elif self._entries and not sys.is_finalizing():
            warn("a guard() was entered and then dropped, so it guards no more: keep it, or use `with guard():`")

    def __call__(self, function: F) -> F:
        """Guard each call of *function*, which may be a coroutine function."""
        self._used = True
        return decorated(function, functools.partial(Entry, self._on_event, self._site))


@overload
def guard(function: F, /, *, on_event: OnEvent | None = None) -> F: ...
@overload
def guard(*, on_event: OnEvent | None = None) -> Guard: ...
@mistakes.advised(mistakes.of_guard)
def guard(function: Any = None, /, *, on_event: OnEvent | None = None) -> Any:
    """Guard the TCP connects that Python code makes inside, in this thread or task.

    ``with guard():``, ``async with guard():``, and a decorator for functions and coroutine functions, as ``@guard`` or
    ``@guard(on_event=…)``. Inside, a connect that reaches itself raises `SelfConnectError`, a
    `ConnectionRefusedError`, from ``socket.connect``, so each client behaves as if nobody listens. The socket is closed
    and the port is free. Exhausted ports raise `PortsExhaustedError`. Nothing is dialed again: that is up to the
    client, or `wrap`.

    On Linux, SO_REUSEADDR is set on a socket that has no port yet. So a server that sets it too can bind the local port
    that the kernel draws for the connection.

    It works for blocking and non-blocking sockets (selectors, asyncio, trio), behind TLS and proxies. Sockets with a
    source port are checked too. A task that is started inside is guarded until the block ends; so is a thread if
    threads inherit the context (`sys.flags.thread_inherit_context`: from Python 3.14 on, the default on free-threaded
    builds alone).

    A client that is made inside and connects again after the block, as most do, is not guarded then. Outside are other
    tasks and threads, too: the handlers of an application whose startup is guarded, a client's own threads (unless they
    inherit the context). For all of these there is `install`. If a dial of another task or thread may reach itself, or
    if a connection to this host outlives the block, a WARNING says so, once for each line that enters a guard. With
    gevent, enter the guard in each greenlet.

    Not guarded are libraries that dial in C (libpq, grpc, uvloop; see `hold`) and ctypes; ``sendto()`` with
    ``MSG_FASTOPEN``; the methods of ``_socket.socket``, from which `socket.socket` is made; and a ``connect`` that was
    fetched from the class before the guard was entered. On uvloop's event loop a WARNING says so, once.

    The methods ``connect`` and ``connect_ex`` of `socket.socket` are replaced meanwhile, and those of a class that a
    program has put in its place. If something undoes that, the next entry, `install` or `is_guarded` replaces them
    again. It may happen if a mock or another patch was there first: a WARNING says so, once.

    Args:
        function: the function to decorate. Default: None; then the result is a context manager and decorator.
        on_event: called with a `DialEvent` after each connect: ``connected``, ``failed`` or ``self_connect``. Of a
            non-blocking connect it gets what is known at once: nothing while the handshake goes on. Default: None.

    Raises:
        TypeError: *function* is a class, a generator function or no function at all, or *on_event* is wrong. Later, on
            entry: the class in `socket.socket`'s place can't be guarded; in a call: *function* returned a generator.

    Example::

        with guard():
            sock = socket.create_connection((host, port))
    """
    check_hook(on_event)
    caller = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]  # inspect's would be held by a cycle
    made = Guard(on_event, (caller.f_code.co_filename, caller.f_lineno))
    return made if function is None else made(function)


def is_guarded() -> Literal["guard", "install"] | None:
    """Return how the TCP connects of this thread or task are guarded now.

    Returns:
        ``"guard"``: by a `guard` that is entered here, or by `wrap` or an adapter that dials now. ``"install"``: by
        `install` alone. None: not at all; or the class in `socket.socket`'s place can't be guarded.

    Example::

        assert safedial.is_guarded(), "call safedial.install() first"
    """
    try:
        patch.renew()  # so that the answer is true
    except TypeError:
        return None
    if _entered_here():
        return "guard"
    return None if _everywhere is None else "install"


def is_installed() -> bool:
    """Return whether all threads are guarded, by `install`."""
    return _everywhere is not None


def inside(on_event: OnEvent | None = None) -> Entry:
    """Return a context manager that guards as `guard` does, for our own code. It is entered once, and yields itself.

    There is no warning about dials in other threads and tasks.
    """
    return Entry(on_event)


def guard_all(on_event: OnEvent | None) -> None:
    """Guard the connects of all threads until `unguard_all`."""
    global _everywhere
    with patch.lock:
        entry, before = Entry(on_event), _everywhere
        patch.put(_layer, entry)
        _everywhere = entry
        if before is not None:
            patch.remove(_layer, before)


def unguard_all() -> None:
    """Undo `guard_all`. Guards that are entered stay in force."""
    global _everywhere
    with patch.lock:
        before, _everywhere = _everywhere, None
        if before is not None:
            patch.remove(_layer, before)
