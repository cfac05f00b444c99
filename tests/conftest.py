"""Fixtures of all tests. Every test is checked for what it leaves behind."""

import contextlib
import gc
import socket
import threading
import time

import hypothesis
import pytest

import safedial._tcp.destinations
import safedial._tcp.steering
from safedial import _clock, testing
from tests.support import dials, faults, left, namespace

# A busy machine may pause the tests at any moment: no time limits.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


def pytest_configure(config):
    """Give each worker its own network, if it may have one: a storm in one worker uses up the ports of the others."""
    if hasattr(config, "workerinput"):
        with contextlib.suppress(OSError):
            namespace.enter_network()


@pytest.fixture(autouse=True, scope="session")
def _descriptors_that_stay_open():
    for factory in dials.LOOPS.values():
        dials.run(_nothing(), factory)  # uvloop keeps a pipe for its signal handler
    _any_property()  # where CI is set, Hypothesis looks for the generator made here with gc, which a freeze blinds
    gc.collect()
    if hasattr(gc, "freeze"):  # not in PyPy
        gc.freeze()  # excludes the imported modules: with all clients, a collection takes longer than most tests


async def _nothing():
    pass


@hypothesis.given(hypothesis.strategies.none())
def _any_property(_):
    pass


# trio keeps an idle thread for ten seconds.
_KEPT = "Trio thread"


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    before, threads, children = left.open_descriptors(), set(threading.enumerate()), left.children()
    yield
    if left.open_descriptors() != before:
        gc.collect()  # frees cycles; with all clients loaded it takes longer than most tests
    # A thread that was told to end may need a moment. So may one that threading does not know, and its descriptors:
    # grpc's, or that of a look at the settings.
    for _ in range(200):
        running = {each for each in set(threading.enumerate()) - threads if not each.name.startswith(_KEPT)}
        descriptors = left.open_descriptors()
        if not running and descriptors == before:
            break
        time.sleep(0.01)
    assert not running, f"threads left behind: {running}"
    assert descriptors == before, "descriptors left behind"
    assert left.children() <= children, "child processes left behind"
    assert not {"connect", "connect_ex"} & vars(socket.socket).keys(), "the guard, or a fault, is still in place"


@pytest.fixture(autouse=True)
def _steering_state_of_a_new_process(monkeypatch):
    monkeypatch.setattr(safedial._tcp.steering, "_half_in_use", False)
    safedial._tcp.destinations.reached_as_dialed.clear()
    monkeypatch.setattr(safedial._tcp.steering, "_steerable", safedial._tcp.steering.ON_LINUX)
    monkeypatch.setattr(safedial._tcp.steering, "_believed", (0.0, safedial._tcp.steering.read_range()))


@pytest.fixture(autouse=True)
def _clock_of_a_new_process():
    _clock._ahead.set(0.0)  # where fast_retries advanced it, it stays so


@pytest.fixture(params=[True, False], ids=["steered", "unsteered"])
def steer(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["steered", "unsteered"])
def steering(request, monkeypatch):
    """Run with steering, and without it as on older kernels, macOS and Windows."""
    if not request.param:
        monkeypatch.setattr(safedial._tcp.steering, "_steerable", False)
    return request.param


@pytest.fixture(params=dials.DIALS, ids=str)
def dial(request):
    """Each way to dial in turn, as ``dial(host, port, **options)``."""
    return dials.DIALS[request.param]


@pytest.fixture(params=dials.LOOPS, ids=str)
def loop_factory(request):
    return dials.LOOPS[request.param]


@pytest.fixture
def run_alone(pytester, monkeypatch):
    """Run the test files of a user in another process, with no plugin but ours: to load all of them takes seconds."""

    def ran(code, *arguments):
        pytester.makepyfile(code)
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        options = "-W", "error", "-p", "no:cacheprovider", "-p", "safedial.pytest_plugin"
        return pytester.runpytest_subprocess(*options, *arguments)

    return ran


@pytest.fixture
def events():
    """A list to append a dial's events to."""
    return []


@pytest.fixture
def start_server():
    """Make an on_event hook that starts a server on *port* at the first event of *kind*, in *round* or later."""
    with contextlib.ExitStack() as stack:

        def make(port, kind, round=1):  # noqa: A002
            started = []

            def hook(event):
                if not started and event.kind == kind and event.round >= round:
                    started.append(stack.enter_context(faults.listener(port=port)))

            return hook

        yield make


@pytest.fixture
def default_timeout():
    """`socket.setdefaulttimeout`, undone after the test."""
    yield socket.setdefaulttimeout
    socket.setdefaulttimeout(None)


@pytest.fixture
def black_hole():
    """A server that never answers."""
    with faults.full_listener() as listening:
        yield listening


@pytest.fixture
def server():
    with faults.listener(port=testing.dead_port()) as listening:
        yield listening


@pytest.fixture
def outage_at_no_risk(monkeypatch):
    """Give the servers of `assert_resilient` a port that the kernel never draws, so no plain client self-connects."""
    monkeypatch.setattr("safedial.testing.outage.dead_port", lambda host: faults.port_never_drawn())


@pytest.fixture(params=faults.MEANS)
def means(request):
    if request.param == "option":
        faults.require_option()
    return request.param


@pytest.fixture
def force(means):
    """Make the kernel draw a given port for the next connects of this process."""
    with contextlib.ExitStack() as stack:
        yield lambda port, times=None: stack.enter_context(faults.self_connect(means, port, times))
