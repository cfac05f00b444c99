"""The command line of ``safedial doctor``: its arguments, exit status and help."""

import errno
import json
import os
import shlex
import subprocess
import sys

import pytest

from safedial import cli
from safedial.cli.doctor import look
from tests.cli.doctor.made import facts, listener, self_connected

# Above the most that Linux allows, 2**22.
NO_PROCESS = str(2**22 + 1)


@pytest.fixture
def see(monkeypatch):
    """Let the doctor see facts made by hand. Return what it is asked to look at."""

    def make(**fields):
        asked = []

        def look_at(ports, *, pid):
            asked.append((ports, pid))
            return facts(**fields)

        monkeypatch.setattr(look, "look", look_at)
        return asked

    return make


@pytest.mark.parametrize(
    ("fields", "status", "verdict"),
    [
        ({}, 0, "Nothing is at risk."),
        ({"listeners": (listener(22),)}, 0, "Nothing is at risk."),
        ({"listeners": (listener(40000),)}, 1, "At risk: port 40000."),
        ({"self_connected": (self_connected(22),)}, 1, "Taken now: port 22."),
        ({"sockets": False}, 2, "Not checked: see below."),
    ],
)
def test_exit_status(see, capsys, fields, status, verdict):
    see(**fields)
    assert cli.main(["doctor"]) == status
    assert capsys.readouterr().out.splitlines()[0] == verdict
    assert cli.main(["doctor", "--json"]) == status
    assert json.loads(capsys.readouterr().out)["status"] == status


def test_ports_and_process(see):
    asked = see()
    cli.main(["doctor", "--pid", "4242", "5432", "80", "5432"])
    cli.main(["doctor"])
    assert asked == [((5432, 80), 4242), ((), None)]


def test_lines_to_paste_are_for_the_namespace_of_the_process(see, capsys):
    see(listeners=(listener(40000),))
    cli.main(["doctor", "--pid", "4242"])
    assert "\nnsenter -t 4242 -n sysctl -w " in capsys.readouterr().out


@pytest.mark.parametrize("text", ["0", "65536", "redis", "-1", "\N{SUPERSCRIPT TWO}", "", "9" * 5000])
def test_wrong_ports(capsys, text):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["doctor", text])
    error = capsys.readouterr().err
    assert "PORT: a port is a number from 1 to 65535, not " in error
    assert len(error) < 200


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "5432"], "unrecognized arguments: --port"),
        (["5432", "--", "x"], "unrecognized arguments: -- x"),
        (["5432,5433"], "not '5432,5433': write spaces between ports"),
    ],
)
def test_what_is_meant_otherwise_gets_the_usage_of_the_doctor(capsys, words, said):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["doctor", *words])
    error = capsys.readouterr().err
    assert error.startswith("usage: safedial doctor [-h] ")
    assert error.endswith(f"{said}\n")


@pytest.mark.parametrize("text", ["0", "x", "-1", str(2**31), "9" * 5000])
def test_wrong_processes(capsys, text):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["doctor", "--pid", text])
    error = capsys.readouterr().err
    assert "--pid" in error
    assert len(error) < 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has network namespaces")
def test_process_that_is_not_there(capsys):
    assert cli.main(["doctor", "--pid", NO_PROCESS]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    said = f"there is no process {NO_PROCESS} that this user can see"
    assert err == f"safedial doctor can't look at process {NO_PROCESS}: {said}\n"


def test_process_that_only_root_may_look_at(monkeypatch, capsys):
    def denied(ports, *, pid):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(look, "look", denied)
    assert cli.main(["doctor", "--pid", "1"]) == 2
    assert capsys.readouterr() == (
        "",
        f"safedial doctor can't look at process 1: {os.strerror(errno.EPERM)} (root may)\n",
    )


@pytest.mark.skipif(os.name != "posix", reason="a pipe without a reader is another error there")
def test_reader_that_goes_away_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "safedial", "doctor"], stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert done.stderr == b""
    assert done.returncode in (0, 1, 2)


FULL = "safedial: [Errno 28] No space left on device\n"
CLOSED = "safedial: [Errno 9] standard output is closed\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("options", ["", "--json"])
@pytest.mark.parametrize(
    ("ends", "said"), [(">/dev/full", FULL), (">&-", CLOSED), (">/dev/full 2>&-", ""), ("<&- >&- 2>&-", "")]
)
def test_what_can_t_be_written_is_no_answer(options, ends, said):
    command = f"exec {shlex.quote(sys.executable)} -m safedial doctor {options} {ends}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (2, said, "")


def test_a_bug_is_no_answer(monkeypatch, capsys):
    def broken(ports, *, pid):
        raise ZeroDivisionError("look again")

    monkeypatch.setattr(look, "look", broken)
    assert cli.main(["doctor"]) == 2
    assert capsys.readouterr().err.endswith("ZeroDivisionError: look again\n")


def test_help_fits_a_terminal_and_tells_the_exit_statuses(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["doctor", "--help"])
    text = capsys.readouterr().out
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 80
    for words in ("  0  nothing is at risk", "  1  something", "  2  something", "safedial doctor 5432", "--pid PID"):
        assert words in text
