"""Locks that fork() waits for, and the lock of late imports. Imports nothing of safedial.

A fork copies a lock that another thread holds, and nobody releases it in the child. So it is with Python's own lock of
a module that another thread imports just now: the child would wait for ever when it imports that module. What a dial
needs is therefore loaded with safedial. What is to stay late, because it is heavy and few programs need it (asyncio,
ssl, tenacity), is imported inside ``with loading:``. A module that takes `loading` while it is imported must not be
imported inside of it: a thread that imports the module by a plain ``import`` takes the two locks in reverse order.
"""

import contextlib
import os
import threading

# In the order in which fork() takes them. Code that takes several must take them in this order, too: `loading` first,
# because what is imported may take others, then from the newest to the oldest.
_locks: list[threading.RLock] = []
_taken: list[threading.RLock] = []


def lock_held_across_forks() -> threading.RLock:
    """Return a lock that fork() waits for: in the child, its data is whole and nobody holds it."""
    lock = threading.RLock()
    _locks.insert(1, lock)
    return lock


def _take_all() -> None:
    for lock in tuple(_locks):
        _taken.append(lock)  # first: a signal handler may raise at any moment
        lock.acquire()


def _release_all() -> None:
    # From a copy: once `loading` is free, another thread may fork.
    taken = _taken[:]
    _taken.clear()
    for lock in reversed(taken):
        with contextlib.suppress(RuntimeError):  # it was not taken
            lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_take_all, after_in_parent=_release_all, after_in_child=_release_all)
    # Once more: a signal that came during the fork is handled as the first call begins. If its handler raises, Python
    # drops the exception, and that call did nothing.
    os.register_at_fork(after_in_parent=_release_all, after_in_child=_release_all)

loading = lock_held_across_forks()
