"""The report on terminals and files of every kind, of acts in which the faults are forced at once."""

import dataclasses
import io
import re

import pytest

import safedial
from safedial.cli.demo import ordinary, scene, self_connect

pytest.importorskip("rich")
from rich.console import Console

from safedial.cli.demo import report

RED, GREEN = "\x1b[31m", "\x1b[32m"
SAFEDIAL = {"loops": [scene.SAFE], "clients": [ordinary.SAFE]}
FAILING = {**SAFEDIAL, "loops": [self_connect.PLAIN, dataclasses.replace(self_connect.PLAIN, name="safedial")]}


def play(options, *, encoding="utf-8", width=80, terminal=False, **environment):
    """Return the report's exit status and what it printed."""
    file = io.TextIOWrapper(io.BytesIO(), encoding)
    console = Console(file=file, width=width, force_terminal=terminal, _environ={"TERM": "xterm", **environment})
    status = report.run(console, scene.Limits(dialing=0.0, comeback=0.02), enough_dials=0, **options)
    file.flush()
    return status, file.buffer.getvalue().decode(encoding)


@pytest.mark.usefixtures("kernel_forces")
def test_all_acts(steering):
    status, text = play({})
    assert status == 0
    assert "\x1b" not in text
    assert text.isascii()
    assert not re.search(" $", text, re.MULTILINE)
    assert text.count("The fault was then forced") == 5
    assert text.count('The loop sent "GET user:1" and read back "GET user:1".') == 1
    rows = re.findall(r"^(\S.*\S)\* +[\d,]+ +(\d+)(?:, \d+ released)? +\d+ +\d+ +(\S.*) s$", text, re.MULTILINE)
    assert [(name, connects, back) for name, connects, back in rows if "TIME_WAIT" not in back] == [
        ("create_connection", "1", "not in 0.02"),
        ("plain close (Go's way)", rows[1][1], "not in 0.02"),
        ("safedial", "0", "0.00"),
        ("create_connection", "0", "not in 0.02"),
        ("safedial", "0", "0.00"),
    ]
    assert "* forced" in text
    assert text.endswith(
        "create_connection: it read its own request as the answer, and neither of its servers could come back.\n"
        "plain close (Go's way): its server could not come back.\n"
        "safedial: it was never given a self-connected socket, and both of its servers came back.\n"
    )


@pytest.mark.usefixtures("kernel_forces")
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("width", [80, 50, 20])
def test_terminals(encoding, width):
    clients = [ordinary.PLAIN, ordinary.SAFE]  # one whose bar shows what is going on
    status, text = play({**SAFEDIAL, "clients": clients}, encoding=encoding, width=width, terminal=True)
    assert status == 0
    lines = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= width
    if width == 80:
        assert re.search(r"client +dials", text)
    else:
        assert "  binds failed: 0" in lines


@pytest.mark.usefixtures("kernel_forces")
def test_colours_of_the_verdict():
    status, text = play(SAFEDIAL, terminal=True)
    assert status == 0
    assert f"{GREEN}safedial: it was never given" in text
    assert RED not in text


@pytest.mark.usefixtures("kernel_forces")
def test_failing_safedial_is_red_and_exit_status_1():
    status, text = play(FAILING, terminal=True)
    assert status == 1
    assert f"{RED}safedial is not clean: self-connected sockets that its loop was given: 1; " in text
    assert text.count("safedial is not clean") == 1
    assert "safedial: it " not in text


@pytest.mark.usefixtures("kernel_forces")
@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour(environment):
    _, text = play(FAILING, terminal=True, **environment)
    assert RED not in text
    assert GREEN not in text


@pytest.mark.usefixtures("kernel_forces")
def test_server_kept_down_by_an_ordinary_connection_is_exit_status_1():
    status, text = play({**SAFEDIAL, "clients": [dataclasses.replace(ordinary.PLAIN, name="safedial")]})
    assert status == 1
    assert "safedial is not clean: beside a connection to another server, " in text


def test_act_that_shows_nothing(monkeypatch):
    monkeypatch.setattr(safedial._tcp.steering, "IP_LOCAL_PORT_RANGE", 9999)  # no such option
    status, text = play(SAFEDIAL)
    assert status == 0
    assert "so this act shows nothing." in text
    assert re.search(r"^safedial +1 +0 +0 +0 +not shown$", text, re.MULTILINE)


def test_systems_without_scene_2(monkeypatch):
    monkeypatch.setattr(report, "ON_LINUX", False)
    status, text = play(SAFEDIAL)
    assert status == 0
    assert "This scene needs Linux" in text
    assert "2. other connection" not in text
