"""Threads that run at once, without the GIL where there is a build: what they share is right, and nothing is left."""

import contextvars
import random
import socket
import subprocess
import sys
import sysconfig
import threading

import pytest

import safedial
from safedial import events
from safedial._clients import attributes, elsewhere, guard, install, patch
from tests.support import faults

HOST = "127.0.0.1"
THREADS = 8


def has_gil():
    return getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.fixture(autouse=True)
def _threads_change_often():
    """Without the GIL they run at once, and this would only slow them down."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6 if has_gil() else before)
    yield
    sys.setswitchinterval(before)


def in_threads(act):
    """Call *act* with a random.Random of its own in each of 8 threads, all at once. Return what was raised."""
    start, raised = threading.Barrier(THREADS), []

    def run(number):
        start.wait()
        try:
            act(random.Random(number))
        except Exception as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return raised


def assert_nothing_is_left():
    assert "connect" not in vars(socket.socket), "still replaced"
    assert "connect_ex" not in vars(socket.socket), "still replaced"
    assert patch._layers == ()
    assert not patch._is_used(guard._layer)
    assert not patch._replaced
    assert not elsewhere._entered
    assert not attributes._replacements
    assert install._watch not in sys.meta_path
    assert safedial.is_guarded() is None


@pytest.fixture
def acts(dead_port):
    """What the threads do: each guards, dials or holds. Nobody listens, so no connection is left in TIME_WAIT."""
    dead = HOST, dead_port
    dialer = safedial.Dialer(timeout=5)
    one, other = safedial.guard(), safedial.guard()
    connect = safedial.wrap(socket.create_connection, policy=None)
    hold = safedial.hold(dead)

    def by_dialer():
        with pytest.raises(ConnectionRefusedError):
            dialer.dial(dead)

    def guarded():
        with one:
            assert safedial.is_guarded() == "guard"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(dead)

    def left_in_another_context():
        contextvars.copy_context().run(other.__enter__)
        contextvars.copy_context().run(other.__exit__, None, None, None)

    def wrapped():
        with pytest.raises(ConnectionRefusedError):
            connect(dead)

    def held():
        with hold:
            pass

    def installed():
        safedial.install(hold=[dead])
        safedial.uninstall()

    return [by_dialer, guarded, left_in_another_context, wrapped, held, installed]


@pytest.mark.parametrize("rounds", [10, pytest.param(400, marks=pytest.mark.storm)])
def test_threads_guard_and_dial_at_once(acts, rounds, dead_port):
    def act(draw):
        for _ in range(rounds):
            for each in draw.sample(acts, len(acts)):
                each()

    assert in_threads(act) == []
    safedial.uninstall()
    assert_nothing_is_left()
    faults.assert_server_can_bind(HOST, dead_port)


@pytest.mark.parametrize("rounds", [50, pytest.param(5000, marks=pytest.mark.storm)])
def test_guard_that_many_threads_share_in_other_contexts(rounds):
    one = safedial.guard()

    def act(draw):
        for _ in range(rounds):
            contextvars.copy_context().run(one.__enter__)
            contextvars.copy_context().run(one.__exit__, None, None, None)

    assert in_threads(act) == []
    assert not one._entries
    assert_nothing_is_left()


@pytest.mark.parametrize("rounds", [5, pytest.param(200, marks=pytest.mark.storm)])
def test_install_and_uninstall_at_once(rounds, dead_port):
    """Each is one step: afterwards all is there, or nothing."""
    calls = [lambda: safedial.install(hold=[(HOST, dead_port)]), safedial.uninstall]

    def act(draw):
        for _ in range(10):
            draw.choice(calls)()

    for number in range(rounds):
        assert in_threads(act) == []
        whole = safedial.is_guarded() == "install"
        assert (install._watch in sys.meta_path) == whole, number
        assert bool(install._held._exit_callbacks) == bool(install._addresses) == whole, number
    safedial.uninstall()
    assert_nothing_is_left()
    faults.assert_server_can_bind(HOST, dead_port)


@pytest.mark.parametrize("lines", [500, pytest.param(200_000, marks=pytest.mark.storm)])
def test_one_thread_alone_is_the_first(lines):
    seen, firsts = {}, []
    assert in_threads(lambda _: firsts.append(sum(events.is_first(seen, line) for line in range(lines)))) == []
    assert sum(firsts) == lines


FIRST_USE = """
import operator, sys, threading

names = sys.argv[1].split()
sys.setswitchinterval(float(sys.argv[2]))
start, found, raised = threading.Barrier(8), [], []

def use(number):
    import safedial
    start.wait()
    try:
        each = names[number % 3:] + names[:number % 3]
        values = {name: operator.attrgetter(name)(safedial) for name in each}
        found.append([values[name] for name in names])
    except BaseException as error:
        raised.append(error)

threads = [threading.Thread(target=use, args=(number,), daemon=True) for number in range(8)]
for each in threads:
    each.start()
for each in threads:
    each.join(60)
    assert not each.is_alive(), "it hangs"
assert not raised, raised
assert all(a is b for values in found for a, b in zip(values, found[0])), "two objects for one name"
"""
NAMES = [*safedial.__all__, "errors", "events", "adapters.socket", "adapters.http", "adapters.asyncio", "adapters"]


@pytest.mark.parametrize("processes", [1, pytest.param(20, marks=pytest.mark.storm)])
def test_first_use_of_each_name_in_all_threads(processes):
    for _ in range(processes):
        subprocess.run(
            [sys.executable, "-c", FIRST_USE, " ".join(NAMES), str(sys.getswitchinterval())], check=True, timeout=120
        )


# At the end of an import, the module is out of sys.modules for a moment.
LOADED_AGAIN = """
import sys, threading
import safedial

adapters, over, raised = safedial.adapters, threading.Event(), []

def use():
    while not over.is_set():
        try:
            adapters.__getattr__("socket")
        except BaseException as error:
            raised.append(error)

threads = [threading.Thread(target=use, daemon=True) for _ in range(3)]
for each in threads:
    each.start()
for _ in range(100):
    adapters.__getattr__("socket")
    del sys.modules["safedial.adapters.socket"]
over.set()
for each in threads:
    each.join(60)
    assert not each.is_alive(), "it hangs"
assert not raised, raised
"""


def test_adapter_is_used_while_another_thread_loads_it():
    """Without the GIL, find_spec() raised KeyError here; with it, this can't fail."""
    subprocess.run([sys.executable, "-c", LOADED_AGAIN], check=True, timeout=120)


# Whether threads inherit the context: an option from Python 3.14 on. Before, they do not.
INHERITS = """
import threading, time
import safedial

found = []
go_on = threading.Event()

def look():
    found.append(safedial.is_guarded())
    go_on.wait()
    found.append(safedial.is_guarded())

with safedial.guard():
    thread = threading.Thread(target=look)
    thread.start()
    while not found:
        time.sleep(0.001)
go_on.set()
thread.join()
print(*found)
"""
_OPTIONS = [[], *([["-X", f"thread_inherit_context={on}"] for on in (0, 1)] if sys.version_info >= (3, 14) else [])]


@pytest.mark.parametrize("options", _OPTIONS, ids=" ".join)
def test_thread_is_inside_if_it_inherits_the_context(options):
    inherits = options[-1].endswith("1") if options else getattr(sys.flags, "thread_inherit_context", 0)
    done = subprocess.run(
        [sys.executable, *options, "-c", INHERITS], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout.split() == ["guard" if inherits else "None", "None"]


def test_no_gil_on_a_build_without_it():
    """An extension module may have switched it on: then these tests have shown nothing."""
    assert not (sysconfig.get_config_var("Py_GIL_DISABLED") and has_gil())
