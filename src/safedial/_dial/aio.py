"""The asyncio dial: resolve, race the addresses, run on under the policy."""

import asyncio
import functools
import math
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, TypeAlias

from safedial._address import AddrInfo, Host, Port, SockAddr, interleave, numeric, of_families
from safedial._dial import race_tasks
from safedial._dial.attempt import Attempt
from safedial._dial.outcome import combined_error
from safedial._dial.race import Race
from safedial._dial.record import Record
from safedial._dial.resolve import resolve_async
from safedial._dial.settings import Settings
from safedial._retry.argument import DEFAULT, policy_after
from safedial._tcp.connect import bind_source
from safedial.events import HookError

# Connects to one address within a limit in seconds.
_Attempting: TypeAlias = Callable[[AddrInfo, float | None], Coroutine[Any, Any, Attempt]]


class Target(NamedTuple):
    """The destination, in the terms of asyncio's ``create_connection``."""

    host: Host
    port: Port
    family: int = 0
    proto: int = 0
    flags: int = 0
    local_addr: SockAddr | None = None
    interleave: int | None = None

    @property
    def hints(self) -> dict[str, int]:
        """The keyword arguments of getaddrinfo."""
        return {"family": self.family, "proto": self.proto, "flags": self.flags}


async def dial(settings: Settings, target: Target, *, all_errors: bool) -> socket.socket:
    """Return a connected non-blocking socket; see `safedial.open_connection`.

    On loopback it may never wait. A transport takes a turn of the loop to set up; other callers must give one.
    """
    record = Record(target.host, target.port, settings.on_event, settings.total_timeout)
    once = functools.partial(_round, settings, target, record)
    try:
        try:
            return await once()
        except OSError as error:
            policy = policy_after(settings.policy, error)
            if policy is None:
                raise
            first = error
        from safedial._retry import loop  # late, because it loads tenacity

        try:
            return await loop.rounds(policy, record, first, once, blocking=False)
        finally:
            del first  # its traceback holds this frame: break the cycle
    except OSError as error:
        raise record.outcome(error, all_errors=all_errors)  # noqa: B904  # it is *error*, or has it
    except HookError as hook:
        raise hook.error from None
    finally:
        record.close()


async def _round(settings: Settings, target: Target, record: Record) -> socket.socket:
    """Try every address once: in a race, or one after the other."""
    record.errors = ()
    loop = asyncio.get_running_loop()
    infos = _known(target, target.host, target.port)
    if not infos:
        infos = await resolve_async(loop, record, target.host, target.port, settings.resolver, **target.hints)
    sources = None
    if target.local_addr is not None:
        sources = await _sources(loop, target, record)
        infos = of_families(infos, {source[0] for source in sources}) or infos
    limit = None if settings.timeout is DEFAULT else settings.timeout  # asyncio has no default timeout
    if len(infos) == 1:
        try:
            if settings.total_timeout is not None:
                limit = record.deadline.limit(limit)
            won = await _attempt(loop, settings, sources, infos[0], limit)
        except OSError as error:
            record.errors = [error]
            record.failed(infos[0][4], error)
            raise
    else:
        record.deadline.limit(None)
        # Two sockets can't have one source port at the same time.
        delay = None if sources and sources[0][4][1] else settings.happy_eyeballs_delay
        # asyncio's rule: a race interleaves the addresses, unless the caller says 0.
        infos = interleave(infos, int(delay is not None) if target.interleave is None else target.interleave)
        won = await _first_of(loop, record, infos, functools.partial(_attempt, loop, settings, sources), delay, limit)
    if record.observed:
        try:
            record.connected(won.sockaddr)
        except BaseException:
            won.sock.close()
            raise
    return won.sock


async def _first_of(
    loop: asyncio.AbstractEventLoop,
    record: Record,
    infos: Sequence[AddrInfo],
    attempt: _Attempting,
    delay: float | None,
    limit: float | None,
) -> Attempt:
    """Connect to the address that answers first. Without *delay*, try one after the other."""
    left = record.deadline.cap(None)
    race = Race(len(infos), delay, limit, math.inf if left is None else loop.time() + left)

    async def attempt_numbered(number: int, limit: float | None) -> Attempt | None:
        info = infos[number]
        try:
            return await attempt(info, limit)
        except OSError as error:
            race.failed(number, error, loop.time())
            record.failed(info[4], error)
        return None

    try:
        winner = await race_tasks.run(race, attempt_numbered, lambda late: late.sock.close())
        if winner is None:
            record.errors = race.failures()
            raise combined_error(record.errors)
        record.losers = [infos[number][4] for number in race.running if infos[number][4] is not winner.sockaddr]
        return winner
    finally:
        race.errors.clear()  # their tracebacks hold this frame: break the cycle


def _known(target: Target, host: Host, port: Port) -> Sequence[AddrInfo]:
    infos = numeric(host, port, target.family)
    # asyncio's rule for the protocols that need no resolver.
    return infos if target.proto in (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP) else ()


async def _sources(loop: asyncio.AbstractEventLoop, target: Target, record: Record) -> Sequence[AddrInfo]:
    """Return the source addresses."""
    assert target.local_addr is not None
    host, port, *scope = target.local_addr
    infos = _known(target, host, port) or await resolve_async(loop, record, host, port, None, **target.hints)
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
    try:
        attempt = Attempt(settings, 0, sources[0][4] if sources else None, bind, info)
        await attempt.connect_async(loop, limit)
    except OSError:
        # A refusal on loopback takes no wait. Without a turn of the loop, a bare reconnect loop would starve all
        # other tasks and could not be cancelled.
        await asyncio.sleep(0)
        raise
    return attempt


def _bind_one(sock: socket.socket, sources: Sequence[AddrInfo]) -> None:
    """Bind *sock* to the first of *sources* that has its family and can be bound."""
    failure: OSError | None = None
    for family, _, _, _, source in sources:
        if family != sock.family:
            continue
        try:
            bind_source(sock, source)
        except OSError as error:
            # asyncio's message, because programs match it.
            words = f"error while attempting to bind on address {source!r}: {(error.strerror or str(error)).lower()}"
            failure = OSError(error.errno, words)
        else:
            return
    if failure is None:
        failure = OSError(f"no matching local address with family={sock.family!r} found")  # asyncio's message
        failure.add_note(f"safedial: the source address is {', '.join(source[0] for *_, source in sources)}")
    raise failure
