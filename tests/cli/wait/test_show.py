"""What is told of the wait, by hand-made records. How it looks on a terminal: `test_run_as_users`."""

import contextlib
import json
import os
import re
import signal
import sys
import threading
from pathlib import Path

import pytest

from safedial.cli.wait import as_json, show
from safedial.cli.wait.progress import NotReady, Progress
from safedial.cli.wait.targets import Target

DOCS = (Path(__file__).parents[3] / "docs" / "command-line.md").read_text()
FIELDS = DOCS.partition("<!-- wait's fields -->")[2].partition("<!-- /wait's fields -->")[0]


class Log:
    """A log with a clock that goes on by itself only as far as it is told."""

    def __init__(self, progresses):
        self.now, self.lines = 0.0, []
        self._progresses = progresses
        self._lines = show.Lines(progresses, self.lines.append, clock=lambda: self.now)

    def at(self, seconds):
        """Return the lines that are written then."""
        self.now = seconds
        self.lines.clear()
        for each in self._progresses:
            self._lines.changed(each)
        return self.lines


def refused():
    return ConnectionRefusedError(111, "Connection refused")


def test_log_has_a_line_when_something_changes_and_each_minute():
    db, cache = (Progress(Target(name, name, 1)) for name in ("db:1", "cache:2"))
    log = Log([db, cache])
    assert log.at(0.1) == []  # the opening has said that they are waited for
    db.error = refused()
    assert log.at(0.2) == ["db:1: not ready yet: Connection refused"]
    db.error = refused()
    assert log.at(59) == []
    cache.state, cache.ready_after = "ready", 59.5
    assert log.at(60) == ["cache:2: ready after 59.5 s"]
    assert log.at(60.2) == ["db:1: not ready yet: Connection refused (60 s so far)"]
    assert log.at(120.1) == []
    assert log.at(130) == ["db:1: not ready yet: Connection refused (130 s so far)"]
    db.error = TimeoutError(110, "Connection timed out")
    assert log.at(131) == ["db:1: not ready yet: Connection timed out"]
    db.state = "failed"
    assert log.at(132) == ["db:1: failed: Connection timed out"]
    assert log.at(300) == []


def test_log_of_a_server_that_says_something_else_each_time():
    db = Progress(Target("db:1", "db", 1))
    log, written = Log([db]), 0
    for second in range(120):
        db.error = NotReady(f"it sent '{second}'")
        written += len(log.at(float(second)))
    assert written == 11
    db.state = "ready"
    assert len(log.at(120)) == 1


def test_log_says_what_is_waited_for_if_nothing_is_known_for_a_minute():
    assert Log([Progress(Target("db:1", "db", 1))]).at(60) == ["db:1: waiting (60 s so far)"]


def test_log_of_a_port_that_is_to_become_free():
    waiting = Progress(Target("db:2", "db", 2), gone=True)
    log = Log([waiting])
    waiting.state, waiting.ready_after = "ready", 1.0
    assert log.at(1) == ["db:2: free after 1 s"]


def test_failure_has_each_last_error_and_a_hint(capsys):
    progresses = [
        Progress(Target("db:1", "db", 1), rounds=3, error=refused()),
        Progress(Target("cache:2", "cache", 2), "ready", ready_after=0.1),
    ]
    show.failure(progresses, "timed out", 60.0)
    head, error, hint = capsys.readouterr().err.splitlines()
    assert head == "safedial: Timed out after 60 s."
    assert error.startswith("safedial: db:1: not ready: Connection refused")
    assert hint.startswith("safedial: db:1: hint: ")


RESULT = [
    Progress(Target("db:1", "db", 1), "waiting", 3, refused()),
    Progress(Target("cache:2", "cache", 2), "ready", 1, refused(), 0.1234),
    Progress(Target("other:3", "other", 3), "not needed"),
]


def test_json_is_one_object_on_one_line():
    text = as_json.as_json(RESULT, "timed out", 124, 60.0004)
    assert "\n" not in text
    assert text.isascii()
    found = json.loads(text)
    db, cache, other = found.pop("targets")
    assert found == {"schema": 1, "status": 124, "outcome": "timed out", "seconds": 60.0}
    assert isinstance(db.pop("hint"), str)
    assert db == {
        "target": "db:1", "state": "waiting", "seconds": None, "rounds": 3, "error": "Connection refused"
    }  # fmt: skip
    assert (cache["seconds"], cache["error"], cache["hint"]) == (0.123, "Connection refused", None)
    assert (other["state"], other["rounds"], other["error"], other["hint"]) == ("not needed", 0, None, None)


@pytest.mark.parametrize(("ended", "told"), [("ready", "ready"), (signal.SIGINT, "ended by SIGINT")])
def test_json_tells_how_it_ended(ended, told):
    assert json.loads(as_json.as_json([], ended, 0, 1.0))["outcome"] == told


def test_docs_describe_each_field():
    described = re.findall(r"^\| `([\w.\[\]]+)` \|", FIELDS, re.MULTILINE)
    found = json.loads(as_json.as_json(RESULT, "timed out", 124, 60.0))
    fields = [*found, *(f"targets[].{name}" for name in found["targets"][0])]
    assert sorted(described) == sorted(fields)


@pytest.mark.skipif(os.name != "posix", reason="select() takes pipes")
def test_log_that_nobody_takes_does_not_hold_up_the_wait(monkeypatch):
    reader, writer = os.pipe()
    with open(reader, "rb") as ours, open(writer, "w") as theirs:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while os.write(writer, b"x" * 4096):
                pass
        os.set_blocking(writer, True)
        drained = []
        timer = threading.Timer(5, lambda: drained.append(os.read(ours.fileno(), 1 << 20)))
        monkeypatch.setattr(sys, "stderr", theirs)
        monkeypatch.setattr(show, "_left", show._PATIENCE)
        timer.start()
        for _ in range(200):
            show.log("not taken")
        timer.cancel()
        timer.join()
        assert not drained


def test_log_that_is_closed_does_not_end_the_wait(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    show.log("not taken")
