"""The asyncio dial: resolve, try the addresses in order or race them, retry under the policy."""

import asyncio
import functools
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from safedial import connect, ports
from safedial.addresses import AddrInfo, Host, Port, SockAddr, interleave, numeric
from safedial.errors import combined_error
from safedial.events import HookError
from safedial.journal import Journal
from safedial.race import race
from safedial.selfconnect import abandon
from safedial.settings import DEFAULT, Settings, policy_after


@dataclass(frozen=True, slots=True)
class Target:
    """Where to dial, in the terms of asyncio's ``create_connection``."""

    host: Host
    port: Port
    family: int = 0
    proto: int = 0
    flags: int = 0
    local_addr: SockAddr | None = None
    happy_eyeballs_delay: float | None = None
    interleave: int | None = None


async def dial(settings: Settings, target: Target, *, all_errors: bool) -> socket.socket:
    """Return a connected non-blocking socket; `safedial.create_connection` tells the rest."""
    journal = Journal(target.host, target.port, settings.on_event)
    try:
        return await _round(settings, target, journal)
    except OSError as error:
        first = error
    except HookError as hook:
        raise hook.error from None
    try:
        return await _go_on(settings, journal, first, functools.partial(_round, settings, target, journal))
    except OSError as error:
        raise journal.outcome(error, all_errors=all_errors)  # noqa: B904  # it is *error*, or has it
    except HookError as hook:
        raise hook.error from None
    finally:
        journal.errors = []
        del first  # the traceback holds this frame: break the cycle


async def dial_socket(settings: Settings, target: Target, *, all_errors: bool) -> socket.socket:
    """Do as `dial` does, and give the loop a turn even if nothing had to be waited for.

    Without it, a loop of dials on loopback would starve every other task; a transport, which
    `dial` is for, takes a turn to set up anyway.
    """
    sock = await dial(settings, target, all_errors=all_errors)
    try:
        await asyncio.sleep(0)
    except BaseException:
        sock.close()
        raise
    return sock


async def _go_on(
    settings: Settings,
    journal: Journal,
    error: OSError,
    once: Callable[[], Coroutine[Any, Any, socket.socket]],
) -> socket.socket:
    """Do what the policy says after the first round failed with *error*."""
    policy = policy_after(settings, error)
    try:
        if policy is None:
            raise error
        from safedial import retrying  # late, as it loads tenacity

        return await retrying.dial_async(policy, journal, error, once)
    finally:
        del error  # as above


async def _round(settings: Settings, target: Target, journal: Journal) -> socket.socket:
    """Try every address once: in order, or racing where a delay is given."""
    errors: list[OSError] = []
    journal.errors = errors
    try:
        infos = await _resolve(target.host, target.port, target, journal)
        sources = None
        if target.local_addr is not None:
            host, port, *scope = target.local_addr
            sources = await _resolve(host, port, target, journal)
            if scope:  # the flow label and the scope id of an IPv6 source
                sources = [(*info[:4], (*info[4][:2], *scope)) for info in sources]
        # asyncio's rule: racing interleaves, unless the caller says 0.
        racing = target.happy_eyeballs_delay is not None
        infos = interleave(infos, int(racing) if target.interleave is None else target.interleave)
        if target.happy_eyeballs_delay is not None and len(infos) > 1:
            lanes = [functools.partial(_lane, settings, info, sources, journal, errors) for info in infos]
            won = await race(lanes, target.happy_eyeballs_delay, _discard)
        else:
            won = None
            for info in infos:
                won = await _lane(settings, info, sources, journal, errors)
                if won is not None:
                    break
        if won is not None:
            return _announce(journal, *won)
        raise combined_error(errors)
    finally:
        del errors


async def _resolve(host: Host, port: Port, target: Target, journal: Journal) -> Sequence[AddrInfo]:
    known = numeric(host, port, target.family)
    if known and target.proto in (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP):  # as asyncio has it
        return known
    loop = asyncio.get_running_loop()
    try:
        infos = await loop.getaddrinfo(
            host, port, family=target.family, type=socket.SOCK_STREAM, proto=target.proto, flags=target.flags
        )
        if not infos:
            raise OSError("getaddrinfo() returned empty list")
    except UnicodeError as error:
        error.add_note(f"safedial: {host!r} can't be a host name")
        raise
    except OSError as error:
        journal.unresolved(host, error)
        raise
    return cast("list[AddrInfo]", infos)


_Won: TypeAlias = tuple[socket.socket, SockAddr]


def _discard(won: _Won) -> None:
    won[0].close()


def _announce(journal: Journal, sock: socket.socket, sockaddr: SockAddr) -> socket.socket:
    try:
        journal.connected(sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


async def _lane(
    settings: Settings,
    info: AddrInfo,
    sources: Sequence[AddrInfo] | None,
    journal: Journal,
    errors: list[OSError],
) -> _Won | None:
    """Attempt one address. Return its socket, or None with the error kept."""
    try:
        return await _attempt(settings, info, sources), info[4]
    except OSError as error:
        errors.append(error)
        journal.failed(info[4], error)
    finally:
        del errors  # a kept error holds this frame: break the cycle
    # A refusal on loopback takes no wait. Without a turn for the loop, a bare reconnect loop would
    # starve every other task and could not be cancelled.
    await asyncio.sleep(0)
    return None


async def _attempt(settings: Settings, info: AddrInfo, sources: Sequence[AddrInfo] | None) -> socket.socket:
    family, kind, proto, _, sockaddr = info
    loop = asyncio.get_running_loop()
    guarded = connect.kernel_chooses_port(family, sources[0][4] if sources else None)
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        for option in settings.socket_options or ():
            sock.setsockopt(*option)
        if sources is not None:
            _bind_one(sock, sources)
        if guarded:
            sides = ports.side_options(sockaddr[1]) if settings.steer else ports.UNSTEERED
            connecting = connect.connect_async(loop, sock, sockaddr, sides)
        else:
            connecting = loop.sock_connect(sock, sockaddr)
        if settings.timeout in _NO_LIMIT:
            await connecting
        else:
            await _within(settings.timeout, connecting)
    except BaseException as error:
        abandon(sock, error, guarded=guarded)
        raise
    return sock


def _bind_one(sock: socket.socket, sources: Sequence[AddrInfo]) -> None:
    """Bind *sock* to the first of *sources* that has its family and can be bound."""
    failure: OSError | None = None
    for family, _, _, _, source in sources:
        if family != sock.family:
            continue
        try:
            connect.bind_source(sock, source)
        except OSError as error:
            # asyncio's words, so that what is matched against them goes on matching.
            words = f"error while attempting to bind on address {source!r}: {(error.strerror or str(error)).lower()}"
            failure = OSError(error.errno, words)
        else:
            return
    raise failure or OSError(f"no matching local address with family={sock.family!r} found")


# What stands for "no limit" here, where sockets have no default timeout to fall back on.
_NO_LIMIT = (None, DEFAULT)


async def _within(seconds: Any, connecting: Coroutine[Any, Any, None]) -> None:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            await connecting
    except TimeoutError:
        if limit.expired():
            raise TimeoutError("timed out") from None  # the words of a blocking socket's
        raise
