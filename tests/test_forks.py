"""A child that is forked while a thread makes the first dial of the process does not hang."""

import ast
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import safedial
from safedial import _forks
from tests.support import faults, interrupts, namespace

KINDS = ["success", "refused", "self_connect", "guard", "wrap", "dial_async", "reconnect"]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")


def hung(kind, children):
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.forked", kind, str(children)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("kind", ["self_connect", "dial_async"])
def test_child_forked_during_the_first_dial_does_not_hang(kind):
    assert hung(kind, 3) == 0


@pytest.mark.storm
@pytest.mark.parametrize("kind", KINDS)
def test_none_of_200_children_hangs(kind):
    assert sum(hung(kind, 6) for _ in range(5)) == 0


SLOW_IMPORT = """
import asyncio, sys, threading, time
import safedial

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "safedial.adapters":
            began.set()
            time.sleep(0.3)

began = threading.Event()
sys.meta_path.insert(0, Slow())
threads = [threading.Thread(target=lambda: __import__("safedial.adapters"), daemon=True)]
threads += [threading.Thread(target=lambda: began.wait() and safedial.adapters, daemon=True)]
for each in threads:
    each.start()
for each in threads:
    each.join(20)
    assert not each.is_alive()
"""


def test_threads_that_load_the_adapters_in_two_ways_do_not_hang():
    subprocess.run([sys.executable, "-c", SLOW_IMPORT], check=True, timeout=60)


class Imports(ast.NodeVisitor):
    """Finds the imports in functions that are not inside ``with loading:``."""

    def __init__(self):
        self.depth, self.found = 0, []

    def visit_FunctionDef(self, node):  # ast's name
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815  # ast's name

    def visit_With(self, node):  # ast's name
        if not any(
            isinstance(each.context_expr, ast.Name) and each.context_expr.id == "loading" for each in node.items
        ):
            self.generic_visit(node)

    def visit_Import(self, node):  # ast's name
        if self.depth:
            self.found.append(node.lineno)

    visit_ImportFrom = visit_Import  # noqa: N815  # ast's name


# An address of psycopg's is looked for with psycopg's own module, which it has loaded.
ALLOWED = {"drivers.py"}


def test_late_imports_are_made_under_the_lock_that_fork_waits_for():
    root = Path(safedial.__file__).parent
    files = [
        *root.glob("*.py"),
        *(file for part in ("_tcp", "_retry", "_dial", "_clients") for file in (root / part).rglob("*.py")),
    ]
    late = {}
    for file in files:
        visitor = Imports()
        visitor.visit(ast.parse(file.read_text()))
        if visitor.found and file.name not in ALLOWED and file.name != "pytest_plugin.py":
            late[file.name] = visitor.found
    assert late == {}


def test_fork_takes_the_locks_in_the_order_that_code_does():
    # What is imported late may take the other locks, and these are taken from the newest to the oldest.
    assert _forks._locks[0] is _forks.loading
    newest = _forks.lock_held_across_forks()
    try:
        assert _forks._locks[:2] == [_forks.loading, newest]
    finally:
        _forks._locks.remove(newest)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # what is tested: it is safe here
def test_fork_waits_for_a_late_import(request):
    held, done = threading.Event(), threading.Event()

    def load():
        with _forks.loading:
            held.set()
            done.wait(10)

    thread = threading.Thread(target=load)
    thread.start()
    held.wait()
    threading.Timer(0.02, done.set).start()
    pid = os.fork()
    if not pid:
        os._exit(0 if _forks.loading.acquire(blocking=False) and done.is_set() else 1)
    assert os.waitpid(pid, 0)[1] == 0
    thread.join()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # what is tested: it is safe here
def test_fork_waits_for_a_lock_that_a_late_import_makes():
    held, locks = threading.Event(), []

    def load_and_use():
        with _forks.loading:
            held.set()
            time.sleep(0.05)  # the fork has begun
            locks.append(_forks.lock_held_across_forks())
            locks[0].acquire()
        time.sleep(0.02)
        locks[0].release()

    thread = threading.Thread(target=load_and_use)
    thread.start()
    held.wait()
    pid = os.fork()
    if not pid:
        os._exit(0 if locks[0].acquire(blocking=False) else 1)
    thread.join()
    _forks._locks.remove(locks[0])
    assert os.waitpid(pid, 0)[1] == 0


LOGGER = """
import logging, os, threading, time
import safedial
from safedial import _forks

def load():
    with _forks.loading:
        held.set()
        time.sleep(0.1)  # the fork has begun
        logging.getLogger("of a module that is imported late")

held = threading.Event()
threading.Thread(target=load).start()
held.wait()
pid = os.fork()
if not pid:
    os._exit(0)
os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("first", ["logging", "safedial"])
def test_late_import_that_makes_a_logger_does_not_hang_a_fork(first):
    code = f"import {first}\n{LOGGER}"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


class AlarmError(Exception):
    """Raised by a signal handler."""


def locks_are_free():
    """Return whether another thread can take the locks that fork() waits for."""
    found = []

    def take():
        for lock in _forks._locks:
            found.append(lock.acquire(timeout=1))
            if found[-1]:
                lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    for lock, free in zip(_forks._locks, found, strict=True):
        if not free:
            lock.release()  # for the next turn
    return all(found)


def fork_under_an_alarm(seconds):
    """Fork while a signal handler raises. Return whether the locks are free afterwards."""
    with contextlib.suppress(AlarmError):
        signal.setitimer(signal.ITIMER_REAL, seconds)
        if not (child := os.fork()):
            os._exit(0)
        os.waitpid(child, 0)
        time.sleep(0.001)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return locks_are_free()


def forks_under_an_alarm(times):
    def ring(*args):
        raise AlarmError

    signal.signal(signal.SIGALRM, ring)
    sys.unraisablehook = lambda unraisable: None  # what a handler raises inside of fork() is dropped
    return sum(fork_under_an_alarm(turn % 40 * 1e-5 + 5e-6) for turn in range(times))


@pytest.mark.storm
@faults.forks_among_threads
def test_signal_during_a_fork_leaves_the_locks_free():
    """Nearly always: one that comes between two instructions of the hooks themselves can still take one."""
    assert namespace.call_outside(forks_under_an_alarm, 60) >= 50


@pytest.fixture
def interrupting():
    """Whether the handler of SIGALRM raises."""
    raising = threading.Event()

    def handle(*_):
        if raising.is_set():
            raising.clear()  # the exception is lost if the collector of garbage runs just now
            raise interrupts.Interrupt

    before = signal.signal(signal.SIGALRM, handle)
    yield raising
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_lock_is_free_after_a_signal_whose_handler_raised(interrupting):
    """Python 3.14 leaves other locks taken: a third of the signals in this loop."""
    lock = _forks.lock_held_across_forks()

    def use():
        with lock:
            pass

    def use_until_interrupted():  # a function: in a loop of a `with` statement, 3.13 lets an exception pass by
        while interrupting.is_set():
            use()

    try:
        for number in range(200):
            with contextlib.suppress(interrupts.Interrupt):
                interrupting.set()
                # Once more after a second: Python 3.11 may miss a signal.
                signal.setitimer(signal.ITIMER_REAL, (5 + number % 20) * 1e-6, 1)
                use_until_interrupted()
            assert not lock._is_owned(), number
    finally:
        _forks._locks.remove(lock)


def test_lock_whose_taking_is_interrupted_is_released():
    class Interrupted:
        """A lock that a signal handler interrupts as soon as it is taken."""

        def __init__(self):
            self.lock = threading.RLock()

        def acquire(self):
            self.lock.acquire()
            raise interrupts.Interrupt

        def release(self):
            self.lock.release()

    interrupted = Interrupted()
    _forks._locks.append(interrupted)
    try:
        with pytest.raises(interrupts.Interrupt):
            _forks._take_all()
        _forks._release_all()
    finally:
        _forks._locks.remove(interrupted)
    assert not interrupted.lock._is_owned()
    assert locks_are_free()


def test_threads_that_fork_at_once_leave_the_locks_free():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKING], timeout=60, check=False)
    assert done.returncode == 0


FORKING = """
import os, sys, threading
import safedial
from safedial import _forks

def fork():
    for _ in range(30):
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)

sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=fork, daemon=True) for _ in range(4)]
for each in threads:
    each.start()
for each in threads:
    each.join(20)
os._exit(not all(lock.acquire(timeout=1) for lock in _forks._locks))
"""
