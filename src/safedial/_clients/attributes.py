"""Attributes of other people's modules and classes, replaced for a while: by `install`, as long as it is in force."""

import functools
from collections.abc import Callable
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


_replacements: "list[Replacement]" = []


def put_back() -> None:
    """Undo each `replace`. Called once `install` is no longer in force."""
    with patch.lock:
        _undo_all()


def replace(places: tuple[Place, ...], name: str, module: ModuleType) -> None:
    """Replace the attributes at *places* of *module*, unless they are replaced, or `install` is over."""
    try:
        with patch.lock:
            _replace_all(places if is_installed() else (), module)
    except (AttributeError, TypeError):  # it is gone, or a type of C's
        driver = name.partition(".")[0]
        warn("install() does not reach this version of %s: hold the port: safedial.hold()", driver)


# Functions of their own: CPython 3.13 leaves the lock taken if a signal interrupts a loop that stands right in `with`.
def _undo_all() -> None:
    while _replacements:
        _replacements.pop().undo()


def _replace_all(places: tuple[Place, ...], module: ModuleType) -> None:
    for place in places:
        *parents, attribute = place.path.split(".")
        owner: Any = functools.reduce(getattr, parents, module)
        if all(each.method is not getattr(owner, attribute) for each in _replacements):
            _replacements.append(Replacement(owner, attribute, place.made))


class Replacement:
    """One replaced attribute, until `undo`."""

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
        setattr(owner, name, self.method)

    def undo(self) -> None:
        """Put back what stood there before."""
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
        while isinstance(old := getattr(self._plain, "_replacement", None), Replacement):
            if old.method is not self._plain or old._now is not old._plain:
                break  # functools.wraps() copied the attribute, or it is in force
            self._plain, self._inherited = old._plain, old._inherited
