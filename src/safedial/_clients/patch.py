"""The one place that replaces ``connect`` and ``connect_ex`` of socket classes, as long as a layer has a user.

All Python clients end up there: blocking ones, asyncio's, trio's, those behind TLS. C libraries don't.

An interrupt (a signal handler that raises, the recursion limit) may end any function here half-way. So there are no
counters: `put` and `renew` make sure that everything is in place, whatever was left over. `remove` takes everything
away if nobody needs it. An interrupt can leave a method behind, which passes all connects on until the next of these
calls.
"""

import _socket
import socket
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from safedial._clients.layers import Layer, above, code_through, marked, tcp_address, through
from safedial._forks import lock_held_across_forks


class User:
    """Somebody who needs a layer. He counts as long as he is open and not freed; this module refers to him weakly."""

    open = True


# The layers from the program down to the kernel.
_layers: tuple[Layer, ...] = ()
_users: dict[Layer, set[weakref.ref[User]]] = {}
_patches: "dict[tuple[type[Any], str], _Patch]" = {}
lock = lock_held_across_forks()


def put(layer: Layer, user: User, *, nearest_kernel: bool = False) -> None:
    """Put *layer* above all others, or below them, for *user*."""
    global _layers
    with lock:
        users = _users.setdefault(layer, set())
        users.add(weakref.ref(user, users.discard))
        if layer not in _layers:
            _layers = (*_layers, layer) if nearest_kernel else (layer, *_layers)
        try:
            renew()
        except BaseException:
            remove(layer, user)
            raise


def remove(layer: Layer, user: User) -> None:
    """Undo `put`. After the last user of *layer*, it is gone."""
    global _layers
    user.open = False
    with lock:
        _users[layer].discard(weakref.ref(user))
        _layers = tuple(each for each in _layers if _is_used(each))
        while _patches and not _layers:
            key, patch = next(reversed(_patches.items()))
            patch.undo()
            del _patches[key]


def renew() -> None:
    """Make sure that the methods are replaced, if there is a layer.

    Somebody may have restored them, as pytest-socket does after each test, or may have put another class in
    `socket.socket`'s place, as gevent does.
    """
    with lock:
        for owner in _owners() if _layers else ():
            for name in ("connect", "connect_ex"):
                if (owner, name) not in _patches and _found(owner, name) is not None:
                    _patches[owner, name] = _Patch(owner, name)
                if patch := _patches.get((owner, name)):
                    patch.put()


def _is_used(layer: Layer) -> bool:
    users = _users[layer]
    while ref := next(iter(users), None):  # not a loop over the set, from which the garbage collector may remove users
        user = ref()
        if user is not None and user.open:
            return True
        users.discard(ref)
    return False


def _is_stdlibs(kind: type[Any]) -> bool:
    return (kind.__module__, kind.__name__) == ("socket", "socket")


# `socket.socket` itself may be a mock now.
_STDLIBS: type[Any] = next(filter(_is_stdlibs, _socket.socket.__subclasses__()), socket.socket)


def _owners() -> tuple[type[Any], ...]:
    """Return the classes whose methods are replaced: the stdlib's, and one in its place that is not made from it.

    A mock or a function in its place makes no connects. A subclass connects by the stdlib's method.
    """
    standing: Any = socket.socket
    if not issubclass(type(standing), type) or issubclass(standing, _STDLIBS):
        return (_STDLIBS,)
    return (_STDLIBS, standing)


def _found(owner: type[Any], name: str) -> Any:
    """Return what stands in the class now, such as a staticmethod, which getattr() would unpack; None if nothing."""
    for each in owner.__mro__:
        if name in each.__dict__:
            return each.__dict__[name]
    return None


class _Patch:
    """One method of one class, replaced until `undo`."""

    def __init__(self, owner: type[Any], name: str) -> None:
        self._owner, self._name, self._inherited = owner, name, name not in vars(owner)
        self._below: Any = _found(self._owner, self._name)
        inert = getattr(self._below, "_patch", None)
        if isinstance(inert, _Patch) and inert._method is self._below:
            self._below = inert._below  # an old patch of ours that somebody put back: one is enough
        self._active = True
        self._method: Callable[..., Any] = self._made()

    def put(self) -> None:
        self._active = True
        if _found(self._owner, self._name) is not self._below:
            return  # it is in place, or somebody patched on top of it
        try:
            setattr(self._owner, self._name, self._method)
        except (AttributeError, TypeError) as error:
            raise TypeError(
                f"socket.socket is {self._owner!r} now, whose {self._name}() can't be replaced, so it can't be "
                "guarded: put Python's own socket.socket back"
            ) from error

    def undo(self) -> None:
        # If somebody patched on top of it, it stays there and does nothing.
        if _found(self._owner, self._name) is self._method:
            if self._inherited:
                delattr(self._owner, self._name)
            else:
                setattr(self._owner, self._name, self._below)
        self._active = False

    def _made(self) -> Callable[..., Any]:
        plain: Any = self._below
        kind = cast("type[object]", type(plain))
        if issubclass(kind, staticmethod | classmethod) or not hasattr(kind, "__get__"):
            plain = partial(_called_without_sock, getattr(self._owner, self._name))  # such as a mock
        below: Any = plain if self._owner is _STDLIBS else partial(marked, plain)
        carry: Any = through if self._name == "connect" else code_through

        def connecting(sock: socket.socket, address: Any, /) -> Any:
            # Keep this short: connects that no layer wants pay for it too.
            layers = _layers if self._active else ()
            for layer in layers:
                if layer.wanted() and (known := tcp_address(sock, address)) is not None:
                    if known == above.get():
                        break
                    if len(layers) == 1 and carry is through:
                        return layer.connect(sock, known, below)
                    return carry(layers, below, sock, known)
            return plain(sock, address)

        def connecting_somehow(sock: socket.socket, *args: Any, **kwds: Any) -> Any:
            return plain(sock, *args, **kwds) if kwds or len(args) != 1 else connecting(sock, *args)

        method = connecting if self._owner is _STDLIBS else connecting_somehow
        method._patch = self  # type: ignore[attr-defined]  # for __init__, which looks for old patches
        return method


def _called_without_sock(function: Any, _: socket.socket, *args: Any, **kwds: Any) -> Any:
    return function(*args, **kwds)
