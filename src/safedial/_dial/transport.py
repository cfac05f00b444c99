"""The last step of an asyncio dial: a transport, TLS and streams over the connected socket. Nothing is left open."""

import asyncio
import contextlib
import functools
import socket
import ssl as ssl_module
from collections.abc import Callable
from typing import Any, NamedTuple

from safedial._address import seconds, shown


class Connected(NamedTuple):
    """A connection, after its TLS handshake if it has one."""

    transport: asyncio.Transport
    protocol: Any

    def close(self) -> None:
        """End the connection, without waiting for the peer's answer."""
        self.transport.abort()


class Streams(NamedTuple):
    """The result of `open_connection`."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def close(self) -> None:
        """End the connection, without waiting for the peer's answer."""
        self.writer.transport.abort()


async def open_streams(limit: int, tls: dict[str, Any], sock: socket.socket) -> Streams:
    """Open streams over *sock*, as `asyncio.open_connection` does. A failure or a cancellation closes *sock*."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    made = await take_over(lambda: protocol, tls, sock)
    return Streams(reader, asyncio.StreamWriter(made.transport, protocol, reader, loop))


async def take_over(protocol_factory: Callable[[], Any], tls: dict[str, Any], sock: socket.socket) -> Connected:
    """Make a transport of *sock*, and the TLS handshake. A failure or a cancellation closes *sock*."""
    try:
        protocol = protocol_factory()
        if context := tls.get("ssl"):
            # What makes the loop raise here, such as a name that IDNA can't encode, makes it leave the socket open
            # (github.com/python/cpython/issues/153133).
            context = _plain_context() if context is True else context
            name = tls["server_hostname"] or None
            context.wrap_bio(ssl_module.MemoryBIO(), ssl_module.MemoryBIO(), server_hostname=name)
    except BaseException:
        sock.close()
        raise
    try:
        # The transport owns the socket, and closes it if the handshake fails.
        loop = asyncio.get_running_loop()
        return Connected(*await loop.create_connection(lambda: protocol, sock=sock, **tls))
    except BaseException:
        # If it is cancelled before the handshake has begun, asyncio's transport goes on.
        with contextlib.suppress(OSError):  # closed already
            sock.shutdown(socket.SHUT_RDWR)
        raise


@functools.cache
def _plain_context() -> ssl_module.SSLContext:
    """Return a context to check a server's name with; ``ssl=True`` would load all certificates once more."""
    context = ssl_module.SSLContext(ssl_module.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # as the loop does without a name
    return context


def check_tls(host: Any, ssl: Any = None, **others: Any) -> None:
    """Raise before the dial the errors that asyncio would raise after it, or that would leak the socket."""
    if ssl and not isinstance(ssl, bool | ssl_module.SSLContext):
        raise TypeError(f"ssl must be a bool, an SSLContext or None, not {shown(ssl)}")
    if ssl and not host and "server_hostname" not in others:
        raise ValueError("You must set server_hostname when using ssl without a host")
    for name, value in others.items():
        if not ssl:
            raise ValueError(f"{name} is only meaningful with ssl")
        if name != "server_hostname" and not seconds(name, value):
            raise ValueError(f"{name} must be positive, not {shown(value)}")
