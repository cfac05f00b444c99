"""Scene 2. Each act is played on real sockets; conftest checks that nothing is left behind."""

import dataclasses
import errno
import os
import socket
import sys
from pathlib import Path

import pytest

import safedial
from safedial.cli.demo import ordinary, scene
from safedial.testing.holders import holders
from tests.support import faults, namespace

# The fault is forced at once.
FORCED = scene.Limits(dialing=0.0, comeback=0.1)
IN_USE = os.strerror(errno.EADDRINUSE)
CLEAN = ordinary.Tally(
    name="safedial",
    port=40000,
    limits=scene.Limits(),
    other_port=65535,
    dials=20_000,
    binds=1,
    after=0.0,
    reached=True,
    drawn=True,
    works=True,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the scene is played on Linux only")


def but(**changes):
    return dataclasses.replace(CLEAN, **changes)


class TestFlaws:
    @pytest.mark.parametrize("tally", [CLEAN, but(forced=True), but(drawn=False, binds=0, after=None, works=False)])
    def test_clean(self, tally):
        assert ordinary.flaws(tally) == []

    @pytest.mark.parametrize(
        ("tally", "words"),
        [
            (
                but(binds=200, failed=200, error=IN_USE, after=None, reached=False),
                f"200 of the server's 200 binds failed ({IN_USE})",
            ),
            (but(binds=2, failed=1, error=IN_USE), "1 of the server's 2 binds failed"),
            (but(reached=False), "was not reached"),
            (but(works=False), "did not work any more"),
        ],
    )
    def test_not_clean(self, tally, words):
        flaw, *advice = ordinary.flaws(tally)
        assert words in flaw
        assert [each.endswith("run the demo again") for each in advice] == [True] * bool(tally.failed)


@pytest.mark.usefixtures("kernel_forces")
def test_a_plain_connection_keeps_the_server_out():
    tally = ordinary.play(ordinary.PLAIN, FORCED)
    assert (tally.drawn, tally.forced, tally.dials) == (True, True, 1)
    assert tally.after is None
    assert tally.binds == tally.failed > 0
    assert tally.error == IN_USE
    assert tally.works
    for port in (tally.port, tally.other_port):
        faults.assert_server_can_bind("127.0.0.1", port)


@pytest.mark.usefixtures("kernel_forces")
def test_safedial_s_connection_lets_the_server_come_back(steering):
    tally = ordinary.play(ordinary.SAFE, FORCED)
    assert (tally.drawn, tally.forced, tally.reached, tally.works) == (True, True, True, True)
    assert ordinary.flaws(tally) == []
    for port in (tally.port, tally.other_port):
        faults.assert_server_can_bind("127.0.0.1", port)


@pytest.mark.storm
def test_nothing_need_be_forced():
    namespace.require()
    plain, *safe = tallies = namespace.call(play_unforced, port_range=(40000, 40009))
    assert [(tally.drawn, tally.forced) for tally in tallies] == 3 * [(True, False)]
    assert plain.after is None
    assert [ordinary.flaws(tally) for tally in safe] == [[], []]


def play_unforced():
    """Play the scene with create_connection, with safedial, and with a safedial that can't steer."""
    limits = scene.Limits(comeback=0.1)
    tallies = [ordinary.play(contender, limits) for contender in (ordinary.PLAIN, ordinary.SAFE)]
    safedial._tcp.steering._steerable = False
    tallies.append(ordinary.play(ordinary.SAFE, limits))
    left = [holders(port) for tally in tallies for port in (tally.port, tally.other_port)]
    assert left == 6 * [[]], "connections in TIME_WAIT"
    return tallies


def test_reserved_port_shows_nothing():
    namespace.require()
    tally = namespace.call(play_reserved, port_range=(40000, 40003))
    assert (tally.drawn, tally.binds, tally.forced) == (False, 0, False)


def play_reserved():
    def dial(address, timeout):
        Path("/proc/sys/net/ipv4/ip_local_reserved_ports").write_text("40000,40002")
        return ordinary.PLAIN.dial(address, timeout)

    return ordinary.play(dataclasses.replace(ordinary.PLAIN, dial=dial), FORCED)


def test_without_the_means_to_force_it_an_act_may_show_nothing(monkeypatch):
    monkeypatch.setattr(safedial._tcp.steering, "IP_LOCAL_PORT_RANGE", 9999)  # no such option
    tally = ordinary.play(ordinary.PLAIN, FORCED)
    # One dial draws the very port once in thousands of runs.
    assert (tally.drawn, tally.binds, tally.dials) == (False, 0, 1)
    assert ordinary.flaws(tally) == []


@pytest.mark.usefixtures("kernel_forces")
def test_a_dial_without_the_option_is_not_clean():
    def dial(address, timeout):
        return safedial.Dialer(timeout=timeout, socket_options=[(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)]).dial(
            address
        )

    tally = ordinary.play(dataclasses.replace(ordinary.SAFE, dial=dial), FORCED)
    assert IN_USE in "; ".join(ordinary.flaws(tally))


@pytest.mark.usefixtures("kernel_forces")
def test_a_server_that_is_not_reached_is_not_clean():
    dialed = []

    def dial(address, timeout):
        if dialed:
            raise ConnectionRefusedError
        dialed.append(address)
        return safedial.safe_connect(address, timeout)

    tally = ordinary.play(dataclasses.replace(ordinary.SAFE, dial=dial), FORCED)
    assert (tally.failed, tally.reached, tally.works) == (0, False, True)
    assert "was not reached" in "; ".join(ordinary.flaws(tally))


@pytest.mark.usefixtures("kernel_forces")
def test_a_connection_that_breaks_is_not_clean():
    def dial(address, timeout):
        sock = safedial.safe_connect(address, timeout)
        sock.shutdown(socket.SHUT_WR)
        return sock

    tally = ordinary.play(dataclasses.replace(ordinary.SAFE, dial=dial), FORCED)
    assert (tally.failed, tally.works) == (0, False)
    assert "did not work any more" in "; ".join(ordinary.flaws(tally))


@pytest.mark.parametrize(
    ("limits", "stage"), [(scene.Limits(), "the client dials"), (scene.Limits(dialing=0.0), "the server binds")]
)
@pytest.mark.usefixtures("kernel_forces")
def test_an_interrupt_leaves_nothing_behind(limits, stage, monkeypatch):
    def interrupt(now, dials):
        if now == stage:
            raise KeyboardInterrupt

    monkeypatch.setattr(scene, "TICK", 0.0)  # looks at once, before the port may be drawn
    with pytest.raises(KeyboardInterrupt):
        ordinary.play(ordinary.PLAIN, limits, watch=interrupt)
