"""A thread that tries again: a port that a server has on all addresses can be held once the server has gone."""

import os
import threading
import weakref
from collections.abc import Callable

# Seconds between two tries, which cost a thousandth of a processor.
_PAUSE = 0.25
_running: "weakref.WeakSet[Repeating]" = weakref.WeakSet()


class Repeating:
    """Calls *again* in a thread until it returns False, its object is freed, or `end` is called."""

    def __init__(self, again: Callable[[], bool]) -> None:
        # Weak, so an object whose exit was interrupted is freed, with its sockets, and ends this thread.
        self._again = weakref.WeakMethod(again)
        self._over = threading.Lock()  # not an Event: its inner lock may be taken in a forked child
        self._over.acquire()
        self.start()
        _running.add(self)

    def start(self) -> None:
        """Start the thread, in a forked child once more."""
        self._thread = threading.Thread(target=self._run, name="safedial.hold", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (again := self._again()) is not None and again():
            del again
            if self._over.acquire(timeout=_PAUSE):
                return

    def end(self) -> None:
        """End the thread, and wait until it has ended."""
        _running.discard(self)
        self._over.release()
        self._thread.join()


def _start_in_child() -> None:
    for each in list(_running):
        each.start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_in_child)
