"""`open_connection` and `create_connection`: safedial's dial with the transports, TLS and streams of any event loop."""

import asyncio
import contextlib
import functools
import socket
import ssl as ssl_module
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, Unpack

from safedial._address import check_host, check_port, pair, seconds
from safedial._dial import aio
from safedial._dial.settings import DialOptions, Resolver, Settings, check_family, unexpected

P = TypeVar("P", bound=asyncio.BaseProtocol)

# asyncio.streams._DEFAULT_LIMIT, the size of a StreamReader's buffer in bytes (64 KiB).
_DEFAULT_LIMIT = 2**16


class ConnectionOptions(DialOptions, total=False):
    """The keyword arguments of `create_connection`: asyncio's own, and safedial's."""

    ssl: bool | ssl_module.SSLContext | None
    family: int
    proto: int
    flags: int
    sock: Any
    local_addr: tuple[str, int] | None
    server_hostname: str | None
    ssl_handshake_timeout: float | None
    ssl_shutdown_timeout: float | None
    interleave: int | None
    all_errors: bool
    timeout: float | None
    resolver: Resolver | None


_OWN = frozenset(DialOptions.__annotations__) | {"timeout", "resolver"}
_PLAIN = Settings(timeout=None, happy_eyeballs_delay=None)
_TLS = ("ssl", "server_hostname", "ssl_handshake_timeout", "ssl_shutdown_timeout")
_TARGET = ("family", "proto", "flags", "local_addr", "interleave")


async def open_connection(
    host: str | bytes | None = None,
    port: int | str | None = None,
    *,
    limit: int = _DEFAULT_LIMIT,
    **kwds: Unpack[ConnectionOptions],
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect as `asyncio.open_connection` does, and never to itself.

    Args:
        host: the host; a numeric one skips the resolver.
        port: the port or service name.
        limit: buffer limit of the reader, in bytes. Default: 64 KiB.
        **kwds: the keyword arguments of `safedial.adapters.asyncio.create_connection`: asyncio's own, such as *ssl*,
            and *timeout*, *total_timeout*, *resolver*, *policy*, *on_event*, *steer* and *socket_options*. With *ssl*,
            *total_timeout* and the policy cover the TLS handshake too; *timeout* does not.

    Returns:
        A (reader, writer) pair.

    Raises:
        OSError, TypeError, ValueError: as `create_connection` does; among them `SelfConnectError`,
            `PortsExhaustedError` and `TimeoutError`.
    """
    loop = asyncio.get_running_loop()
    if limit <= 0:
        raise ValueError("Limit cannot be <= 0")  # asyncio's words, before the dial
    made: list[asyncio.StreamReader] = []

    def streams() -> asyncio.StreamReaderProtocol:
        made[:] = [asyncio.StreamReader(limit=limit, loop=loop)]
        return asyncio.StreamReaderProtocol(made[0], loop=loop)

    transport, protocol = await create_connection(streams, host, port, **kwds)
    return made[0], asyncio.StreamWriter(transport, protocol, made[0], loop)


async def create_connection(
    protocol_factory: Callable[[], P],
    host: str | bytes | None = None,
    port: int | str | None = None,
    **kwds: Unpack[ConnectionOptions],
) -> tuple[asyncio.Transport, P]:
    """Connect as the running loop's ``create_connection`` does, and never to itself.

    A drop-in: the same arguments have the same meaning. The check comes before TLS and before any byte. Don't assign it
    to the loop's own ``create_connection``, which it calls.

    The TLS handshake is the last step of a round, with the address that answered. If it fails, the round has failed,
    and the policy decides on the next one, which dials anew: `reconnect` goes on after a reset, an end of the
    connection or a time-out, and not after a certificate failure. What keeps TLS from beginning, such as a
    *server_hostname* that can't be encoded, ends the dial.

    Args:
        protocol_factory: called when the socket is connected; with *ssl* before each TLS handshake, and must return a
            new protocol each time. The protocol of a failed handshake is dropped, and none of its methods is called.
        host: the host; a numeric one skips the resolver.
        port: the port or service name.
        **kwds: keyword arguments of the loop's ``create_connection``, with its defaults, and some of `Dialer`.
            ssl, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout: TLS, as in asyncio. A server that is
                silent after the connect fails the handshake after *ssl_handshake_timeout*, 60 seconds by default
                (asyncio's), or when *total_timeout* is over.
            family, proto, flags, interleave: the addresses and their order, as in asyncio.
            sock: a connected socket; it is used as it is, without a check.
            local_addr: (host, port) to bind to; with a port other than 0 nothing is guarded.
            happy_eyeballs_delay: seconds, as in `Dialer`. Default: None, one address after the other.
            all_errors: raise an ExceptionGroup of each address's last error instead of one error.
            timeout: seconds for one attempt at one address, without the TLS handshake. Default: None, no limit.
            total_timeout: seconds for the whole dial, TLS handshakes too. Default: None, no limit.
            resolver, policy, on_event, steer, socket_options: as documented by `Dialer`, with its defaults.

    Returns:
        A (transport, protocol) pair.

    Raises:
        SelfConnectError, PortsExhaustedError, TimeoutError: as `safedial.safe_connect` does.
        OSError: asyncio's: the only error, or one that lists all. If all have the same errno, it has that errno too,
            unlike asyncio's. Notes say what failed and in which rounds. The error of a TLS handshake is the loop's own:
            `ssl.SSLError`, ConnectionResetError at the end of the connection, ConnectionAbortedError at its time limit.
        TypeError, ValueError: an argument is invalid; the message names it.
    """
    loop = asyncio.get_running_loop()
    given: dict[str, Any] = {}
    own, tls, settings = given, given, _PLAIN
    if kwds:
        if unknown := kwds.keys() - ConnectionOptions.__annotations__.keys():
            raise TypeError(unexpected("create_connection", unknown.pop(), ConnectionOptions.__annotations__))
        # None is asyncio's "not given".
        given = {
            name: value for name, value in kwds.items() if value is not None or name in DialOptions.__annotations__
        }
        own = {name: given[name] for name in given if name in _OWN}
        tls = {name: given[name] for name in _TLS if name in given}
        if own:
            settings = Settings.of("create_connection", {"happy_eyeballs_delay": None, **own})
        if tls:
            _check_tls(host, **tls)
    sock = given.get("sock")
    if sock is not None or (host is None and port is None):
        own.pop("happy_eyeballs_delay", None)
        if own:
            raise ValueError(f"{', '.join(own)}: can only be given with host and port")
        # Nothing to dial. The loop raises the error if the arguments are wrong.
        ends: dict[str, Any] = {"host": host, "port": port, "sock": sock}
        return await loop.create_connection(protocol_factory, **ends, **tls)
    target, all_errors = _target(host, port, given), given.get("all_errors", False)
    if tls.get("ssl"):
        tls.setdefault("server_hostname", host.decode("idna") if isinstance(host, bytes) else host)
        handshake = functools.partial(_shake_hands, loop, protocol_factory, tls)
        secured: _Secured = await aio.dial(settings, target, all_errors=all_errors, handshake=handshake)
        return secured.transport, secured.protocol
    sock = await aio.dial(settings, target, all_errors=all_errors)
    try:
        protocol = protocol_factory()
    except BaseException:
        sock.close()
        raise
    # From here on the transport owns the socket.
    return await loop.create_connection(lambda: protocol, sock=sock, **tls)


class _Secured(NamedTuple):
    """A connection whose TLS handshake is done."""

    transport: asyncio.Transport
    protocol: Any

    def close(self) -> None:
        """End the connection, without waiting for the peer's answer."""
        self.transport.abort()


async def _shake_hands(
    loop: asyncio.AbstractEventLoop, protocol_factory: Callable[[], Any], tls: dict[str, Any], sock: socket.socket
) -> _Secured:
    """Make the TLS handshake over *sock*. A failure or a cancellation closes *sock*."""
    try:
        protocol = protocol_factory()
        # What makes the loop raise here, such as a name that IDNA can't encode, makes it leave the socket open
        # (github.com/python/cpython/issues/153133).
        context = _plain_context() if tls["ssl"] is True else tls["ssl"]
        context.wrap_bio(ssl_module.MemoryBIO(), ssl_module.MemoryBIO(), server_hostname=tls["server_hostname"] or None)
    except BaseException:
        sock.close()
        raise
    try:
        # The transport owns the socket, and closes it if the handshake fails.
        return _Secured(*await loop.create_connection(lambda: protocol, sock=sock, **tls))
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


def _check_tls(host: Any, ssl: Any = None, **others: Any) -> None:
    """Raise before the dial the errors that asyncio would raise after it, or that would leak the socket."""
    if ssl and not isinstance(ssl, bool | ssl_module.SSLContext):
        raise TypeError(f"ssl must be a bool, an SSLContext or None, not {ssl!r}")
    if ssl and not host and "server_hostname" not in others:
        raise ValueError("You must set server_hostname when using ssl without a host")
    for name, value in others.items():
        if not ssl:
            raise ValueError(f"{name} is only meaningful with ssl")
        if name != "server_hostname" and not seconds(name, value):
            raise ValueError(f"{name} must be positive, not {value!r}")


def _target(host: Any, port: Any, given: Mapping[str, Any]) -> aio.Target:
    """Return the checked target."""
    check_host(host)
    check_port(port)
    target = aio.Target(host, port, **{name: given[name] for name in _TARGET if name in given})
    if "family" in given:
        check_family(target.family)
    if (source := target.local_addr) is not None:
        # An IPv6 source may have its flow label and scope too.
        source_host, source_port = pair(source[:2] if hasattr(source, "__getitem__") else source, "local_addr")
        check_host(source_host, "local_addr")
        check_port(source_port, "local_addr")
    if target.interleave is not None and not isinstance(target.interleave, int):
        raise TypeError(f"interleave must be an int or None, not {target.interleave!r}")
    return target
