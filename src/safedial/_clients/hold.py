"""Holding a port: the guard for code that no hook reaches."""

import contextlib
import socket
import sys
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from typing import TypeAlias

from safedial._address import AddrInfo, Host, Port, SockAddr, checked, describe, family_of
from safedial._clients.held import Held
from safedial._clients.unused import warn_never_entered
from safedial._steps import in_thread, running_trio
from safedial.events import logger

Address: TypeAlias = tuple[str | bytes | None, int | str | None]


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
        self._enter(self._infos or _resolved(*self._address))

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

    def _enter(self, infos: Iterable[AddrInfo]) -> None:
        held = Held()
        try:
            for *_, sockaddr in infos:
                held.take(sockaddr)
            (self._entries.appendleft if held else self._entries.append)(held)
        except BaseException:
            with contextlib.suppress(ValueError):
                self._entries.remove(held)
            held.close()
            raise


def hold(address: Address) -> Hold:
    """Keep the kernel off the port of *address* inside the block, for every dial of this host.

    Args:
        address: (host, port). A name is resolved at each entry.

    Raises:
        TypeError, ValueError: *address* is wrong; the message says how.
    """
    return Hold(*checked(address, 0))


@contextlib.contextmanager
def holding(sockaddrs: Iterable[SockAddr]) -> Generator[bool]:
    """Hold the ports of *sockaddrs*, (host, port, …) in numbers, for one dial. Never blocks.

    Yields whether no dial of them can reach itself: their ports are held, or need not be.
    """
    held = Held()
    try:
        safe = [_take(held, sockaddr) for sockaddr in sockaddrs]
        yield all(safe)
    finally:
        held.close()


def _take(held: Held, sockaddr: SockAddr) -> bool:
    host, port = sockaddr[:2]
    try:
        if family_of(host):
            return held.take(sockaddr)
        reason = "it is not a numeric address"  # whose resolving would block
    except (OSError, OverflowError) as error:
        reason = str(error)
    logger.debug("%s is not held: %s", describe(host, port), reason)
    return False


def _look_up(host: Host, port: Port, flags: int = 0) -> Sequence[AddrInfo]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)


def _resolved(host: Host, port: Port) -> Sequence[AddrInfo]:
    if not _in_event_loop():
        return _look_up(host, port)
    try:
        return _look_up(host, port, socket.AI_NUMERICHOST)  # such as 127.1, which `numeric` leaves to the resolver
    except socket.gaierror:
        raise RuntimeError(
            f"hold() would stop the event loop while it resolves {describe(host, port)}: "
            "write `async with safedial.hold(...)`"
        ) from None


def _in_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        with contextlib.suppress(RuntimeError, AttributeError):  # AttributeError: another thread imports it just now
            asyncio.get_running_loop()
            return True
    return running_trio() is not None
