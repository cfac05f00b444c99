"""Interrupts at every instant: by a trace or profile function that raises, and by the recursion limit."""

import contextlib
import gc
import signal
import sys

from safedial import _forks


class Interrupt(BaseException):
    """Raised where a signal handler, a debugger or Ctrl-C could raise."""


def interrupt_each(act, setter, after):
    """Call *act* again and again, interrupted at its first event, its second, and so on, until it comes through.

    *setter* is `sys.settrace` or `sys.setprofile`. After each interrupt, *after* is called. Return how many there were.
    """
    number = 0
    while _interrupted(act, setter, number):
        number += 1
        gc.collect()  # frames that the exception held
        after()
    return number


def _is_of_lock(code):
    return code.co_name == "__enter__" and code.co_filename == _forks.__file__


def _interrupted(act, setter, number):
    events = 0
    before = sys.gettrace() if setter is sys.settrace else sys.getprofile()  # coverage's

    def trace(frame, event, arg):
        nonlocal events
        if frame.f_code in (act.__code__, _interrupted.__code__):
            return trace
        # Signals can't prevent the call that releases a lock; a trace function could, at the line of its `with`. Nor do
        # they come between the call that takes it and the block: that call has events from Python 3.14 on.
        if event == "line" or (event == "c_call" and arg.__name__ == "__exit__"):
            return trace
        if (event == "c_return" and arg.__name__ == "__enter__") or (event == "return" and _is_of_lock(frame.f_code)):
            return trace
        events += 1
        if events == number + 1:
            raise Interrupt
        return trace

    try:
        setter(trace)
        try:
            act()
        finally:
            setter(before)
    except Interrupt:
        return True
    return False


def interrupt_by_signals(act, after, times, delays):
    """Call *act* *times*, with a signal after the next of *delays*, whose handler raises. Return how often it did.

    After every twentieth call, *after* is called.
    """

    def ring(*_):
        raise Interrupt

    interrupted, before = 0, signal.signal(signal.SIGALRM, ring)
    try:
        for turn in range(times):
            try:
                signal.setitimer(signal.ITIMER_REAL, delays[turn % len(delays)])
                try:
                    act()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                interrupted += 1
            if turn % 20 == 0:
                after()
    finally:
        signal.signal(signal.SIGALRM, before)
    return interrupted


def exhaust_stack(act, after, most=120):
    """Call *act* with room for one call, for two, and so on. Return how often the room was too small."""
    before, failed = sys.getrecursionlimit(), 0
    depth = 0
    frame = sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    for room in range(1, most):
        try:
            sys.setrecursionlimit(depth + room)
            act()
        except RecursionError:
            failed += 1
        finally:
            with contextlib.suppress(RecursionError):
                sys.setrecursionlimit(before)
        gc.collect()
        after()
    return failed
