"""The command ``safedial`` as users run it."""

import contextlib
import errno
import os
import re
import signal
import struct
import subprocess
import sys

import pytest

import safedial
from safedial import cli

# Seconds; ample, because the demo ends within a minute.
_SUBPROCESS_TIMEOUT = 120


def environment(**extra):
    # Variables that terminals and CI systems set must not change the output.
    kept = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    return {**kept, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8", **extra}


def run(*arguments, **extra):
    return subprocess.run(
        [sys.executable, "-m", "safedial", *arguments],
        capture_output=True,
        encoding="utf-8",
        env=environment(**extra),
        timeout=_SUBPROCESS_TIMEOUT,
        check=False,
    )


# A terminal or file that has only ASCII.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


@pytest.mark.storm
def test_demo():
    pytest.importorskip("rich")
    ended = run("demo", **ASCII)
    assert ended.stderr == ""
    assert ended.returncode == 0, ended.stdout
    assert "\x1b" not in ended.stdout
    assert "\r" not in ended.stdout
    table = [re.split(" {2,}", line.rstrip()) for line in ended.stdout.splitlines()]
    rows = [(name.rstrip("*"), *figures) for name, *figures in table if len(figures) == 5]
    plain, closing, safe, *second = rows[-5:] if sys.platform == "linux" else rows[-3:]
    name, dials, self_connects, binds, failed, back = plain
    assert (name, self_connects, back) == ("create_connection", "1", "not in 2 s")
    assert int(dials.replace(",", "")) > 0
    assert binds == failed
    assert closing[0] == "plain close (Go's way)"
    assert int(closing[2]) >= 1
    assert (safe[0], safe[2].split(",")[0]) == ("safedial", "0")
    assert re.fullmatch(r"[\d.]+ s", safe[-1])
    if sys.platform == "linux":
        assert closing[-1] == "not in 2 s"
        assert [(row[0], row[-1]) for row in second] == [("create_connection", "not in 2 s"), ("safedial", "0.00 s")]


@pytest.mark.storm
@pytest.mark.skipif(sys.platform != "linux", reason="a pseudo-terminal is opened")
def test_demo_on_a_small_terminal_without_unicode():
    pytest.importorskip("rich")
    import fcntl
    import termios

    ours, theirs = os.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 10, 20, 0, 0))
        with subprocess.Popen(
            [sys.executable, "-m", "safedial", "demo"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(TERM="xterm", **ASCII, COLUMNS="", LINES=""),
        ) as process:
            os.close(theirs)
            printed = b""
            with contextlib.suppress(OSError):  # EIO: the demo has closed the terminal
                while data := os.read(ours, 65536):
                    printed += data
        assert process.returncode == 0, printed.decode()
        assert printed.isascii()
        assert b"\x1b[32msafedial:" in printed
        assert b"Traceback" not in printed
    finally:
        os.close(ours)


def test_exit_status_is_the_report_s(monkeypatch):
    pytest.importorskip("rich")
    from safedial.cli.demo import report

    monkeypatch.setattr(report, "run", lambda: 1)
    assert cli.main(["demo"]) == 1


def test_no_loopback_is_an_error_without_traceback(monkeypatch, capsys):
    pytest.importorskip("rich")
    from safedial.cli.demo import report

    def denied():
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(report, "run", denied)
    assert cli.main(["demo"]) == 1
    assert "Operation not permitted" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent")
def test_interrupt_is_exit_status_130():
    pytest.importorskip("rich")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
    with subprocess.Popen(
        [sys.executable, "-m", "safedial", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment(),
    ) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=_SUBPROCESS_TIMEOUT)
    assert process.returncode == 130
    assert stderr == ""


def test_without_rich(tmp_path):
    (tmp_path / "rich.py").write_text("raise ImportError('not installed')\n")
    path = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    ended = run("demo", PYTHONPATH=os.pathsep.join(path))
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "pip install 'safedial[cli]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_importing_the_command_line_loads_no_rich():
    code = "import safedial.cli, sys; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_version():
    ended = run("--version")
    assert (ended.returncode, ended.stdout) == (0, f"safedial {safedial.__version__}\n")


def test_a_command_is_required(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main([])
    assert "command" in capsys.readouterr().err
