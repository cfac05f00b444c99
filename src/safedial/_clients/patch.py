"""The one place that replaces ``connect`` and ``connect_ex`` of socket classes, as long as a layer has a user.

All Python clients end up there: blocking ones, asyncio's, trio's, those behind TLS. C libraries don't.

An interrupt (a signal handler that raises, the recursion limit) may end any function here half-way. So there are no
counters: `put` and `renew` make sure that everything is in place, whatever was left over. `remove` takes everything
away if nobody needs it. An interrupt can leave a method behind, which passes all connects on until the next of these
calls.
"""

import _socket
import socket
import sys
import types
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

from safedial._clients.layers import Layer, above, code_through, marked, tcp_address, through
from safedial._forks import lock_held_across_forks


class User:
    """Somebody who needs a layer. He counts as long as he is open and not freed; this module refers to him weakly."""

    open = True


U = TypeVar("U", bound=User)


def in_use(users: list[weakref.ref[U]]) -> list[U]:
    """Return those of *users* that are open and not freed."""
    return [user for ref in tuple(users) if (user := ref()) is not None and user.open]


# The layers from the program down to the kernel.
_layers: tuple[Layer, ...] = ()
_users: dict[Layer, set[weakref.ref[User]]] = {}
# The classes and the names of their methods that are replaced.
_replaced: dict[tuple[type[Any], str], None] = {}
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
        if not _layers:
            _put_all_back()


def renew() -> None:
    """Make sure that the methods are replaced, if there is a layer.

    Somebody may have put back what he had found before ours, as mocks and pytest-socket do, or may have put another
    class in `socket.socket`'s place, as gevent does. If a function of his stands there that calls ours, no harm is
    done: ours is put on top of it, and the lower one passes the connect on.
    """
    with lock:
        _replace_all()


def replacement() -> Any:
    """Return what took the place of the stdlib's own ``connect`` or ``connect_ex`` before ours did, None if nothing."""
    for name in _NAMES:
        patch = _patch_of(_found(_STDLIBS, name))
        if patch is not None and not _is_the_kernels(patch.below):
            return patch.below
    return None


def _is_used(layer: Layer) -> bool:
    users = _users[layer]
    for ref in users.copy():  # the garbage collector may remove users from the set, in another thread, too
        user = ref()
        if user is not None and user.open:
            return True
        users.discard(ref)
    return False


def _is_stdlibs(kind: type[Any]) -> bool:
    return (kind.__module__, kind.__name__) == ("socket", "socket")


_NAMES = ("connect", "connect_ex")
_NOTHING: Any = object()
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


def _methods() -> "list[tuple[type[Any], str]]":
    return [(owner, name) for owner in _owners() for name in _NAMES]


def _found(owner: type[Any], name: str) -> Any:
    """Return what stands in the class now, such as a staticmethod, which getattr() would unpack; None if nothing."""
    for each in owner.__mro__:
        found = each.__dict__.get(name, _NOTHING)  # one look: another thread may put the method back
        if found is not _NOTHING:
            return found
    return None


def _is_the_kernels(standing: Any) -> bool:
    """Return whether *standing* is a method of a class of C, as the stdlib's own is. A mock's ``__class__`` may lie."""
    return type(standing) is types.MethodDescriptorType


def _is_mock(standing: Any) -> bool:
    mock = sys.modules.get("unittest.mock")
    return mock is not None and isinstance(getattr(standing, "mock", standing), mock.NonCallableMock)  # or autospec's


def _patch_of(standing: Any) -> "_Patch | None":
    """Return the patch whose method is *standing*, None if it is not ours. functools.wraps() copies the attribute."""
    patch = getattr(standing, "_patch", None)
    return patch if isinstance(patch, _Patch) and patch.method is standing else None


# Functions of their own: CPython 3.13 leaves the lock taken if a signal interrupts a loop that stands right in `with`.
def _replace_all() -> None:
    for key in _methods() if _layers else ():
        standing = _found(*key)
        # A mock that came after ours connects nothing, and its test looks at it.
        if standing is None or (key in _replaced and _is_mock(standing)):
            continue
        _replaced[key] = None
        if _patch_of(standing) is None:
            _Patch(*key).put()


def _put_all_back() -> None:
    while _replaced:
        key = next(reversed(_replaced))
        _put_back(*key)
        del _replaced[key]


def _put_back(owner: type[Any], name: str) -> None:
    """Put back what stood there before ours. If somebody patched on top of it, it stays there and does nothing."""
    while (patch := _patch_of(_found(owner, name))) is not None and patch.owner is owner:
        patch.undo()


class _Patch:
    """One method of one class, replaced on top of what stands there now, until `undo`."""

    def __init__(self, owner: type[Any], name: str) -> None:
        self.owner, self._name, self._inherited = owner, name, name not in vars(owner)
        self.below: Any = _found(owner, name)
        self.method: Callable[..., Any] = self._made()

    def put(self) -> None:
        try:
            setattr(self.owner, self._name, self.method)
        except (AttributeError, TypeError) as error:
            raise TypeError(
                f"socket.socket is {self.owner!r} now, whose {self._name}() can't be replaced, so it can't be "
                "guarded: put Python's own socket.socket back"
            ) from error

    def undo(self) -> None:
        if self._inherited:
            delattr(self.owner, self._name)
        else:
            setattr(self.owner, self._name, self.below)

    def _made(self) -> Callable[..., Any]:
        plain: Any = self.below
        kind = cast("type[object]", type(plain))
        if issubclass(kind, staticmethod | classmethod) or not hasattr(kind, "__get__"):
            plain = partial(_called_without_sock, getattr(self.owner, self._name))  # such as a mock
        below: Any = plain if _is_the_kernels(plain) else partial(marked, plain)
        carry: Any = through if self._name == "connect" else code_through

        def connecting(sock: socket.socket, address: Any, /) -> Any:
            # Keep this short: connects that no layer wants pay for it too.
            layers = _layers
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

        method = connecting if self.owner is _STDLIBS else connecting_somehow
        method._patch = self  # type: ignore[attr-defined]  # for _patch_of
        return method


def _called_without_sock(function: Any, _: socket.socket, *args: Any, **kwds: Any) -> Any:
    return function(*args, **kwds)
