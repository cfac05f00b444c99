"""Every test is checked for what it leaves behind: descriptors, threads, child processes."""

import contextlib
import gc
import threading
import time

import hypothesis
import pytest

import safedial._tcp.steering
from safedial import testing
from tests.support import dials, faults, left, namespace

# A busy machine may pause any example.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


def pytest_configure(config):
    """Give each worker a network of its own, where this may be: one's storms use up the other's ports."""
    if hasattr(config, "workerinput"):
        with contextlib.suppress(OSError):
            namespace.enter_network()


@pytest.fixture(autouse=True, scope="session")
def _descriptors_that_live_as_long_as_the_process():
    for factory in dials.LOOPS.values():
        dials.run(_nothing(), factory)  # uvloop keeps a pipe for its signal handler
    gc.collect()
    gc.freeze()  # what has been imported: with all clients, a collection takes longer than most tests


async def _nothing():
    pass


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    before, threads, children = left.open_descriptors(), set(threading.enumerate()), left.children()
    yield
    if left.open_descriptors() != before:
        gc.collect()  # what a cycle holds; it takes longer than most tests, with all clients loaded
    for _ in range(100):  # a thread that was told to end may need a moment
        running = set(threading.enumerate()) - threads
        if not running:
            break
        time.sleep(0.01)
    assert not running, f"threads left behind: {running}"
    assert left.open_descriptors() == before, "descriptors left behind"
    assert left.children() <= children, "child processes left behind"


@pytest.fixture(autouse=True)
def _steering_as_the_kernel_has_it(monkeypatch):
    monkeypatch.setattr(safedial._tcp.steering, "_steerable", safedial._tcp.steering.ON_LINUX)
    monkeypatch.setattr(safedial._tcp.steering, "_believed", (0.0, None))


@pytest.fixture(params=[True, False], ids=["steered", "unsteered"])
def steer(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["steered", "unsteered"])
def steering(request, monkeypatch):
    """What the kernel can, and what an older one, macOS and Windows can't."""
    if not request.param:
        monkeypatch.setattr(safedial._tcp.steering, "_steerable", False)
    return request.param


@pytest.fixture(params=dials.DIALS, ids=str)
def dial(request):
    """Each name of safedial in turn, as ``dial(host, port, **options)``."""
    return dials.DIALS[request.param]


@pytest.fixture(params=dials.LOOPS, ids=str)
def loop_factory(request):
    return dials.LOOPS[request.param]


@pytest.fixture
def server():
    with faults.listener(port=testing.dead_port()) as listening:
        yield listening


@pytest.fixture
def outage_at_no_risk(monkeypatch):
    """For a plain client in `assert_resilient`: its server goes away from a port that the kernel never draws."""
    monkeypatch.setattr("safedial.testing.outage.dead_port", lambda host: faults.port_never_drawn())


@pytest.fixture(params=faults.MEANS)
def means(request):
    if request.param == "option" and not faults.kernel_steers():
        pytest.skip("this kernel has no IP_LOCAL_PORT_RANGE (Linux 6.3)")
    return request.param


@pytest.fixture
def force(means):
    """Make the kernel draw a given port for the next connects of anything in this process."""
    with contextlib.ExitStack() as stack:
        yield lambda port, times=None: stack.enter_context(faults.self_connect(means, port, times))
