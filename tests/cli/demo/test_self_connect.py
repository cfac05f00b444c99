"""Scene 1. Each act is played on real sockets; conftest checks that nothing is left behind."""

import dataclasses
import errno
import os
import socket
import sys

import pytest

import safedial
from safedial.cli.demo import scene, self_connect
from tests.support import faults, namespace

# The fault is forced at once.
FORCED = scene.Limits(dialing=0.0, comeback=0.2)
IN_USE = os.strerror(errno.EADDRINUSE)
CLEAN = self_connect.Tally(
    name="safedial",
    port=40000,
    limits=scene.Limits(),
    dials=100_001,
    dials_before=100_000,
    binds=1,
    after=0.0,
    reached=True,
)
GONE = {"binds": 400, "failed": 400, "error": IN_USE, "after": None, "reached": False}
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems let SO_REUSEADDR bind beside TIME_WAIT")


def but(**changes):
    return dataclasses.replace(CLEAN, **changes)


class TestFlaws:
    @pytest.mark.parametrize("tally", [CLEAN, but(released=3), but(forced=True, released=1)])
    def test_clean(self, tally):
        assert self_connect.flaws(tally) == []

    @pytest.mark.parametrize(
        ("tally", "words"),
        [
            (but(self_connects=1), "its loop was given: 1"),
            (but(**GONE), "did not come back"),
            (but(**GONE), "400 of the server's 400 binds failed"),
            (but(reached=False), "did not reach"),
            (but(binds=3, failed=2, error=IN_USE), IN_USE),
        ],
    )
    def test_not_clean(self, tally, words):
        assert words in "; ".join(self_connect.flaws(tally))

    @pytest.mark.parametrize("linux", [True, False])
    def test_one_failed_bind_is_allowed_on_other_systems(self, monkeypatch, linux):
        monkeypatch.setattr(safedial._tcp.steering, "ON_LINUX", linux)
        tally = but(released=1, binds=2, failed=1, error=IN_USE)
        assert bool(self_connect.flaws(tally)) is linux

    def test_another_process_is_blamed_only_if_the_loop_never_drew_the_port(self):
        failed = {"binds": 3, "failed": 2, "error": IN_USE}
        assert "another process" in "; ".join(self_connect.flaws(but(**failed)))
        assert "another process" not in "; ".join(self_connect.flaws(but(**failed, released=2)))


class TestAct:
    @pytest.fixture(autouse=True)
    def _means(self, means, monkeypatch):
        if means == "bind":
            monkeypatch.setattr("safedial.testing.faults._narrow", lambda *args: None)

    def test_a_loop_that_trusts_its_socket_reads_its_own_request_and_keeps_the_server_out(self):
        tally = self_connect.play(self_connect.PLAIN, FORCED)
        assert (tally.self_connects, tally.released, tally.forced) == (1, 0, True)
        assert tally.read == scene.REQUEST
        assert tally.dials == tally.dials_before
        assert tally.after is None
        assert tally.binds == tally.failed > 0
        assert tally.error == IN_USE
        faults.assert_server_can_bind("127.0.0.1", tally.port)

    @only_linux
    def test_a_plain_close_keeps_the_server_out(self):
        tally = self_connect.play(self_connect.CLOSING, FORCED)
        assert tally.self_connects >= 1
        assert tally.forced
        assert tally.read == scene.ANSWER
        assert tally.dials > tally.dials_before
        assert tally.after is None
        assert tally.binds == tally.failed > 0
        assert tally.error == IN_USE

    def test_safedial_releases_the_port_and_the_server_is_back(self, steering):
        tally = self_connect.play(scene.SAFE, scene.Limits(), dials=100, force=True)
        assert tally.forced
        assert tally.released >= 1
        assert tally.read == scene.ANSWER
        assert self_connect.flaws(tally) == []


def test_safedial_unforced(steering):
    tally = self_connect.play(scene.SAFE, scene.Limits(), dials=100)
    assert tally.dials >= tally.dials_before >= 100
    assert not tally.forced
    assert self_connect.flaws(tally) == []


def test_released_self_connects_are_counted(steering, caplog):
    tally = self_connect.play(scene.SAFE, scene.Limits(), dials=100, force=True)
    assert self_connect.steering_works(tally.port) == (steering and faults.kernel_steers())
    assert tally.released == sum(record.levelname == "WARNING" for record in caplog.records)


@pytest.mark.parametrize(
    ("contender", "stage"), [(scene.SAFE, "the client dials"), (self_connect.PLAIN, "the server binds")]
)
def test_an_interrupt_leaves_nothing_behind(contender, stage):
    # conftest checks threads and descriptors; the logging handler is checked here.
    handlers = list(safedial.events.logger.handlers)

    def interrupt(now, dials):
        if now == stage:
            raise KeyboardInterrupt

    dials = 10**9 if contender is scene.SAFE else None
    with pytest.raises(KeyboardInterrupt):
        self_connect.play(contender, scene.Limits(), dials=dials, watch=interrupt)
    assert safedial.events.logger.handlers == handlers


def test_a_loop_that_cannot_reach_its_server_is_an_error(monkeypatch):
    def refused(address, timeout):
        raise ConnectionRefusedError

    monkeypatch.setattr(self_connect, "PATIENCE", 0.05)
    with pytest.raises(TimeoutError, match="no connection to a server"):
        self_connect.play(dataclasses.replace(self_connect.PLAIN, dial=refused), FORCED)


@pytest.mark.skipif(safedial._tcp.steering.read_range() is None, reason="no ephemeral range to read")
def test_the_port_is_one_that_the_kernel_likes_to_draw():
    low, high = safedial._tcp.steering.read_range()
    port = self_connect.play(scene.SAFE, scene.Limits(), dials=1).port
    assert low <= port <= high
    assert (port - low) % 2 == 0


@pytest.mark.storm
def test_the_port_has_no_old_connection_that_would_keep_the_kernel_off_it():
    namespace.require()
    assert namespace.call(play_beside_time_wait, port_range=(40000, 40009)) == {40002}


def play_beside_time_wait():
    """Return the ports that the demo uses if servers have left a TIME_WAIT on all the others."""
    for port in (40000, 40004, 40006, 40008):
        with faults.listener(port=port) as server, socket.create_connection(server.getsockname()) as near:
            server.accept()[0].close()  # the side that closes first is the one in TIME_WAIT
            near.recv(1)
    return {self_connect.play(scene.SAFE, scene.Limits(), dials=1).port for _ in range(10)}
