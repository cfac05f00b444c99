"""``safedial wait`` as users run it: a process, its output and its exit status."""

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading

import pytest

from safedial.testing import dead_port, refused_port
from tests.cli.test_command import ASCII, environment
from tests.support import faults

posix = pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal is opened, or a signal sent")
WAIT = (sys.executable, "-m", "safedial", "wait")


def run(*arguments, **extra):
    """Run the command, with *extra* in its environment."""
    return subprocess.run(
        [*WAIT, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        env=environment(**extra),
        timeout=120,
        check=False,
    )


@contextlib.contextmanager
def start(*arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8", **options}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
    with subprocess.Popen([*WAIT, *map(str, arguments)], env=environment(), **options) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def server():
    with faults.listener() as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def nobody():
    """A target that refuses."""
    with refused_port() as port:
        yield f"127.0.0.1:{port}"


def test_ready(server):
    ended = run(server)
    assert (ended.returncode, ended.stdout) == (0, "")
    opening, ready = ended.stderr.splitlines()
    assert opening == f"safedial: Waiting for {server}, for at most 60 s."
    assert re.fullmatch(rf"safedial: {server}: ready after [\d.]+ s", ready)


def test_time_out_is_124_with_each_error_and_a_hint(server, nobody):
    ended = run(server, nobody, "unix:/no/such.sock", "--timeout", "300ms", "--", "echo", "never")
    assert (ended.returncode, ended.stdout) == (124, "")
    *_, over, refused, help_1, missing, help_2 = ended.stderr.splitlines()
    assert re.fullmatch(r"safedial: Timed out after [\d.]+ s\.", over)
    assert re.fullmatch(rf"safedial: {nobody}: not ready: Connection refused \(\d rounds\)", refused)
    assert help_1.startswith(f"safedial: {nobody}: hint: ")
    assert missing.startswith("safedial: unix:/no/such.sock: not ready: No such file or directory")
    assert help_2.startswith("safedial: unix:/no/such.sock: hint: ")


def test_quiet_says_nothing_of_success_and_all_of_a_failure(server, nobody):
    ended = run(server, "--quiet", "--", "echo", "up")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "up\n", "")
    ended = run(nobody, "--quiet", "--timeout", "100ms")
    assert ended.returncode == 124
    assert [line.split()[1] for line in ended.stderr.splitlines()] == ["Timed", f"{nobody}:", f"{nobody}:"]


def test_json_comes_before_the_output_of_the_command(server):
    ended = run(server, "--json", "--quiet", "--", "echo", "up")
    result, up = ended.stdout.splitlines()
    assert json.loads(result)["outcome"] == "ready"
    assert up == "up"
    assert ended.stderr == ""


def test_wrong_use_is_2_in_two_lines():
    ended = run("db", "5432")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines()[1:] == ["safedial wait: error: db 5432: write db:5432"]


@posix
def test_command_has_the_pid_and_gets_the_signal_itself(server):
    script = 'trap "echo ended; exit 7" TERM; echo $$; while :; do sleep 0.05; done'
    with start(server, "--quiet", "--", "sh", "-c", script) as process:
        assert process.stdout.readline() == f"{process.pid}\n"
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
        assert (stdout, stderr, process.returncode) == ("ended\n", "", 7)


def test_command_that_is_not_there(server):
    ended = run(server, "--quiet", "--", "no-such-command")
    assert (ended.returncode, ended.stdout) == (127, "")
    assert ended.stderr == "safedial: can't run no-such-command: not found\n"


def test_server_that_comes_late():
    """Its port is at risk: an unguarded dial may connect to itself, and keep the server from starting."""
    address = "127.0.0.1", dead_port()
    with start(f"127.0.0.1:{address[1]}", "--", "echo", "up") as process:
        process.stderr.readline()
        assert "Connection refused" in process.stderr.readline()
        with socket.create_server(address) as listening:
            stdout, stderr = process.communicate(timeout=60)
            listening.accept()[0].close()
    assert (process.returncode, stdout) == (0, "up\n")
    assert re.fullmatch(r"safedial: [\d.:]+: ready after [\d.]+ s\n", stderr)


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_with_one_line(nobody, number):
    with start(nobody, "--", "echo", "never") as process:
        assert nobody in process.stderr.readline()
        assert "Connection refused" in process.stderr.readline()
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (128 + number, "")
    assert re.fullmatch(rf"safedial: Ended by {number.name} after [\d.]+ s\.\n", stderr)


@posix
def test_signal_that_is_ignored_stays_ignored(nobody):
    """A shell's background job has SIGINT ignored, and so has its command."""
    ignore = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731
    with start(nobody, "--timeout", "500ms", preexec_fn=ignore) as process:
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 124
