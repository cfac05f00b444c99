"""Intercepting every look-up of a host in this process, whoever asks for it. Knows no particular fault.

What is replaced lies beneath `socket.getaddrinfo`. So those who imported that function before are reached, too, as are
asyncio, trio and gevent; and what somebody put in its place stays there. Three come by another way: uvloop, the
*resolver* of a Dialer, and a ``connect()`` with a name.
"""

import _socket
import socket
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any, TypeAlias

from safedial._address import SockAddr, family_of
from safedial._clients import patch
from safedial._clients.attributes import Replacements
from safedial._clients.import_hook import Watch
from safedial._dial import resolve
from safedial.testing.intercept import Connect, intercepting

# Called before each look-up, with the host and the port, both as they came. Returns the host to look up, or raises what
# the look-up raises.
OnLookup: TypeAlias = Callable[[Any, Any], Any]


class _User(patch.User):
    def __init__(self, on_lookup: OnLookup) -> None:
        self.on_lookup = on_lookup


# Weak references, so that a fault whose exit was interrupted is over once its object is freed. What stays in the places
# of the functions then asks nobody, and the next user's end puts everything back.
_users: list[weakref.ref[_User]] = []
_replacements = Replacements()


def _instead_of(host: Any, port: Any) -> Any:
    """Ask all users, the newest first, and return the host to look up."""
    for user in reversed(patch.in_use(_users)):
        host = user.on_lookup(host, port)
    return host


@contextmanager
def intercepting_lookups(on_lookup: OnLookup) -> Generator[None]:
    """Call *on_lookup* before every look-up of this process, in all its threads."""

    def connect(sock: socket.socket, address: SockAddr, _: Connect) -> bool:
        host = address[0]
        if family_of(host) or (instead := on_lookup(host, address[1])) is host:
            return False
        sock.connect((instead, *address[1:]))
        return True

    user = _User(on_lookup)
    try:
        with intercepting(connect):
            with patch.lock:
                _begin(user)
            _watch.look()
            yield
    finally:
        user.open = False
        with patch.lock:
            _end()


def _begin(user: _User) -> None:
    _users.append(weakref.ref(user, _users.remove))
    _replace_all(
        (_socket, "getaddrinfo", _getaddrinfo),
        (socket, "gethostbyname", _gethostbyname),
        (socket, "gethostbyname_ex", _gethostbyname),
        (resolve, "resolver_for", _resolver_for),
    )
    _watch.begin()


def _end() -> None:
    if not patch.in_use(_users):
        _watch.end()
        _replacements.undo()


def _replace_all(*places: tuple[Any, str, Callable[[Any], Any]]) -> None:
    for place in places if patch.in_use(_users) else ():
        _replacements.replace(*place)


def _reach_uvloop(_: str, module: ModuleType) -> None:
    with patch.lock:
        _replace_all(
            (module.Loop, "getaddrinfo", _uvloops_getaddrinfo),
            (module.Loop, "create_connection", _uvloops_create_connection),
        )


_watch = Watch({"uvloop": _reach_uvloop})


# --- what takes the place of each function: *plain*, or what somebody put there ------------------------------


def _getaddrinfo(plain: Any) -> Any:
    def getaddrinfo(host: Any, port: Any, *args: Any, **hints: Any) -> Any:
        flags = args[3] if len(args) > 3 else hints.get("flags", 0)  # family, type, proto, flags
        # trio asks first whether the host is a number.
        return plain(host if flags & socket.AI_NUMERICHOST else _instead_of(host, port), port, *args, **hints)

    return getaddrinfo


def _gethostbyname(plain: Any) -> Any:
    def gethostbyname(host: Any) -> Any:
        return plain(_instead_of(host, None))

    return gethostbyname


def _resolver_for(plain: Any) -> Any:
    def resolver_for(host: Any, resolver: Any) -> Any:
        if (instead := _instead_of(host, None)) is host:
            return plain(host, resolver)

        def resolver_of_this(_: Any, *args: Any, **hints: Any) -> Any:
            return socket.getaddrinfo(instead, *args, **hints)

        return resolver_of_this

    return resolver_for


def _uvloops_getaddrinfo(plain: Any) -> Any:
    async def getaddrinfo(loop: Any, *args: Any, **hints: Any) -> Any:
        return await _getaddrinfo(partial(plain, loop))(*args, **hints)

    return getaddrinfo


def _uvloops_create_connection(plain: Any) -> Any:
    async def create_connection(
        loop: Any, protocol_factory: Any, host: Any = None, port: Any = None, **kwds: Any
    ) -> Any:
        return await plain(loop, protocol_factory, _instead_of(host, port), port, **kwds)  # which looks it up in C

    return create_connection
