"""The blocking dial: resolve, race the addresses, run on under the policy."""

import functools
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from safedial import _clock
from safedial._address import AddrInfo, SockAddr, checked, family_of, interleave, of_families
from safedial._dial import race_sockets, replaced
from safedial._dial.attempt import Attempt
from safedial._dial.race import Race
from safedial._dial.record import Record, last_error
from safedial._dial.resolve import resolve
from safedial._dial.settings import Settings, Timeout
from safedial._dial.socket_class import can_be_nonblocking
from safedial._forks import loading
from safedial._retry.argument import DEFAULT, policy_after
from safedial._steps import finish
from safedial._tcp.connect import bind_source
from safedial.events import logger

_Make: TypeAlias = Callable[[AddrInfo], Attempt]


def dial(
    settings: Settings, address: object, timeout: Timeout, source: SockAddr | None, all_errors: bool
) -> socket.socket:
    """Return a connected socket; see `safedial.safe_connect`. *timeout* and *source* are checked already."""
    host, port, known = checked(address, settings.family)
    record = Record(host, port, settings.on_event, settings.total_timeout)
    try:
        try:
            return _round(settings, record, known, timeout, source)
        except OSError as error:
            policy = policy_after(settings.policy, error)
            record.asked = policy is not None and settings.policy is not DEFAULT
            if policy is None:
                raise
            with loading:  # which loads tenacity
                from safedial._retry import loop

            once = functools.partial(one_round, settings, record, known, timeout, source)
            rounds = loop.rounds(loop.Retries(policy, record), record, error, once, blocking=True)
        return finish(rounds)  # here, so that *error* is not the context of later errors
    except OSError as error:
        raise record.outcome(error, all_errors=all_errors)  # noqa: B904  # it is *error*, or has it
    finally:
        if record.said is not None:  # a failure was recorded; most dials are spared a call
            record.close()


def prepared(address: Any, options: Mapping[str, Any]) -> tuple[Record, Callable[[], Awaitable[socket.socket]]]:
    """Return the record and one round of a dial for `safedial.connections`, with *options* of `safe_connect`."""
    settings = Settings.of("connections", options)
    host, port, known = checked(address, settings.family)
    record = Record(host, port, settings.on_event, settings.total_timeout)
    source = settings.source_address or None
    return record, functools.partial(one_round, settings, record, known, settings.timeout, source)


def _round(
    settings: Settings, record: Record, known: tuple[AddrInfo, ...], timeout: Timeout, source: SockAddr | None
) -> socket.socket:
    """Try every address once: in a race, or one after the other."""
    if record.on_event is not None or record.round > 1 or record.troubled or logger.isEnabledFor(logging.DEBUG):
        record.begin_round()  # is *observed*, spelled out: most dials are spared a call
    watched = record.watched
    infos: Sequence[AddrInfo] = known
    # The comparison spares most dials a call.
    if not infos or (socket.getaddrinfo is not replaced.plain_getaddrinfo and not replaced.skips_resolver()):
        if watched:
            record.begins(record.host)
        infos = resolve(record, None if known else settings.resolver, settings.family)
        if watched:
            record.resolved()
    bind = None
    if source:
        # As asyncio does, leave out the addresses that the source can't reach, unless it can reach none.
        infos = of_families(infos, (family_of(source[0]),)) or infos
        bind = functools.partial(bind_source, source=source)
    limit = socket.getdefaulttimeout() if timeout is DEFAULT else timeout
    if len(infos) == 1:
        if settings.total_timeout is not None:
            limit = record.deadline.limit(limit)
        if watched:
            record.begins(infos[0][4])
        try:
            attempt = Attempt(settings, timeout, source, bind, infos[0])
            attempt.connect(limit)
        except OSError as error:
            record.failed(infos[0][4], error, 0)
            raise
    else:
        record.deadline.limit(None)

        def make(info: AddrInfo) -> Attempt:
            if record.watched:  # not *watched*, of which each dial would make a cell
                record.begins(info[4])
            return Attempt(settings, timeout, source, bind, info)

        # A timeout of 0 is the stdlib's non-blocking connect, which raises EINPROGRESS: nothing to race.
        # Two sockets can't have one source port at the same time.
        alone = limit == 0 or (source and source[1]) or not can_be_nonblocking(socket.socket)
        delay = None if alone else settings.happy_eyeballs_delay
        attempt = _first_of(record, interleave(infos, int(delay is not None)), make, delay, limit)
    if watched:
        record.arrived(attempt.sock, attempt.sockaddr)
    return attempt.sock


async def one_round(settings: Settings, record: Record, *args: Any) -> socket.socket:
    """Do as `_round` does, for the loop that asynchronous dials share."""
    return _round(settings, record, *args)


def _first_of(
    record: Record, infos: Sequence[AddrInfo], make: _Make, delay: float | None, limit: float | None
) -> Attempt:
    """Connect to the address that answers first. Without *delay*, try one after the other."""
    race = Race(len(infos), delay, limit, record.deadline.end)

    def failed(number: int, error: OSError) -> None:
        race.failed(number, _clock.now())
        record.failed(infos[number][4], error, number)

    winner = race_sockets.run(race, lambda number: make(infos[number]), failed, _clock.now)
    if winner is None:
        raise last_error(record.failures)
    record.losers = [infos[number][4] for number in race.running if infos[number][4] is not winner.sockaddr]
    return winner
