"""`open_connection` and `create_connection`: safedial's dial with the transports, TLS and streams of any event loop."""

import asyncio
import functools
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar, Unpack

from safedial._address import check_host, check_port, pair, shown
from safedial._dial import aio
from safedial._dial.record import Record
from safedial._dial.settings import DialOptions, Resolver, Settings, check_family, unexpected
from safedial._dial.transport import Connected, Streams, check_tls, open_streams, take_over

P = TypeVar("P", bound=asyncio.BaseProtocol)

# asyncio.streams._DEFAULT_LIMIT, the size of a StreamReader's buffer in bytes (64 KiB).
_DEFAULT_LIMIT = 2**16


class StreamOptions(DialOptions, total=False):
    """The keyword arguments of `create_connection` that say how an address is dialed."""

    ssl: bool | ssl_module.SSLContext | None
    family: int
    proto: int
    flags: int
    local_addr: tuple[str, int] | None
    server_hostname: str | None
    ssl_handshake_timeout: float | None
    ssl_shutdown_timeout: float | None
    interleave: int | None
    timeout: float | None
    resolver: Resolver | None


class ConnectionOptions(StreamOptions, total=False):
    """The keyword arguments of `create_connection`: asyncio's own, and safedial's."""

    sock: Any
    all_errors: bool


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
    if limit <= 0:
        raise ValueError("Limit cannot be <= 0")  # asyncio's words, before the dial
    plan = _planned(host, port, kwds)
    if plan.target is None:
        ends: dict[str, Any] = {"host": host, "port": port, "sock": kwds.get("sock")}
        return await asyncio.open_connection(limit=limit, **ends, **plan.tls)
    handshake = functools.partial(open_streams, limit, plan.tls)
    streams: Streams = await aio.dial(plan.settings, plan.target, all_errors=plan.all_errors, handshake=handshake)
    return streams


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
    plan = _planned(host, port, kwds)
    if plan.target is None:
        ends: dict[str, Any] = {"host": host, "port": port, "sock": kwds.get("sock")}
        return await asyncio.get_running_loop().create_connection(protocol_factory, **ends, **plan.tls)
    handshake = functools.partial(take_over, protocol_factory, plan.tls)
    made: Connected = await aio.dial(plan.settings, plan.target, all_errors=plan.all_errors, handshake=handshake)
    return made.transport, made.protocol


def prepared(address: tuple[Any, Any], options: Mapping[str, Any]) -> tuple[Record, Callable[[], Awaitable["Streams"]]]:
    """Return the record and one round of a dial for `safedial.connections`, with *options* of `open_connection`."""
    kwds = dict(options)
    limit = kwds.pop("limit", _DEFAULT_LIMIT)
    plan = _planned(*address, kwds)
    if plan.target is None:
        raise ValueError("address: the host and the port must not both be None")
    record = Record(*address, plan.settings.on_event, plan.settings.total_timeout)
    handshake = functools.partial(open_streams, limit, plan.tls)
    return record, functools.partial(aio.one_round, plan.settings, plan.target, record, handshake)


class _Plan(NamedTuple):
    """The checked arguments of a dial. Without a target there is nothing to dial."""

    settings: Settings
    target: aio.Target | None
    tls: dict[str, Any]
    all_errors: bool


def _planned(host: Any, port: Any, kwds: Mapping[str, Any]) -> _Plan:
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
            check_tls(host, **tls)
    all_errors = given.get("all_errors", False)
    if given.get("sock") is not None or (host is None and port is None):
        own.pop("happy_eyeballs_delay", None)
        if own:
            raise ValueError(f"{', '.join(own)}: can only be given with host and port")
        return _Plan(settings, None, tls, all_errors)  # the loop raises the error if the arguments are wrong
    if tls.get("ssl"):
        tls.setdefault("server_hostname", host.decode("idna") if isinstance(host, bytes) else host)
    return _Plan(settings, _target(host, port, given), tls, all_errors)


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
        raise TypeError(f"interleave must be an int or None, not {shown(target.interleave)}")
    return target
