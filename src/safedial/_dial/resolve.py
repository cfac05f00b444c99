"""Asking for the addresses of a host: the system's resolver, or one that the user brings."""

import contextlib
import functools
import inspect
import socket
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from safedial._address import AddrInfo, Host, Port, describe
from safedial._deadline import within
from safedial._dial.answers import answered, listed
from safedial._dial.record import Journal
from safedial._dial.settings import Resolver

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


def resolve(journal: Journal, resolver: Resolver | None, family: int) -> Sequence[AddrInfo]:
    """Return the addresses of the dial's host. Blocks for as long as the resolver does."""
    host, port = journal.host, journal.port
    with _told(journal, host, port, resolver):
        infos: Sequence[AddrInfo]
        if resolver is None:
            infos = _some(
                socket.getaddrinfo(host, port, family, socket.SOCK_STREAM), "getaddrinfo returns an empty list"
            )
        else:
            answer = resolver(host, port, family=family, type=socket.SOCK_STREAM, proto=0, flags=0)
            if inspect.isawaitable(answer):
                if inspect.iscoroutine(answer):
                    answer.close()
                raise TypeError("resolver: this one must be awaited; a blocking dial can't wait for it")
            infos = _some(answered(answer, family), _NO_ADDRESS)
        journal.deadline.check()  # it could not be interrupted
        return infos


async def resolve_async(
    loop: "AbstractEventLoop", journal: Journal, host: Host, port: Port, resolver: Resolver | None, **hints: int
) -> Sequence[AddrInfo]:
    """Return the addresses of *host*; what blocks runs in a thread. *hints* are getaddrinfo's."""
    with _told(journal, host, port, resolver):
        return await within(
            journal.deadline.cap(None), _ask(loop, host, port, resolver, {**hints, "type": socket.SOCK_STREAM})
        )


async def _ask(
    loop: "AbstractEventLoop", host: Host, port: Port, resolver: Resolver | None, hints: dict[str, int]
) -> Sequence[AddrInfo]:
    if resolver is None:
        infos: Any = await loop.getaddrinfo(host, port, **hints)
        return _some(infos, "getaddrinfo() returned empty list")
    ask = functools.partial(resolver, host, port, **hints)
    if inspect.iscoroutinefunction(resolver):
        answer: Any = ask()
    else:
        answer = await loop.run_in_executor(None, _in_thread, ask)
    if inspect.isawaitable(answer):
        answer = await answer
    return _some(answered(answer, hints["family"]), _NO_ADDRESS)


def _in_thread(ask: Callable[[], Any]) -> Any:
    try:
        answer = ask()
        # A generator is run here too.
        return answer if inspect.isawaitable(answer) else listed(answer)
    except StopIteration as error:
        # A future can't have it: before Python 3.12, asyncio waits for ever.
        raise RuntimeError("the resolver raised StopIteration") from error


_NO_ADDRESS = "the resolver returned no address"


def _some(infos: Sequence[AddrInfo], complaint: str) -> Sequence[AddrInfo]:
    if not infos:
        raise OSError(complaint)
    return infos


@contextlib.contextmanager
def _told(journal: Journal, host: Host, port: Port, resolver: Resolver | None) -> Generator[None]:
    """Keep and tell what goes wrong, whosever fault it is."""
    try:
        yield
    except OSError as error:
        journal.unresolved(host, error)
        raise
    except UnicodeError as error:
        error.add_note(f"safedial: the address {host!r} can't be a host name")
        raise
    except Exception as error:
        if resolver is not None:
            error.add_note(f"safedial: this is what the resolver made of {describe(host, port)}")
        raise
