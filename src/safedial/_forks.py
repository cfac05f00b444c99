"""Locks that fork() waits for, and the lock of late imports. Imports nothing of safedial.

A fork copies a lock that another thread holds, and nobody releases it in the child. So it is with Python's own lock of
a module that another thread imports just now: the child would wait for ever when it imports that module. All that is
imported after ``import safedial`` is therefore imported inside ``with loading:``: each public name with what its dials
need; and what is heavy and seldom needed (asyncio, ssl, tenacity) when it is. A module that takes `loading` while it is
imported must not be imported inside of it: a thread that imports the module by a plain ``import`` takes the two locks
in reverse order. `safedial.adapters` is such a module. So a child that is forked while another thread loads it for the
first time must not use it: load it before.
"""

import contextlib
import logging as logging  # before register_at_fork(): see there
import os
import sys
import threading
from typing import Any


class _Lock(threading.RLock().__class__):  # type: ignore[misc]  # a function, for type checkers
    """An RLock for Python 3.14, which runs signal handlers after the ``__enter__`` of a lock and before the block.

    If a handler raises there, the lock is never released. Here it comes inside of `try`, and after a method that is
    written in Python none comes. Python 3.13 and 3.15 run none between ``__enter__`` and the block.
    """

    def __enter__(self) -> bool:
        lock: Any = self  # type checkers don't know _recursion_count()
        before = lock._recursion_count()
        try:
            return bool(self.acquire())
        except BaseException:
            if lock._recursion_count() > before:
                self.release()
            raise


# In the order in which fork() takes them. Code that takes several must take them in this order, too: `loading` first,
# because what is imported may take others, then from the newest to the oldest.
_locks: list[threading.RLock] = []


def lock_held_across_forks() -> threading.RLock:
    """Return a lock that fork() waits for: in the child, its data is whole and nobody holds it."""
    lock = _Lock() if sys.version_info[:2] == (3, 14) else threading.RLock()
    _locks.insert(1, lock)
    return lock


class _Forking(threading.local):
    """What this thread has taken to fork. Several threads may fork at once."""

    def __init__(self) -> None:
        self.taken: list[threading.RLock] = []


_forking = _Forking()


def _take_all() -> None:
    for lock in _locks:  # no copy: whoever has `loading`, the first, may be making others
        _forking.taken.append(lock)  # before the next line: a signal handler may raise at any moment
        lock.acquire()


def _release_all() -> None:
    taken = _forking.taken[:]
    _forking.taken.clear()
    for lock in reversed(taken):
        with contextlib.suppress(RuntimeError):  # it was not taken
            lock.release()


# fork() takes the lock of logging, too, and before these if logging were loaded later than this module. But what is
# imported inside of `loading` makes its logger there.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_take_all, after_in_parent=_release_all, after_in_child=_release_all)
    # Once more: a signal that came during the fork is handled as the first call begins. If its handler raises, Python
    # drops the exception, and that call did nothing.
    os.register_at_fork(after_in_parent=_release_all, after_in_child=_release_all)

loading = lock_held_across_forks()
