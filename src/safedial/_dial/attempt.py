"""One attempt at one address: its socket made, prepared and connected, or closed."""

import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

from safedial._address import AddrInfo, SockAddr
from safedial._dial.settings import Settings, SocketOption, Timeout
from safedial._retry.argument import DEFAULT
from safedial._tcp import connect, steering
from safedial._tcp.selfconnect import abandon

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

Bind: TypeAlias = Callable[[socket.socket], object]

# Seconds. The most that a socket takes: poll(2) counts milliseconds in a C int.
_LONGEST = 2_147_483.0
# Seconds. Where no time is left; with 0 the socket would not block, and end in EINPROGRESS.
_SHORTEST = 0.001


class Attempt:
    """A socket on its way to one address. What fails, is cancelled or interrupted closes it."""

    __slots__ = ("_own", "_sides", "sock", "sockaddr")

    def __init__(
        self,
        settings: Settings,
        timeout: Timeout,
        source: SockAddr | None,
        bind: Bind | None,
        info: AddrInfo,
    ) -> None:
        """Make the socket with *timeout*; *source* is the address that *bind* gives it, if any."""
        family, kind, proto, _, self.sockaddr = info
        self._sides = connect.UNGUARDED
        if connect.kernel_chooses_port(family, source):
            self._sides = steering.side_options(self.sockaddr[1]) if settings.steer else steering.UNSTEERED
        self.sock = socket.socket(family, kind, proto)
        try:
            if timeout is not DEFAULT:
                self._set_timeout(timeout)
            self._own = self.sock.gettimeout()
            for option in settings.socket_options or ():
                self._set(option)
            if bind is not None:
                bind(self.sock)
        except BaseException as error:
            self.abandon(error)
            raise

    def connect(self, limit: float | None) -> socket.socket:
        """Return the socket, connected. Waits *limit* seconds; the socket's own timeout stays."""
        try:
            if limit != self._own:
                self._set_timeout(limit or _SHORTEST if limit is not None else None)
            connect.connect(self.sock, self.sockaddr, self._sides)
            if limit != self._own:
                self._set_timeout(self._own)
        except BaseException as error:
            self.abandon(error)
            raise
        return self.sock

    def begin(self) -> bool:
        """Begin to connect without waiting; tell whether that is over already."""
        try:
            self.sock.setblocking(False)
            return self._settled(connect.begin(self.sock, self.sockaddr, self._sides))
        except BaseException as error:
            self.abandon(error)
            raise

    def arrived(self) -> bool:
        """Tell whether the socket, which is writable, is connected."""
        try:
            return self._settled(connect.arrived(self.sock, self.sockaddr, self._sides))
        except BaseException as error:
            self.abandon(error)
            raise

    def connect_async(self, loop: "AbstractEventLoop") -> Coroutine[Any, Any, None]:
        """Return the coroutine that connects, waiting in *loop*. Its caller must `abandon`."""
        return connect.connect_async(loop, self.sock, self.sockaddr, self._sides)

    def abandon(self, error: BaseException | None = None) -> None:
        """Close the socket; it must not hold the port, had it connected to itself."""
        abandon(self.sock, error, guarded=bool(self._sides))

    def _set(self, option: SocketOption) -> None:
        try:
            self.sock.setsockopt(*option)
        except OSError as error:
            error.add_note(f"safedial: socket_options: setsockopt{option} failed")
            raise

    def _settled(self, connected: bool) -> bool:
        if connected:
            self._set_timeout(self._own)
        return connected

    def _set_timeout(self, seconds: float | None) -> None:
        self.sock.settimeout(_LONGEST if seconds is not None and seconds > _LONGEST else seconds)
