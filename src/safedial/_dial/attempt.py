"""One attempt at one address: its socket is made, prepared and connected, or closed."""

import contextlib
import contextvars
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from safedial._address import INET, AddrInfo, SockAddr
from safedial._dial import seen
from safedial._dial.settings import Settings, Timeout
from safedial._dial.socket_class import can_be_nonblocking
from safedial._forks import loading
from safedial._retry.argument import DEFAULT
from safedial._steps import within
from safedial._tcp import connect, exhaustion, settings_thread, steering
from safedial._tcp.selfconnect import close_unfinished

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

Bind: TypeAlias = Callable[[socket.socket], object]

# Seconds. The longest timeout of a socket: poll(2) counts milliseconds in a C int.
_LONGEST = 2_147_483.0
# Seconds, in place of a limit of 0, which would make the socket non-blocking: connect() would fail with EINPROGRESS.
_SHORTEST = 0.001


class Attempt:
    """A socket on its way to one address. A failure, cancellation or interrupt closes it."""

    __slots__ = ("_own", "_sides", "sock", "sockaddr")

    def __init__(
        self, settings: Settings, timeout: Timeout, source: SockAddr | None, bind: Bind | None, info: AddrInfo
    ) -> None:
        """Make the socket with *timeout*. *source* is the address that *bind* gives it, if any."""
        family, kind, proto, _, self.sockaddr = info
        if family not in INET or (source and source[1]):
            self._sides = connect.UNGUARDED  # no TCP, or the caller chose the source port
        elif settings.steer:
            self._sides = steering.side_options(self.sockaddr[1])
        else:
            steering.forget_what_is_old()
            self._sides = steering.UNSTEERED
        self.sock = sock = socket.socket(family, kind, proto)
        try:
            if timeout is DEFAULT:
                self._own = sock.gettimeout()
            else:
                self._own = timeout if timeout is None or timeout < _LONGEST else _LONGEST
                sock.settimeout(self._own)
            for option in settings.socket_options or ():
                try:
                    sock.setsockopt(*option)
                except OSError as error:
                    error.add_note(f"safedial: socket_options: setsockopt{option[:2]} failed")
                    raise
            if bind is not None and source is not None:
                self._bind(bind, source[0])
            if steering.ON_LINUX and self._sides and settings.lets_servers_bind:
                try:  # noqa: SIM105  # is *let_servers_bind*, spelled out: every dial is spared a call
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                except (AttributeError, OSError):
                    pass
        except BaseException as error:
            self.close(error)
            raise

    def _bind(self, bind: Bind, source: str) -> None:
        try:
            bind(self.sock)
        except OSError as error:
            seen.mark(error, source)
            raise
        seen.remember(source)

    def connect(self, limit: float | None) -> None:
        """Connect within *limit* seconds; the socket keeps its own timeout."""
        try:
            if limit == self._own:
                connect.connect(self.sock, self.sockaddr, self._sides)
            else:
                self._set_timeout(limit or _SHORTEST if limit is not None else None)
                connect.connect(self.sock, self.sockaddr, self._sides)
                self._set_timeout(self._own)
        except ConnectionRefusedError:
            self.sock.close()  # the most frequent failure, which needs no look at the socket
            raise
        except BaseException as error:
            raise self._closed(error)  # noqa: B904  # it is *error*, or has it as its cause

    def begin(self) -> bool:
        """Begin to connect without waiting; return whether the socket is connected already."""
        try:
            self.sock.setblocking(False)
            return self._settled(connect.connect(self.sock, self.sockaddr, self._sides, connect.begin))
        except BaseException as error:
            raise self._closed(error)  # noqa: B904  # as above

    def arrived(self) -> bool:
        """Return whether the socket, which is writable, is connected."""
        try:
            return self._settled(connect.arrived(self.sock, self.sockaddr, self._sides))
        except BaseException as error:
            raise self._closed(error)  # noqa: B904  # as above

    async def connect_async(self, loop: "AbstractEventLoop", limit: float | None) -> None:
        """Connect within *limit* seconds, waiting in *loop*."""
        kind: Any = type(self.sock)
        if not can_be_nonblocking(kind):
            await within(limit, self._connect_in_thread(loop, limit))
            return
        try:
            while True:
                try:
                    if not connect.begin_async(self.sock, self.sockaddr, self._sides):
                        await within(limit, connect.connect_async(loop, self.sock, self.sockaddr, self._sides))
                    return
                except OSError as error:
                    if not exhaustion.may_be_exhausted(error, self._sides):
                        raise
                    self._sides = await self._sides_now(loop, limit, error)
        except BaseException as error:
            self.close(error)
            raise

    async def _connect_in_thread(self, loop: "AbstractEventLoop", limit: float | None) -> None:
        """Connect a socket that may wait in connect() whatever its mode, and would stop the loop."""
        with loading:
            from asyncio import shield

        context = contextvars.copy_context()  # a guard is entered in a context
        connecting = loop.run_in_executor(None, lambda: context.run(self.connect, limit))
        try:
            await shield(connecting)
        except BaseException:
            if not connecting.done():
                with contextlib.suppress(OSError):
                    self.sock.shutdown(socket.SHUT_RDWR)  # wakes the thread; to close it would free its descriptor
            connecting.add_done_callback(self._discard)
            raise

    def _discard(self, connecting: "Future[None]") -> None:
        if not connecting.cancelled():
            connecting.exception()  # so that asyncio does not log it
        self.close()

    async def _sides_now(self, loop: "AbstractEventLoop", limit: float | None, unavailable: OSError) -> steering.Sides:
        """Return the sides of the range as it is now. If they are exhausted too, raise what *unavailable* means."""
        ports = await settings_thread.range_now(loop, self.sock, limit)
        if moved := steering.moved_sides(ports, self.sockaddr[1], self._sides):
            return moved
        raise exhaustion.explained(self.sock, self.sockaddr, self._sides, unavailable)

    def close(self, error: BaseException | None = None) -> None:
        """Close the socket, and release it if it connected to itself just before."""
        close_unfinished(self.sock, error, guarded=bool(self._sides))

    def _closed(self, error: BaseException) -> BaseException:
        """Close the socket and return the error to raise for *error*."""
        try:
            if exhaustion.may_be_exhausted(error, self._sides):
                return exhaustion.explained(self.sock, self.sockaddr, self._sides, cast("OSError", error))
            return error
        finally:
            self.close(error)

    def _settled(self, connected: bool) -> bool:
        if connected:
            self._set_timeout(self._own)
        return connected

    def _set_timeout(self, seconds: float | None) -> None:
        self.sock.settimeout(_LONGEST if seconds is not None and seconds > _LONGEST else seconds)
