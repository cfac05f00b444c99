"""Resolve a host: with the system's resolver, or one that the user gives and whose answer is checked."""

import encodings.idna  # noqa: F401  # pyright: ignore[reportUnusedImport]  # the first name would load it
import functools
import inspect
import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from safedial._address import AddrInfo, Host, Port, describe, shown, worded
from safedial._dial import seen
from safedial._dial.record import Record
from safedial._dial.settings import Resolver
from safedial._steps import within
from safedial.events import log

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

# The largest port, flow label (RFC 8200 section 6) and scope id of a socket address.
_LARGEST = {socket.AF_INET: (2**16 - 1,), socket.AF_INET6: (2**16 - 1, 2**20 - 1, 2**32 - 1)}
_LARGEST_INT = 2**31 - 1
# Addresses of a name that are used. More would only make each round longer; the answer comes from outside.
MOST_ADDRESSES = 100


def resolver_for(_host: Host, resolver: Resolver) -> Resolver:
    """Return the user's *resolver*. `name_failure` puts a function in this place that may return another one."""
    return resolver


def resolve(record: Record, resolver: Resolver | None, family: int) -> Sequence[AddrInfo]:
    """Return the addresses of the dial's host. Blocks for as long as the resolver does."""
    host, port = record.host, record.port
    try:
        if resolver is None:
            infos: Sequence[AddrInfo] = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
            if not infos:
                raise OSError("getaddrinfo returns an empty list")
        else:
            ask = resolver_for(host, resolver)
            answer = ask(host, port, family=family, type=socket.SOCK_STREAM, proto=0, flags=0)
            if inspect.isawaitable(answer):
                if inspect.iscoroutine(answer):
                    answer.close()
                raise TypeError("resolver: its answer must be awaited, which a blocking dial can't do")
            infos = checked_answer(answer, family)
        infos = _bounded(infos, host, port)
        seen.remember((host, family))
        record.deadline.limit(None)  # the resolver could not be interrupted
    except Exception as error:
        seen.mark(error, (host, family))
        _explain(error, record, host, port, resolver)
        raise
    return infos


async def resolve_async(
    loop: "AbstractEventLoop", record: Record, host: Host, port: Port, resolver: Resolver | None, hints: dict[str, int]
) -> Sequence[AddrInfo]:
    """Return the addresses of *host*. Blocking code runs in a thread. *hints* are getaddrinfo's."""
    key = host, hints["family"]
    try:
        infos = await within(record.deadline.cap(None), _ask(loop, host, port, resolver, hints))
    except Exception as error:
        seen.mark(error, key)
        _explain(error, record, host, port, resolver)
        raise
    seen.remember(key)
    return _bounded(infos, host, port)


async def _ask(
    loop: "AbstractEventLoop", host: Host, port: Port, resolver: Resolver | None, hints: dict[str, int]
) -> Sequence[AddrInfo]:
    if resolver is None:
        infos: Sequence[AddrInfo] = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, **hints)
        if not infos:
            raise OSError("getaddrinfo() returned empty list")
        return infos
    resolver = resolver_for(host, resolver)
    ask = functools.partial(resolver, host, port, type=socket.SOCK_STREAM, **hints)
    answer: Any = ask() if inspect.iscoroutinefunction(resolver) else await loop.run_in_executor(None, _in_thread, ask)
    if inspect.isawaitable(answer):
        answer = await answer
    return checked_answer(answer, hints["family"])


def _in_thread(ask: Callable[[], Any]) -> Any:
    try:
        answer = ask()
        return answer if inspect.isawaitable(answer) else listed(answer)  # a generator runs in the thread too
    except StopIteration as error:
        # A Future can't hold StopIteration: before Python 3.12, asyncio waits for ever.
        raise RuntimeError("the resolver raised StopIteration") from error


def _explain(error: Exception, record: Record, host: Host, port: Port, resolver: Resolver | None) -> None:
    """Record a failed resolution; add a note to an exception that ends the dial."""
    if isinstance(error, OSError):
        record.failed(host, error)
    elif isinstance(error, UnicodeError):
        error.add_note(f"safedial: the address {worded(host)} can't be a host name")
    elif resolver is not None:
        error.add_note(f"safedial: raised by the resolver for {describe(host, port)}")


def listed(answer: Any) -> list[Any]:
    """Return *answer* as a list, or raise TypeError naming the resolver."""
    if isinstance(answer, str | bytes) or not hasattr(answer, "__iter__"):
        raise TypeError(f"resolver must return a list of 5-tuples, as getaddrinfo() does, not {shown(answer)}")
    return list(answer)


def checked_answer(answer: Any, family: int) -> Sequence[AddrInfo]:
    """Return the addresses in *answer* that have *family*; all of them for 0. Raises OSError if there are none.

    Raises TypeError or ValueError naming the resolver if an address could not be dialed.
    """
    infos = listed(answer)
    usable: list[AddrInfo] = []
    for info in infos:
        if len(usable) > MOST_ADDRESSES:
            break  # the rest is not used
        try:
            valid = _can_be_dialed(*info)
        except (TypeError, ValueError, AttributeError, KeyError, OSError):
            valid = False
        if not valid:
            raise ValueError(
                f"resolver must return (family, SOCK_STREAM, proto, canonname, (address, port, ...)), not {shown(info)}"
            )
        if family in (0, info[0]):
            usable.append(info)
    if not usable:
        raise OSError("the resolver returned no address")
    return usable


def _bounded(infos: Sequence[AddrInfo], host: Host, port: Port) -> Sequence[AddrInfo]:
    """Return the first addresses of *infos*, at most `MOST_ADDRESSES`."""
    if len(infos) <= MOST_ADDRESSES:
        return infos
    template = "%s: only the first %d addresses are used of those that the resolver returned"
    log(logging.DEBUG, template, describe(host, port), MOST_ADDRESSES)
    return infos[:MOST_ADDRESSES]


def _can_be_dialed(family: Any, kind: Any, proto: Any, _canonname: Any, sockaddr: Any) -> bool:
    host, *numbers = sockaddr
    largest = _LARGEST[family]
    address, _, zone = host.partition("%")  # as in fe80::1%eth0
    socket.inet_pton(family, address)
    if zone and not zone.isdigit():
        socket.if_nametoindex(zone)  # connect() would ask the DNS for an unknown name
    return (
        isinstance(sockaddr, tuple)
        and not (zone and family == socket.AF_INET)
        and kind == socket.SOCK_STREAM
        and 1 <= len(numbers) <= len(largest)
        and all(map(_fits, (kind, proto, *numbers), (_LARGEST_INT, _LARGEST_INT, *largest)))
    )


def _fits(number: Any, largest: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= largest
