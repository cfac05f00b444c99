"""The asyncio dial: resolve, race the addresses, retry under the policy."""

import asyncio
import functools
import math
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from safedial._address import AddrInfo, Host, Port, SockAddr, interleave, numeric, of_families
from safedial._deadline import within
from safedial._dial import race_tasks
from safedial._dial.attempt import Attempt
from safedial._dial.outcome import combined_error
from safedial._dial.race import Race
from safedial._dial.record import Journal
from safedial._dial.resolve import resolve_async
from safedial._dial.settings import Resolver, Settings
from safedial._retry.argument import DEFAULT, policy_after
from safedial._tcp import connect
from safedial.events import HookError

_Attempting: TypeAlias = Callable[[AddrInfo, float | None], Coroutine[Any, Any, Attempt]]


@dataclass(frozen=True, slots=True)
class Target:
    """Where to dial, in the terms of asyncio's ``create_connection``."""

    host: Host
    port: Port
    family: int = 0
    proto: int = 0
    flags: int = 0
    local_addr: SockAddr | None = None
    interleave: int | None = None


async def dial(settings: Settings, target: Target, *, all_errors: bool) -> socket.socket:
    """Return a connected non-blocking socket; `safedial.create_connection` tells the rest."""
    journal = Journal(target.host, target.port, settings.on_event, settings.total_timeout)
    first: OSError | None = None
    try:
        try:
            return await _round(settings, target, journal)
        except OSError as error:
            first = error
        return await _go_on(settings, journal, first, functools.partial(_round, settings, target, journal))
    except OSError as error:
        raise journal.outcome(error, all_errors=all_errors)  # noqa: B904  # it is *error*, or has it
    except HookError as hook:
        raise hook.error from None
    finally:
        journal.close()
        first = None  # its traceback holds this frame: break the cycle


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
    policy = policy_after(settings.policy, error)
    try:
        if policy is None:
            raise error
        from safedial._retry import loop  # late, as it loads tenacity

        return await loop.dial_async(policy, journal, error, once, OSError)
    finally:
        del error  # as above


async def _round(settings: Settings, target: Target, journal: Journal) -> socket.socket:
    """Try every address once: racing, or one after the other."""
    journal.errors = []
    loop = asyncio.get_running_loop()
    infos = _known(target.host, target.port, target)
    if not infos:
        infos = await _resolve(loop, target.host, target.port, target, journal, settings.resolver)
    sources = None
    if target.local_addr is not None:
        sources = await _sources(loop, target, journal)
        infos = of_families(infos, {source[0] for source in sources}) or infos
    journal.deadline.check()
    limit = None if settings.timeout is DEFAULT else settings.timeout  # asyncio knows no default
    attempt = functools.partial(_attempt, loop, settings, sources)
    if len(infos) == 1:
        won = await _only(journal, infos[0], attempt, limit)
    else:
        # Two sockets can't have one source port at a time.
        delay = None if sources and sources[0][4][1] else settings.happy_eyeballs_delay
        # asyncio's rule: racing interleaves, unless the caller says 0.
        infos = interleave(infos, int(delay is not None) if target.interleave is None else target.interleave)
        won = await _first_of(loop, journal, infos, attempt, delay, limit)
    try:
        journal.connected(won.sockaddr)
    except BaseException:
        won.sock.close()
        raise
    return won.sock


async def _only(journal: Journal, info: AddrInfo, attempt: _Attempting, limit: float | None) -> Attempt:
    """Connect to the one address there is; most dials are such."""
    try:
        return await attempt(info, journal.deadline.cap(limit))
    except OSError as error:
        journal.errors = [error]
        journal.failed(info[4], error)
        failure = error
    try:
        await _turn()
        raise failure
    finally:
        del failure  # its traceback holds this frame: break the cycle


async def _first_of(
    loop: asyncio.AbstractEventLoop,
    journal: Journal,
    infos: Sequence[AddrInfo],
    attempt: _Attempting,
    delay: float | None,
    limit: float | None,
) -> Attempt:
    """Connect to the address that answers first; with no *delay*, to the first that answers."""
    left = journal.deadline.cap(None)
    race = Race(len(infos), delay, limit, math.inf if left is None else loop.time() + left)

    async def lane(number: int, limit: float | None) -> Attempt | None:
        info = infos[number]
        try:
            return await attempt(info, limit)
        except OSError as error:
            race.failed(number, error, loop.time())
            journal.failed(info[4], error)
        await _turn()
        return None

    try:
        winner = await race_tasks.run(race, lane, lambda late: late.sock.close())
        if winner is None:
            journal.errors = race.failures()
            raise combined_error(journal.errors)
        journal.losers = [infos[number][4] for number in race.running if infos[number][4] is not winner.sockaddr]
        return winner
    finally:
        race.errors.clear()  # as above


async def _turn() -> None:
    """Give the loop a turn after a failure: a refusal on loopback takes no wait, and a bare
    reconnect loop would starve every other task and could not be cancelled.
    """
    await asyncio.sleep(0)


def _known(host: Host, port: Port, target: Target) -> Sequence[AddrInfo]:
    # Which protocols need no resolver is asyncio's rule.
    return numeric(host, port, target.family) if target.proto in (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP) else ()


async def _resolve(
    loop: asyncio.AbstractEventLoop,
    host: Host,
    port: Port,
    target: Target,
    journal: Journal,
    resolver: Resolver | None,
) -> Sequence[AddrInfo]:
    hints = {"family": target.family, "proto": target.proto, "flags": target.flags}
    return await resolve_async(loop, journal, host, port, resolver, **hints)


async def _sources(loop: asyncio.AbstractEventLoop, target: Target, journal: Journal) -> Sequence[AddrInfo]:
    """Return the addresses to dial from."""
    assert target.local_addr is not None
    host, port, *scope = target.local_addr
    infos = _known(host, port, target) or await _resolve(loop, host, port, target, journal, None)
    if scope:  # the flow label and the scope id of an IPv6 source
        infos = [(*info[:4], (*info[4][:2], *scope)) for info in infos]
    return infos


async def _attempt(
    loop: asyncio.AbstractEventLoop,
    settings: Settings,
    sources: Sequence[AddrInfo] | None,
    info: AddrInfo,
    limit: float | None,
) -> Attempt:
    bind = None if sources is None else functools.partial(_bind_one, sources=sources)
    attempt = Attempt(settings, 0, sources[0][4] if sources else None, bind, info)
    try:
        await within(limit, attempt.connect_async(loop))
    except BaseException as error:
        attempt.abandon(error)
        raise
    return attempt


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
    if failure is None:
        failure = OSError(f"no matching local address with family={sock.family!r} found")  # asyncio's words
        failure.add_note(f"safedial: the source address is {', '.join(source[0] for *_, source in sources)}")
    raise failure
