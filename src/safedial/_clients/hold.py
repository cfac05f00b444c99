"""Holding a port: the guard for code that no hook reaches."""

import contextlib
import logging
import socket
from collections import deque
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from safedial._address import Address, AddrInfo, Host, Port, SockAddr, checked, describe, family_of
from safedial._clients import mistakes
from safedial._clients.held import Held
from safedial._clients.never_entered import warn_never_entered
from safedial._steps import in_event_loop, in_thread
from safedial.events import log


class Hold:
    """The result of `hold`, for ``with`` and ``async with``. It can be entered again, and by several threads."""

    _tried = False

    def __init__(self, host: Host, port: Port, infos: Iterable[AddrInfo]) -> None:
        self._address = host, port
        self._infos = infos  # empty for a name, which is resolved at each entry
        # Any exit may end any entry, because all hold one port. Those that hold nothing are at the end and go first.
        self._entries: deque[Held] = deque()

    def __enter__(self) -> None:
        self._tried = True
        self._enter(self._infos or _look_up_here(*self._address))

    def __exit__(self, *raised: object) -> None:
        self._entries.pop().close()

    async def __aenter__(self) -> None:
        self._tried = True
        self._enter(self._infos or await in_thread(_look_up, *self._address))

    async def __aexit__(self, *raised: object) -> None:
        self.__exit__()

    def __del__(self) -> None:
        if not self._tried:
            warn_never_entered(self, "hold(...)")

    if not TYPE_CHECKING:  # a type checker refuses the call

        def __call__(self, *_: Any, **__: Any) -> NoReturn:
            self._tried = True
            raise TypeError(
                "hold() does not decorate functions: write `with safedial.hold(...):` inside the function, or "
                "wrap(function, address=(host, port))"
            )

    def _enter(self, infos: Iterable[AddrInfo]) -> None:
        held = Held()
        try:
            for *_, sockaddr in infos:
                held.take(sockaddr)
            held.wait_for_busy()
            (self._entries.appendleft if held else self._entries.append)(held)
        except BaseException:
            with contextlib.suppress(ValueError):
                self._entries.remove(held)
            held.close()
            raise


@mistakes.advised(mistakes.of_hold)
def hold(address: Address) -> Hold:
    """Keep the kernel off the port of *address* inside the block, for every dial of this host.

    For clients that dial in C (libpq, grpc, ZeroMQ, uvloop), which no hook of Python reaches. A socket that does not
    listen is bound to the port, at a loopback address that nobody uses (127.a.b.c). The kernel never draws a port that
    is bound, neither for IPv4 nor for IPv6. So nothing connects to itself, a dial to a dead port is refused, and no
    connection takes the port before its server does. It works while the server listens, and while an ordinary
    connection has the port or is in TIME_WAIT.

    Hold a port for as long as you like: for one dial, or for a client's whole life, in which the server may stop and
    start. Any process of the host may hold it, also the server's own. These servers start meanwhile:

    =================  ==============  =====================
    a server that      on one address  on 0.0.0.0 or ``::``
    =================  ==============  =====================
    sets SO_REUSEADDR  starts          starts
    does not           starts          fails with EADDRINUSE
    =================  ==============  =====================

    PostgreSQL, MariaDB, Redis, memcached, nginx, `asyncio.start_server` and `http.server` set SO_REUSEADDR, as most
    servers do. `socketserver.TCPServer` does only if its ``allow_reuse_address`` is true.

    An address of another host is not held, because no dial of it can reach itself. If a server listens on all addresses
    (``::``) when the block is entered, the kernel draws its port for nobody; once the server stops, a thread takes the
    port within 0.25 s. If the port can't be held (a sandbox forbids it), a WARNING says so, once for each address.

    Entering costs 13 us and a descriptor, which forked children inherit: the port is free once all of them have ended.
    The result can be entered again, and by several threads.

    Other systems than Linux draw ports for each address on its own. There *address* itself is bound, and a server on it
    may fail to start meanwhile, whatever it sets: hold the port only for the dial.

    Args:
        address: (host, port). A name is resolved at each entry. That blocks, so in an event loop a name needs
            ``async with``, which asks the resolver in a thread (asyncio and trio).

    Raises:
        TypeError, ValueError: *address* is wrong; the message says how.
        RuntimeError: on entry by ``with``: an event loop runs in this thread, and the host is a name.
        OSError: on entry: the resolver's; or descriptors are used up.

    Example::

        async with safedial.hold(("localhost", 50051)):
            channel = grpc.aio.insecure_channel("localhost:50051")
            ...
    """
    return Hold(*checked(address, 0))


async def resolved(addresses: Iterable[Address], *, blocking: bool) -> list[SockAddr]:
    """Return the numeric addresses of *addresses*, for `holding`. The client reports what is wrong with them.

    Names are resolved as the client will do: here if it is *blocking*, else in a thread.
    """
    found: list[SockAddr] = []
    for address in addresses:
        with contextlib.suppress(Exception):  # the resolver may be another one's, with errors of its own
            host, port = address
            port = int(port) if isinstance(port, str) and port.isdigit() else port
            host, port, infos = checked((host, port), 0)
            if not infos:
                infos = _look_up(host, port) if blocking else await in_thread(_look_up, host, port)
            found += (sockaddr for *_, sockaddr in infos)
    return found


@contextlib.contextmanager
def holding(sockaddrs: Iterable[SockAddr]) -> Generator[None]:
    """Hold the ports of *sockaddrs*, (host, port, …) in numbers, for one dial. Never blocks.

    A port that can't be held is no error: the client dials all the same.
    """
    held = Held()
    try:
        for sockaddr in sockaddrs:
            _take(held, sockaddr)
        yield
    finally:
        held.close()


def _take(held: Held, sockaddr: SockAddr) -> None:
    host, port = sockaddr[:2]
    try:
        if family_of(host):
            held.take(sockaddr)
            return
        reason = "it is not a numeric address"  # whose resolving would block
    except (OSError, OverflowError) as error:
        reason = str(error)
    log(logging.DEBUG, "%s is not held: %s", describe(host, port), reason)


def _look_up(host: Host, port: Port, flags: int = 0) -> tuple[AddrInfo, ...]:
    return tuple(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags))


def _look_up_here(host: Host, port: Port) -> tuple[AddrInfo, ...]:
    if not in_event_loop():
        return _look_up(host, port)
    try:
        return _look_up(host, port, socket.AI_NUMERICHOST)  # such as 127.1, which `numeric` leaves to the resolver
    except socket.gaierror:
        raise RuntimeError(
            f"hold() would stop the event loop while it resolves {describe(host, port)}: "
            "write `async with safedial.hold(...)`"
        ) from None
