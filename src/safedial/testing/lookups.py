"""Intercepting every look-up of a host in this process, whoever asks for it. Knows no particular fault.

What is replaced lies beneath `socket.getaddrinfo`. So those who imported that function before are reached, too, as are
asyncio, trio and gevent; and what somebody put in its place stays there. Three come by another way: uvloop, the
*resolver* of a Dialer, and a ``connect()`` with a name.
"""

import _socket
import socket
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType
from typing import Any, TypeAlias

from safedial._address import SockAddr, family_of
from safedial._clients import patch
from safedial._clients.attributes import Replacement
from safedial._clients.import_hook import Watch
from safedial._dial import resolve
from safedial.testing.intercept import Connect, intercepting

# Called before each look-up, with the host and the port, both as they came. Returns the host to look up, or raises what
# the look-up raises.
OnLookup: TypeAlias = Callable[[Any, Any], Any]


@contextmanager
def intercepting_lookups(on_lookup: OnLookup) -> Generator[None]:
    """Call *on_lookup* before every look-up of this process, in all its threads."""

    def connect(sock: socket.socket, address: SockAddr, _: Connect) -> bool:
        host = address[0]
        if family_of(host) or (instead := on_lookup(host, address[1])) is host:
            return False
        sock.connect((instead, *address[1:]))
        return True

    def replace(owner: Any, name: str, made: Callable[[OnLookup, Any], Any]) -> None:
        with patch.lock:
            stack.callback(_undo, Replacement(owner, name, partial(made, on_lookup)))

    def uvloop(_: str, module: ModuleType) -> None:
        replace(module.Loop, "getaddrinfo", _uvloops_getaddrinfo)
        replace(module.Loop, "create_connection", _uvloops_create_connection)

    with ExitStack() as stack, intercepting(connect):
        replace(_socket, "getaddrinfo", _getaddrinfo)
        replace(socket, "gethostbyname", _gethostbyname)
        replace(socket, "gethostbyname_ex", _gethostbyname)
        replace(resolve, "resolver_for", _resolver_for)
        watch = Watch({"uvloop": uvloop})
        stack.callback(watch.end)
        watch.begin()
        watch.look()
        yield


def _undo(replacement: Replacement) -> None:
    with patch.lock:
        replacement.undo()


# --- what takes the place of each function: *plain*, or what somebody put there ------------------------------


def _getaddrinfo(on_lookup: OnLookup, plain: Any) -> Any:
    def getaddrinfo(host: Any, port: Any, *args: Any, **hints: Any) -> Any:
        flags = args[3] if len(args) > 3 else hints.get("flags", 0)  # family, type, proto, flags
        # trio asks first whether the host is a number.
        return plain(host if flags & socket.AI_NUMERICHOST else on_lookup(host, port), port, *args, **hints)

    return getaddrinfo


def _gethostbyname(on_lookup: OnLookup, plain: Any) -> Any:
    def gethostbyname(host: Any) -> Any:
        return plain(on_lookup(host, None))

    return gethostbyname


def _resolver_for(on_lookup: OnLookup, plain: Any) -> Any:
    def resolver_for(host: Any, resolver: Any) -> Any:
        if (instead := on_lookup(host, None)) is host:
            return plain(host, resolver)

        def resolver_of_this(_: Any, *args: Any, **hints: Any) -> Any:
            return socket.getaddrinfo(instead, *args, **hints)

        return resolver_of_this

    return resolver_for


def _uvloops_getaddrinfo(on_lookup: OnLookup, plain: Any) -> Any:
    async def getaddrinfo(loop: Any, *args: Any, **hints: Any) -> Any:
        return await _getaddrinfo(on_lookup, partial(plain, loop))(*args, **hints)

    return getaddrinfo


def _uvloops_create_connection(on_lookup: OnLookup, plain: Any) -> Any:
    async def create_connection(
        loop: Any, protocol_factory: Any, host: Any = None, port: Any = None, **kwds: Any
    ) -> Any:
        return await plain(loop, protocol_factory, on_lookup(host, port), port, **kwds)  # which looks it up in C

    return create_connection
