"""The blocking dial: resolve, race the addresses, retry under the policy."""

import functools
import socket
import time
from collections.abc import Callable, Sequence

from safedial._address import AddrInfo, SockAddr, checked, describe, family_of, interleave, of_families
from safedial._dial import race_sockets
from safedial._dial.attempt import Attempt
from safedial._dial.outcome import last_error
from safedial._dial.race import Race
from safedial._dial.record import Journal
from safedial._dial.resolve import resolve
from safedial._dial.settings import Settings, Timeout, check_source, checked_timeout
from safedial._retry.argument import DEFAULT, policy_after
from safedial._tcp.connect import bind_source
from safedial.events import HookError


def dial(
    settings: Settings,
    address: object,
    timeout: Timeout,
    source: SockAddr | None,
    *,
    all_errors: bool,
) -> socket.socket:
    """Return a connected socket; `safedial.safe_connect` tells the rest. Arguments are checked."""
    host, port, known = checked(address, settings.family)
    if timeout is not DEFAULT:
        timeout = checked_timeout(timeout)
    if source:
        check_source(source)
    journal = Journal(host, port, settings.on_event, settings.total_timeout)
    first: OSError | None = None
    try:
        try:
            return _round(settings, journal, known, timeout, source)
        except OSError as error:
            first = error
        once = functools.partial(_round, settings, journal, known, timeout, source)
        return _go_on(settings, journal, first, once)
    except OSError as error:
        raise journal.outcome(error, all_errors=all_errors)  # noqa: B904  # it is *error*, or has it
    except HookError as hook:
        raise hook.error from None
    finally:
        journal.close()
        first = None  # its traceback holds this frame: break the cycle


def _go_on(settings: Settings, journal: Journal, error: OSError, once: Callable[[], socket.socket]) -> socket.socket:
    """Do what the policy says after the first round failed with *error*."""
    policy = policy_after(settings.policy, error)
    try:
        if policy is None:
            raise error
        from safedial._retry import loop  # late, as it loads tenacity

        return loop.dial(policy, journal, error, once, OSError)
    finally:
        del error  # as above


def _round(
    settings: Settings,
    journal: Journal,
    known: tuple[AddrInfo, ...],
    timeout: Timeout,
    source: SockAddr | None,
) -> socket.socket:
    """Try every address once: racing, or one after the other."""
    journal.errors = []
    infos = known or resolve(journal, settings.resolver, settings.family)
    if source and (family := family_of(source[0])):
        infos = _of_source(journal, infos, source, family)
    journal.deadline.check()
    limit = socket.getdefaulttimeout() if timeout is DEFAULT else timeout
    bind = functools.partial(bind_source, source=source) if source else None
    make = functools.partial(Attempt, settings, timeout, source, bind)
    if len(infos) == 1:
        attempt = _only(journal, infos[0], make, limit)
    else:
        # 0 is the stdlib's non-blocking connect, which answers EINPROGRESS: there is nothing to race.
        # And two sockets can't have one source port at a time.
        delay = None if limit == 0 or (source and source[1]) else settings.happy_eyeballs_delay
        attempt = _first_of(journal, infos, make, delay, limit)
    try:
        journal.connected(attempt.sockaddr)
    except BaseException:
        attempt.sock.close()
        raise
    return attempt.sock


def _only(journal: Journal, info: AddrInfo, make: Callable[[AddrInfo], Attempt], limit: float | None) -> Attempt:
    """Connect to the one address there is; most dials are such."""
    try:
        attempt = make(info)
        attempt.connect(journal.deadline.cap(limit))
    except OSError as error:
        journal.errors = [error]
        journal.failed(info[4], error)
        raise
    return attempt


def _first_of(
    journal: Journal,
    infos: Sequence[AddrInfo],
    make: Callable[[AddrInfo], Attempt],
    delay: float | None,
    limit: float | None,
) -> Attempt:
    """Connect to the address that answers first; with no *delay*, to the first that answers."""
    if delay is not None:
        infos = interleave(infos, 1)
    race = Race(len(infos), delay, limit, journal.deadline.end)

    def failed(lane: int, error: OSError) -> None:
        race.failed(lane, error, time.monotonic())
        journal.failed(infos[lane][4], error)

    try:
        winner = race_sockets.run(race, lambda lane: make(infos[lane]), failed, time.monotonic)
        if winner is None:
            journal.errors = race.failures()
            raise last_error(journal.errors)
        journal.losers = [infos[lane][4] for lane in race.running if infos[lane][4] is not winner.sockaddr]
        return winner
    finally:
        race.errors.clear()  # their tracebacks hold this frame: break the cycle


def _of_source(journal: Journal, infos: Sequence[AddrInfo], source: SockAddr, family: int) -> Sequence[AddrInfo]:
    """Return those of *infos* that a socket bound to *source* can reach."""
    found = of_families(infos, (family,))
    if not found:
        # bind() would say so of each of them; the words tell whose family is meant.
        code = getattr(socket, "EAI_ADDRFAMILY", socket.EAI_FAMILY)
        words = f"{describe(journal.host, journal.port)} has no address of the family of source_address, {source[0]}"
        error = socket.gaierror(code, f"Address family for hostname not supported: {words}")
        journal.errors = [error]
        journal.failed(infos[0][4], error)
        raise error
    return found
