"""Resolve a host: with the system's resolver, or one that the user gives."""

import functools
import inspect
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from safedial._address import AddrInfo, Host, Port, describe
from safedial._deadline import NO_DEADLINE
from safedial._dial.answers import checked_answer, listed
from safedial._dial.record import Record
from safedial._dial.settings import Resolver
from safedial._steps import within

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


def resolve(record: Record, resolver: Resolver | None, family: int) -> Sequence[AddrInfo]:
    """Return the addresses of the dial's host. Blocks for as long as the resolver does."""
    host, port = record.host, record.port
    infos: Sequence[AddrInfo]
    try:
        if resolver is None:
            infos = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
            if not infos:
                raise OSError("getaddrinfo returns an empty list")
        else:
            answer = resolver(host, port, family=family, type=socket.SOCK_STREAM, proto=0, flags=0)
            if inspect.isawaitable(answer):
                if inspect.iscoroutine(answer):
                    answer.close()
                raise TypeError("resolver: its answer must be awaited, which a blocking dial can't do")
            infos = checked_answer(answer, family)
        if record.deadline is not NO_DEADLINE:
            record.deadline.limit(None)  # the resolver could not be interrupted
    except Exception as error:
        _explain(error, record, host, port, resolver)
        raise
    return infos


async def resolve_async(
    loop: "AbstractEventLoop", record: Record, host: Host, port: Port, resolver: Resolver | None, hints: dict[str, int]
) -> Sequence[AddrInfo]:
    """Return the addresses of *host*. Blocking code runs in a thread. *hints* are getaddrinfo's."""
    try:
        return await within(record.deadline.cap(None), _ask(loop, host, port, resolver, hints))
    except Exception as error:
        _explain(error, record, host, port, resolver)
        raise


async def _ask(
    loop: "AbstractEventLoop", host: Host, port: Port, resolver: Resolver | None, hints: dict[str, int]
) -> Sequence[AddrInfo]:
    if resolver is None:
        infos: Any = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, **hints)
        if not infos:
            raise OSError("getaddrinfo() returned empty list")
        return cast("Sequence[AddrInfo]", infos)
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
        error.add_note(f"safedial: the address {host!r} can't be a host name")
    elif resolver is not None:
        error.add_note(f"safedial: raised by the resolver for {describe(host, port)}")
