"""The asyncio dial: resolve, race the addresses, run on under the policy.

If it is cancelled, `Attempt` closes its socket, and `race_tasks` cancels the other attempts and closes late results.
"""

import asyncio
import concurrent.futures.thread  # noqa: F401  # pyright: ignore[reportUnusedImport]  # the first thread would load it
import functools
import math
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from safedial._address import AddrInfo, Host, Port, SockAddr, interleave, numeric, of_families
from safedial._dial import race_tasks
from safedial._dial.attempt import Attempt
from safedial._dial.race import Race
from safedial._dial.record import Record, combined_error
from safedial._dial.replaced import skips_resolver
from safedial._dial.resolve import resolve_async
from safedial._dial.settings import Resolver, Settings
from safedial._dial.socket_class import can_be_nonblocking
from safedial._retry import loop as retry_loop
from safedial._retry.argument import DEFAULT, policy_after
from safedial._steps import clock_of, within
from safedial._tcp.connect import bind_source

# Connects to one address within a limit in seconds.
_Connecting: TypeAlias = Callable[[AddrInfo, float | None], Awaitable[Attempt]]
# The last step of a round: takes over the connected socket, and returns what has a ``close()``.
Handshake: TypeAlias = Callable[[socket.socket], Awaitable[Any]]


class Target(NamedTuple):
    """The destination, in the terms of asyncio's ``create_connection``."""

    host: Host
    port: Port
    family: int = 0
    proto: int = 0
    flags: int = 0
    local_addr: SockAddr | None = None
    interleave: int | None = None


async def dial(settings: Settings, target: Target, *, all_errors: bool, handshake: Handshake | None = None) -> Any:
    """Return a connected non-blocking socket, or what *handshake* makes of it.

    On loopback a dial without a handshake may never wait: let the loop take a turn afterwards.
    """
    record = Record(target.host, target.port, settings.on_event, settings.total_timeout)
    once = functools.partial(one_round, settings, target, record, handshake)
    try:
        try:
            return await once()
        except OSError as error:
            policy = policy_after(settings.policy, error)
            record.asked = policy is not None and settings.policy is not DEFAULT
            if policy is None:
                raise
            rounds = retry_loop.rounds(retry_loop.Retries(policy, record), record, error, once, blocking=False)
        return await rounds  # here, so that *error* is not the context of later errors
    except OSError as error:
        raise record.outcome(error, all_errors=all_errors)  # noqa: B904  # it is *error*, or has it
    finally:
        record.close()


async def one_round(settings: Settings, target: Target, record: Record, handshake: Handshake | None) -> Any:
    """Try every address once, in a race or one after the other; then shake hands with the one that answered."""
    if record.observed:
        record.begin_round()
    loop = asyncio.get_running_loop()
    infos = await _addresses(loop, target, record, target.host, target.port, settings.resolver)
    sources: Sequence[AddrInfo] = ()
    if target.local_addr is not None:
        host, port, *scope = target.local_addr
        sources = await _addresses(loop, target, record, host, port, None)
        if scope:  # the flow label and the scope id of an IPv6 source
            sources = [(*source[:4], (*source[4][:2], *scope)) for source in sources]
        infos = of_families(infos, {source[0] for source in sources}) or infos
    limit = None if settings.timeout is DEFAULT else settings.timeout  # asyncio has no default timeout
    if len(infos) == 1:
        if settings.total_timeout is not None:
            limit = record.deadline.limit(limit)
        try:
            won = await _attempt(loop, settings, record, sources, infos[0], limit)
        except OSError as error:
            record.failed(infos[0][4], error, 0)
            await _turn()
            raise
    else:
        record.deadline.limit(None)
        # Two sockets can't have one source port at the same time.
        alone = (sources and sources[0][4][1]) or not can_be_nonblocking(socket.socket)
        delay = None if alone else settings.happy_eyeballs_delay
        # asyncio's rule: a race interleaves the addresses, unless the caller says 0.
        infos = interleave(infos, int(delay is not None) if target.interleave is None else target.interleave)
        won = await _first_of(record, infos, functools.partial(_attempt, loop, settings, record, sources), delay, limit)
    made: Any = won.sock
    if handshake is not None:
        try:
            made = await within(record.deadline.cap(None), handshake(made))
        except OSError as error:
            number = next(number for number, info in enumerate(infos) if info[4] is won.sockaddr)
            record.failed(won.sockaddr, error, number)
            await _turn()
            raise
    if record.watched:
        record.arrived(made, won.sockaddr)
    return made


async def _first_of(
    record: Record, infos: Sequence[AddrInfo], attempt: _Connecting, delay: float | None, limit: float | None
) -> Attempt:
    """Connect to the address that answers first. Without *delay*, try one after the other."""
    clock = clock_of(asyncio.get_running_loop())
    left = record.deadline.cap(None)
    race = Race(len(infos), delay, limit, math.inf if left is None else clock() + left)

    async def attempt_numbered(number: int, limit: float | None) -> Attempt | None:
        info = infos[number]
        try:
            return await attempt(info, limit)
        except OSError as error:
            race.failed(number, clock())
            record.failed(info[4], error, number)
        await _turn()
        return None

    winner = await race_tasks.run(race, attempt_numbered, lambda late: late.sock.close())
    if winner is None:
        raise combined_error(record.failures)
    record.losers = [infos[number][4] for number in race.running if infos[number][4] is not winner.sockaddr]
    return winner


async def _addresses(
    loop: asyncio.AbstractEventLoop, target: Target, record: Record, host: Host, port: Port, resolver: Resolver | None
) -> Sequence[AddrInfo]:
    infos: Sequence[AddrInfo] = numeric(host, port, target.family)
    if infos and target.proto in (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP):  # asyncio's rule
        if host is not target.host or skips_resolver():
            return infos
        resolver = None
    hints = {"family": target.family, "proto": target.proto, "flags": target.flags}
    watched = record.watched and host is target.host
    if watched:
        record.begins(host)
    infos = await resolve_async(loop, record, host, port, resolver, hints)
    if watched:
        record.resolved()
    return infos


async def _attempt(
    loop: asyncio.AbstractEventLoop,
    settings: Settings,
    record: Record,
    sources: Sequence[AddrInfo],
    info: AddrInfo,
    limit: float | None,
) -> Attempt:
    if record.watched:
        record.begins(info[4])
    source, bind = (sources[0][4], functools.partial(_bind_one, sources=sources)) if sources else (None, None)
    attempt = Attempt(settings, 0, source, bind, info)
    await attempt.connect_async(loop, limit)
    return attempt


async def _turn() -> None:
    """Give the loop a turn after a failure: a refusal on loopback takes no wait, and a bare reconnect loop would starve
    all other tasks and could not be cancelled.
    """
    await asyncio.sleep(0)


def _bind_one(sock: socket.socket, sources: Sequence[AddrInfo]) -> None:
    """Bind *sock* to the first of *sources* that has its family and can be bound."""
    failure: OSError | None = None
    for *_, source in of_families(sources, (sock.family,)):
        try:
            bind_source(sock, source)
            return
        except OSError as error:
            # asyncio's message, because programs match it.
            words = f"error while attempting to bind on address {source!r}: {(error.strerror or str(error)).lower()}"
            failure = OSError(error.errno, words)
    if failure is None:
        failure = OSError(f"no matching local address with family={sock.family!r} found")  # asyncio's message
        failure.add_note(f"safedial: the source address is {', '.join(source[0] for *_, source in sources)}")
    raise failure
