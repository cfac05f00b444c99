"""The blocking dial: resolve, try each address in order, retry under the policy."""

import functools
import socket
from collections.abc import Callable, Sequence

from safedial import connect, ports
from safedial.addresses import AddrInfo, SockAddr, checked
from safedial.errors import last_error
from safedial.events import HookError
from safedial.journal import Journal
from safedial.selfconnect import abandon
from safedial.settings import (
    DEFAULT,
    Settings,
    Timeout,
    check_source,
    checked_timeout,
    policy_after,
)


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
    journal = Journal(host, port, settings.on_event)
    try:
        return _round(settings, journal, known, timeout, source)
    except OSError as error:
        first = error
    except HookError as hook:
        raise hook.error from None
    try:
        once = functools.partial(_round, settings, journal, known, timeout, source)
        return _go_on(settings, journal, first, once)
    except OSError as error:
        raise journal.outcome(error, all_errors=all_errors)  # noqa: B904  # it is *error*, or has it
    except HookError as hook:
        raise hook.error from None
    finally:
        journal.errors = []
        del first  # the traceback holds this frame: break the cycle


def _go_on(settings: Settings, journal: Journal, error: OSError, once: Callable[[], socket.socket]) -> socket.socket:
    """Do what the policy says after the first round failed with *error*."""
    policy = policy_after(settings, error)
    try:
        if policy is None:
            raise error
        from safedial import retrying  # late, as it loads tenacity

        return retrying.dial(policy, journal, error, once)
    finally:
        del error  # as above


def _round(
    settings: Settings,
    journal: Journal,
    known: tuple[AddrInfo, ...],
    timeout: Timeout,
    source: SockAddr | None,
) -> socket.socket:
    """Try every address once, in order. Racing them would begin here."""
    errors: list[OSError] = []
    journal.errors = errors
    try:
        for info in known or _resolve(settings, journal):
            try:
                sock = _attempt(settings, info, timeout, source)
            except OSError as error:
                errors.append(error)
                journal.failed(info[4], error)
                continue
            try:
                journal.connected(info[4])
            except BaseException:
                sock.close()
                raise
            return sock
        raise last_error(errors)
    finally:
        del errors


def _resolve(settings: Settings, journal: Journal) -> Sequence[AddrInfo]:
    host, port = journal.host, journal.port
    try:
        infos = socket.getaddrinfo(host, port, settings.family, socket.SOCK_STREAM)
        if not infos:
            raise OSError("getaddrinfo returns an empty list")
        return infos
    except UnicodeError as error:
        error.add_note(f"safedial: address: {host!r} can't be a host name")
        raise
    except OSError as error:
        journal.unresolved(host, error)
        raise


def _attempt(settings: Settings, info: AddrInfo, timeout: Timeout, source: SockAddr | None) -> socket.socket:
    family, kind, proto, _, sockaddr = info
    guarded = connect.kernel_chooses_port(family, source)
    sock = socket.socket(family, kind, proto)
    try:
        if timeout is not DEFAULT:
            sock.settimeout(timeout)
        for option in settings.socket_options or ():
            sock.setsockopt(*option)
        if source:
            connect.bind_source(sock, source)
        if guarded:
            sides = ports.side_options(sockaddr[1]) if settings.steer else ports.UNSTEERED
            connect.connect(sock, sockaddr, sides)
        else:
            sock.connect(sockaddr)
    except BaseException as error:
        abandon(sock, error, guarded=guarded)
        raise
    return sock
