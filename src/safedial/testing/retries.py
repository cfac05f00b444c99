"""tenacity's waits: recorded instead of slept, or watched.

What is replaced of tenacity's does nothing by itself: it asks for the users there are. They are referred to weakly. So
if an interrupt ends a function here half-way, what is left is harmless, and the next use puts it in order.
"""

import contextlib
import functools
import types
import weakref
from collections.abc import Callable, Generator
from typing import Any

from safedial import _clock
from safedial._clients import patch
from safedial._forks import loading, lock_held_across_forks
from safedial.testing.manager import managed

_lock = lock_held_across_forks()


class _User(patch.User):
    """Who is told of waits. If he is *fast*, none is slept."""

    def __init__(self, callback: Callable[[float], object], *, fast: bool) -> None:
        self.callback, self.fast = callback, fast


_users: list[weakref.ref[_User]] = []


def are_fast() -> bool:
    """Return whether `fast_retries` is active."""
    return any(user.fast for user in patch.in_use(_users))


@managed
def fast_retries() -> Generator[list[float]]:
    """Make every tenacity policy of this process go on without sleeping, in sync and async code.

    Yield the list of the waits that were not slept, in seconds. Policies and the time limits of dials count each wait
    as if it had been slept: ``reconnect(within=60)`` gives up at once, after its dozen rounds. Dials in other threads
    and tasks each have their own time. The clock of your own code is real. A policy's own sleep function is called
    with 0.
    """
    waits: list[float] = []
    with _using(_User(waits.append, fast=True)):
        yield waits


@contextlib.contextmanager
def watching_waits(callback: Callable[[float], object]) -> Generator[None]:
    """Call *callback* with the seconds of each wait of a tenacity policy in this process, as it begins."""
    with _using(_User(callback, fast=False)):
        yield


@contextlib.contextmanager
def _using(user: _User) -> Generator[None]:
    with loading:  # late: a program that tests no retries need not load it
        import tenacity
    try:
        with _lock:
            if not patch.in_use(_users):
                _replace_all(tenacity)
            _users.append(weakref.ref(user, _users.remove))
        yield
    finally:
        user.open = False
        with _lock:
            if not patch.in_use(_users):
                _put_all_back(tenacity)


class _Replaced:
    """One attribute of tenacity's, and what *make* makes of it in its place."""

    def __init__(self, owner: Any, name: str, make: "Callable[[_Replaced, Any], Any]") -> None:
        self.plain, self._name = getattr(owner, name), name
        self.made = make(self, self.plain)
        self.made._replaced = self  # for _ours
        _newest[name] = self
        setattr(owner, name, self.made)

    @property
    def counts(self) -> bool:
        """Whether this is the newest in its place: old ones may lie below, with something else between."""
        return _newest[self._name] is self


_newest: dict[str, _Replaced] = {}


def _ours(standing: Any) -> _Replaced | None:
    """Return what made *standing*, None if it is not ours. functools.wraps() and subclasses copy the attribute."""
    replaced = getattr(standing, "_replaced", None)
    return replaced if isinstance(replaced, _Replaced) and replaced.made is standing else None


# Functions of their own: CPython 3.13 leaves the lock taken if a signal interrupts a loop that stands right in `with`.
def _replace_all(tenacity: Any) -> None:
    _Replaced(tenacity.RetryCallState, "prepare_for_next_attempt", _telling)
    _Replaced(tenacity, "DoSleep", _unslept)
    _Replaced(tenacity, "time", _TenacitysTime)


def _put_all_back(tenacity: Any) -> None:
    """Put back what stood there, below old ones too, which an interrupt left, or somebody has put back since.

    If somebody has put something on top of ours, both stay, and ours does nothing.
    """
    places = (tenacity.RetryCallState, "prepare_for_next_attempt"), (tenacity, "DoSleep"), (tenacity, "time")
    for owner, name in places:
        while (replaced := _ours(getattr(owner, name))) is not None:
            setattr(owner, name, replaced.plain)


def _telling(replaced: _Replaced, plain: Any) -> Any:
    """Return *plain*, the last that a loop calls before a wait, so that it tells of the wait."""

    @functools.wraps(plain)
    def prepare_for_next_attempt(self: Any) -> None:
        plain(self)
        users = patch.in_use(_users) if replaced.counts else []
        for user in users:
            user.callback(float(self.upcoming_sleep))
        if any(user.fast for user in users):
            _clock.advance(float(self.upcoming_sleep))

    return prepare_for_next_attempt


def _unslept(_: _Replaced, plain: Any) -> Any:
    """Return a class whose instances, of which a policy yields one for each wait, are 0."""

    def new(cls: Any, seconds: float) -> Any:
        return plain.__new__(cls, 0.0 if are_fast() else seconds)

    return type("Unslept", (plain,), {"__new__": new})


class _TenacitysTime(types.ModuleType):
    """The module time as tenacity sees it while waits are not slept."""

    def __init__(self, _: _Replaced, plain: Any) -> None:
        super().__init__("time")
        self._plain = plain

    def monotonic(self) -> float:
        now: float = _clock.now() if are_fast() else self._plain.monotonic()
        return now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)
