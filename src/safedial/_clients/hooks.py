"""Attributes of other people's modules and classes, replaced for as long as `install` is in force."""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from safedial._clients import patch
from safedial.events import logger


class Place(NamedTuple):
    """An attribute to replace.

    Attributes:
        owner: returns the object that has it, or inherits it, for the module that was imported.
        name: its name.
        made: returns what takes the place of the function that it gets. That does nothing of its own unless `active`.
    """

    owner: Callable[[Any], Any]
    name: str
    made: Callable[[Any], Any]


_active = False
_hooks: "list[_Hook]" = []


def active() -> bool:
    """Return whether `install` is in force. A hook may outlive it, below what somebody else put there."""
    return _active


def begin() -> None:
    """Let `hook` replace attributes from now on."""
    global _active
    with patch.lock:
        _active = True


def end() -> None:
    """Put back everything that `hook` replaced."""
    global _active
    with patch.lock:
        _active = False
        for each in _hooks:
            each.undo()
        _hooks.clear()


def hook(module: ModuleType, places: tuple[Place, ...]) -> None:
    """Replace the attributes at *places*, unless they are replaced."""
    with patch.lock:
        for place in places if _active else ():
            try:
                owner = place.owner(module)
                known = next((each for each in _hooks if each.owner is owner and each.name == place.name), None)
                if known is None:
                    _hooks.append(_Hook(owner, place))
                else:
                    known.renew()
            except AttributeError:
                said = "install() does not know this version of %s, and does not reach it: use safedial.hold()"
                logger.warning(said, module.__name__.partition(".")[0])


class _Hook:
    """One replaced attribute."""

    def __init__(self, owner: Any, place: Place) -> None:
        self.owner, self.name = owner, place.name
        self._inherited = place.name not in vars(owner)
        plain = getattr(owner, place.name)
        # Is it an old hook of ours, which somebody put back? One is enough. functools.wraps() copies the attribute.
        old = getattr(plain, "_safedial", None)
        self._plain: Any = old._plain if isinstance(old, _Hook) and old._hook is plain else plain
        hook: Any = functools.wraps(self._plain)(place.made(self._plain))
        hook._safedial = self
        self._hook = hook
        setattr(owner, place.name, self._hook)

    def renew(self) -> None:
        if getattr(self.owner, self.name) is self._plain:
            setattr(self.owner, self.name, self._hook)

    def undo(self) -> None:
        if getattr(self.owner, self.name) is not self._hook:
            return  # somebody patched on top of it: it stays, and does nothing
        if self._inherited:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self._plain)
