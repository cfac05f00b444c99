"""Attributes of other people's modules and classes, replaced for a while: by `install`, and by `safedial.testing`."""

import contextlib
import functools
from collections.abc import Callable, Generator
from types import ModuleType
from typing import Any, NamedTuple, cast

from safedial._clients import patch
from safedial._clients.guard import is_installed
from safedial.events import warn


class Place(NamedTuple):
    """An attribute to replace.

    Attributes:
        path: its name in the module, such as ``Connection.__init__``.
        made: returns what takes the place of the function that it gets.
    """

    path: str
    made: Callable[[Any], Any]


def put_back() -> None:
    """Undo each `replace`. Called once `install` is no longer in force."""
    with patch.lock:
        _replacements.undo()


def replace(places: tuple[Place, ...], name: str, module: ModuleType) -> None:
    """Replace the attributes at *places* of *module*, unless they are replaced, or `install` is over."""
    try:
        with patch.lock:
            # A function of its own: CPython 3.13 leaves the lock taken if a signal interrupts a loop right in `with`.
            _replace_all(places if is_installed() else (), module)
    except (AttributeError, TypeError):  # it is gone, or a type of C's
        driver = name.partition(".")[0]
        warn("install() does not reach this version of %s: hold the port: safedial.hold()", driver)


def _replace_all(places: tuple[Place, ...], module: ModuleType) -> None:
    for place in places:
        *parents, attribute = place.path.split(".")
        _replacements.replace(functools.reduce(getattr, parents, module), attribute, place.made)


class Replacements:
    """Attributes that are replaced until `undo`.

    Call both methods with `patch.lock` held. An interrupt may end either half-way: the next `undo` puts back the rest.
    """

    def __init__(self) -> None:
        self._all: list[_Replacement] = []

    def __bool__(self) -> bool:
        return bool(self._all)

    def replace(self, owner: Any, name: str, made: Callable[[Any], Any]) -> None:
        """Replace the attribute *name* of *owner* by what *made* returns for it, unless it is replaced."""
        if all(each.method is not getattr(owner, name) for each in self._all):
            new = _Replacement(owner, name, made)
            self._all.append(new)  # first: it may be there without being in force, but not the other way round
            new.put()

    def undo(self) -> None:
        """Put back what stood there before."""
        while self._all:
            self._all[-1].undo()
            del self._all[-1]


@contextlib.contextmanager
def replacing(owner: Any, name: str, made: Callable[[Any], Any]) -> Generator[None]:
    """Replace the attribute *name* of *owner* by what *made* returns for it, during the block."""
    replacements = Replacements()
    try:
        with patch.lock:
            replacements.replace(owner, name, made)
        yield
    finally:
        with patch.lock:
            replacements.undo()


_replacements = Replacements()


class _Replacement:
    """One attribute, replaced from `put` until `undo`."""

    def __init__(self, owner: Any, name: str, made: Callable[[Any], Any]) -> None:
        self._owner, self._name, self._inherited = owner, name, name not in vars(owner)
        self._plain: Any = getattr(owner, name)
        self._look_through()
        self._now: Any = made(self._plain)

        @functools.wraps(self._plain)
        def method(*args: Any, **kwds: Any) -> Any:
            return self._now(*args, **kwds)

        self.method: Any = cast("Any", method)
        self.method._replacement = self

    def put(self) -> None:
        setattr(self._owner, self._name, self.method)

    def undo(self) -> None:
        """Put back what stood there before. It may be called again."""
        self._look_through()
        self._now = self._plain
        if getattr(self._owner, self._name, None) is not self.method:
            return  # gone, or somebody patched on top of it: that stays, and does nothing
        if self._inherited:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._plain)

    def _look_through(self) -> None:
        """Skip old methods of ours below: something lay on top when they were undone, or somebody put them back."""
        while isinstance(old := getattr(self._plain, "_replacement", None), _Replacement):
            if old.method is not self._plain or old._now is not old._plain:
                break  # functools.wraps() copied the attribute, or it is in force
            self._plain, self._inherited = old._plain, old._inherited
