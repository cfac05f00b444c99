"""Intercepting every TCP ``connect`` of this process, whoever calls it.

Interceptors are nearer to the kernel than the guard, so that a fault defeats steering. Knows no particular fault.
"""

import contextlib
import socket
import weakref
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import TypeAlias

from safedial._address import SockAddr
from safedial._clients import patch
from safedial._clients.layers import Below

Connect: TypeAlias = Callable[[], None]
# Called before each connect, with the socket, the address and a function that really connects. Returns whether it made
# the connect itself. If not, the next interceptor is called, and in the end the kernel.
Interceptor: TypeAlias = Callable[[socket.socket, SockAddr, Connect], bool]

_bypassed: ContextVar[bool] = ContextVar("_bypassed", default=False)


class _User(patch.User):
    def __init__(self, interceptor: Interceptor) -> None:
        self.interceptor = interceptor


# Weak references, so that a fault whose exit was interrupted is over once its object is freed.
_users: list[weakref.ref[_User]] = []


def _interceptors() -> list[Interceptor]:
    return [user.interceptor for user in patch.in_use(_users)]


class _Interception:
    """The layer of all interceptors, the newest first."""

    def wanted(self) -> bool:
        return not _bypassed.get()

    def connect(self, sock: socket.socket, address: SockAddr, below: Below) -> None:
        def connect() -> None:
            below(sock, address)

        if not any(intercept(sock, address, connect) for intercept in reversed(_interceptors())):
            connect()


_layer = _Interception()


@contextlib.contextmanager
def intercepting(interceptor: Interceptor, *, nearest_kernel: bool = False) -> Generator[None]:
    """Call *interceptor* before every TCP connect of this process, in all its threads; before the others, or last."""
    user = _User(interceptor)
    patch.put(_layer, user, nearest_kernel=True)
    try:
        _users.insert(0 if nearest_kernel else len(_users), weakref.ref(user, _users.remove))
        yield
    finally:
        patch.remove(_layer, user)


@contextlib.contextmanager
def bypassing() -> Generator[None]:
    """Let the connects of this thread bypass the interceptors: `safedial.testing` makes some for itself."""
    token = _bypassed.set(True)
    try:
        yield
    finally:
        _bypassed.reset(token)
