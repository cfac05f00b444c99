"""Every test is checked for what it leaves behind: descriptors, threads, child processes."""

import contextlib
import gc
import os
import threading
import time
from pathlib import Path

import hypothesis
import pytest

import safedial.ports
from safedial import testing
from tests.support import faces, faults, namespace

# A busy machine may pause any example.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")

_FDS = Path("/proc/self/fd")


def pytest_configure(config):
    """Give each worker a network of its own, where this may be: one's storms use up the other's ports."""
    if hasattr(config, "workerinput"):
        with contextlib.suppress(OSError):
            namespace.enter_network()


def open_descriptors() -> dict[str, str]:
    found = {}
    for entry in _FDS.iterdir() if _FDS.exists() else ():
        try:
            found[entry.name] = os.readlink(entry)
        except OSError:
            continue  # the listing's own descriptor
    return {fd: target for fd, target in found.items() if not target.startswith("/proc/")}


def _children() -> set[str]:
    listing = Path(f"/proc/self/task/{os.getpid()}/children")
    return set(listing.read_text().split()) if listing.exists() else set()


@pytest.fixture(autouse=True, scope="session")
def _descriptors_that_live_as_long_as_the_process():
    for factory in faces.LOOPS.values():
        faces.run(_nothing(), factory)  # uvloop keeps a pipe for its signal handler
    gc.collect()
    gc.freeze()  # what has been imported: with all clients, a collection takes longer than most tests


async def _nothing():
    pass


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    before, threads, children = open_descriptors(), set(threading.enumerate()), _children()
    yield
    if open_descriptors() != before:
        gc.collect()  # what a cycle holds; it takes longer than most tests, with all clients loaded
    for _ in range(100):  # a thread that was told to end may need a moment
        left = set(threading.enumerate()) - threads
        if not left:
            break
        time.sleep(0.01)
    assert not left, f"threads left behind: {left}"
    assert open_descriptors() == before, "descriptors left behind"
    assert _children() <= children, "child processes left behind"


@pytest.fixture(autouse=True)
def _steering_as_the_kernel_has_it(monkeypatch):
    monkeypatch.setattr(safedial.ports, "_steerable", safedial.ports.ON_LINUX)
    monkeypatch.setattr(safedial.ports, "_believed", (0.0, None))


@pytest.fixture(params=[True, False], ids=["steered", "unsteered"])
def steer(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["steered", "unsteered"])
def steering(request, monkeypatch):
    """What the kernel can, and what an older one, macOS and Windows can't."""
    if not request.param:
        monkeypatch.setattr(safedial.ports, "_steerable", False)
    return request.param


@pytest.fixture(params=faces.FACES, ids=str)
def dial(request):
    """Each face of safedial in turn, as ``dial(host, port, **options)``."""
    return faces.FACES[request.param]


@pytest.fixture(params=faces.LOOPS, ids=str)
def loop_factory(request):
    return faces.LOOPS[request.param]


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
