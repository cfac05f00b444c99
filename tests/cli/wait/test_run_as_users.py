"""``safedial wait`` as users run it: a process, its output and its exit status."""

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys

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


@pytest.mark.storm
def test_time_out_is_124_with_each_error_and_a_hint(server, nobody):
    ended = run(server, nobody, "unix:/no/such.sock", "--timeout", "1s", "--", "echo", "never")
    assert (ended.returncode, ended.stdout) == (124, "")
    *_, over, refused, help_1, missing, help_2 = ended.stderr.splitlines()
    assert re.fullmatch(r"safedial: Timed out after [\d.]+ s\.", over)
    assert re.fullmatch(rf"safedial: {nobody}: not ready: Connection refused \(\d+ rounds?\)", refused)
    assert help_1.startswith(f"safedial: {nobody}: hint: ")
    assert missing.startswith("safedial: unix:/no/such.sock: not ready: No such file or directory")
    assert help_2.startswith("safedial: unix:/no/such.sock: hint: ")


def test_quiet_says_all_of_a_failure(nobody):
    ended = run(nobody, "--quiet", "--timeout", "100ms")
    assert ended.returncode == 124
    assert [line.split()[1] for line in ended.stderr.splitlines()] == ["Timed", f"{nobody}:", f"{nobody}:"]


def test_json_comes_before_the_output_of_the_command_and_quiet_says_nothing_of_success(server):
    ended = run(server, "--json", "--quiet", "--", "echo", "up")
    result, up = ended.stdout.splitlines()
    assert json.loads(result)["outcome"] == "ready"
    assert (ended.returncode, up, ended.stderr) == (0, "up", "")


@posix
def test_command_has_the_pid_and_gets_the_signal_itself(server):
    script = 'trap "echo ended; exit 7" TERM; echo $$; while :; do sleep 0.05; done'
    with start(server, "--quiet", "--", "sh", "-c", script) as process:
        assert process.stdout.readline() == f"{process.pid}\n"
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
        assert (stdout, stderr, process.returncode) == ("ended\n", "", 7)


@pytest.mark.storm
def test_command_that_is_not_there(server):
    ended = run(server, "--quiet", "--", "no-such-command")
    assert (ended.returncode, ended.stdout) == (127, "")
    assert ended.stderr == "safedial: can't run no-such-command: not found\n"


@posix
@pytest.mark.storm
@pytest.mark.parametrize(("stream", "number"), [("stdout", 1), ("stderr", 2)])
@pytest.mark.parametrize(("command", "status"), [(("--", "sh", "-c", "exit 7"), 7), ((), 0)], ids=["command", "none"])
def test_stream_that_nobody_reads_is_not_in_the_way(server, stream, number, command, status):
    """Neither one that is closed (``2>&-``), nor a pipe whose reader has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        for options in ({stream: writer}, {stream: None, "preexec_fn": lambda: os.close(number)}):
            with start(server, "--json", *command, **options) as process:
                assert process.wait(60) == status
                if stream == "stdout":
                    assert process.stderr.read().splitlines()[-1].startswith("safedial: the result can't be written: ")
    finally:
        os.close(writer)


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
def test_signal_ends_it(nobody, number):
    with start(nobody, "--", "echo", "never") as process:
        assert nobody in process.stderr.readline()
        assert "Connection refused" in process.stderr.readline()
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (128 + number, "")
    over, error, hint = stderr.splitlines()
    assert re.fullmatch(rf"safedial: Ended by {number.name} after [\d.]+ s\.", over)
    assert error.startswith(f"safedial: {nobody}: not ready: Connection refused (")
    assert hint.startswith(f"safedial: {nobody}: hint: ")


@posix
@pytest.mark.storm
def test_signal_that_is_ignored_stays_ignored(nobody):
    """A shell's background job has SIGINT ignored, and so has its command."""
    ignore = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731  # it is passed on once
    with start(nobody, "--timeout", "500ms", preexec_fn=ignore) as process:
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 124


def on_terminal(*arguments, columns=80, when="", do=None, **extra):
    """Run the command on a terminal of its own. Call *do*, with our side of it, when *when* is read.

    Return the exit status and all that was read.
    """
    import fcntl
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    env = environment(**{"TERM": "xterm", **extra})
    del env["COLUMNS"]

    def take() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal

    try:
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        command = [*WAIT, *map(str, arguments)]
        with subprocess.Popen(command, env=env, start_new_session=True, preexec_fn=take, **streams) as process:
            os.close(theirs)
            printed = b""
            with contextlib.suppress(OSError):  # EIO: the last process has closed the terminal
                while data := os.read(ours, 65536):
                    printed += data
                    if do is not None and when.encode() in printed:
                        do(ours)
                        do = None
        return process.returncode, printed.decode("ascii")
    finally:
        os.close(ours)


def lines_of(printed):
    """Return each line that was ever drawn, without the sequences that move and colour."""
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", printed))
    return [line.rstrip() for line in lines if line.strip()]


LONG_NAME = "unix:/run/postgresql/in/a/long/name/.s.PGSQL.5432"  # more than 50 columns


@posix
@pytest.mark.parametrize(
    ("columns", "extra"),
    [pytest.param(80, {}, marks=pytest.mark.storm), (50, {"NO_COLOR": "1", **ASCII})],
    ids=["80", "50, plain"],
)
@pytest.mark.storm
def test_live_lines_on_a_terminal(server, nobody, columns, extra):
    pytest.importorskip("rich")
    arguments = (server, nobody, LONG_NAME, "--timeout", "1s")
    status, printed = on_terminal(*arguments, columns=columns, **extra)
    assert status == 124
    lines = lines_of(printed)
    assert all(len(line) <= columns for line in lines)
    assert any(re.fullmatch(rf"[-\\|/] [01]/1 s  {nobody}: Connection refused", line) for line in lines)
    if columns == 50:
        assert any(re.fullmatch(rf"[-\\|/] [01]/1 s  {LONG_NAME[:38]}\.\.\.", line) for line in lines)
    # What stays on the screen: wrapped, and whole.
    (over,) = (place for place, line in enumerate(lines) if re.fullmatch(r"Timed out after [\d.]+ s\.", line))
    live = printed[: printed.index("Timed out")]
    assert "\x1b[1A\x1b[2K" in live[live.rindex(LONG_NAME[:38]) :], "the live lines are still there"
    assert lines[over - 1].startswith(f"{server}: ready after")
    assert " ".join(lines[over:]).count("Connection refused") == 1
    assert "".join(lines[over:]).count(LONG_NAME) == 2  # with a hint
    assert ("\x1b[32m" in printed) is ("NO_COLOR" not in extra)
    assert printed.rindex("\x1b[?25h") > printed.rindex("\x1b[?25l"), "the cursor is hidden"


@posix
@pytest.mark.storm
def test_command_gets_the_terminal_and_what_was_typed_meanwhile():
    port = dead_port()
    target, servers = f"127.0.0.1:{port}", []

    def type_and_serve(terminal):
        os.write(terminal, b"typed\n")
        servers.append(socket.create_server(("127.0.0.1", port)))

    try:
        status, printed = on_terminal(
            target, "--", "sh", "-c", 'read word; echo "read $word"; exit 7', when="refused", do=type_and_serve
        )
    finally:
        for listening in servers:
            listening.close()
    assert status == 7
    assert lines_of(printed)[-1] == "read typed"
    assert printed.rindex("\x1b[?25h") < printed.rindex("read typed")


@posix
def test_ctrl_c_on_a_terminal(nobody):
    status, printed = on_terminal(nobody, when="refused", do=lambda terminal: os.write(terminal, b"\x03"))
    assert status == 130
    (end,) = re.findall(r"Ended by SIGINT after .*", printed, re.DOTALL)
    assert f"{nobody}: not ready: Connection refused (" in end
    assert f"{nobody}: hint: Nobody listens" in end
    assert printed.endswith("\r\n")


@posix
@pytest.mark.storm
@pytest.mark.parametrize("why", ["no rich", "dumb"])
def test_terminal_without_live_lines_has_those_of_a_log(nobody, tmp_path, why):
    extra = {"TERM": "dumb"}
    if why == "no rich":
        (tmp_path / "rich.py").write_text("raise ImportError('not installed')\n")
        path = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
        extra = {"PYTHONPATH": os.pathsep.join(path)}
    status, printed = on_terminal(nobody, "--timeout", "1s", **extra)
    assert status == 124
    assert "\x1b" not in printed
    assert [line.split()[1] for line in lines_of(printed)][:3] == ["Waiting", f"{nobody}:", "Timed"]


@pytest.mark.storm
def test_loads_no_rich_unless_it_is_on_a_terminal(server):
    """In a container's entrypoint, each import is waited for."""
    command = [sys.executable, "-X", "importtime", *WAIT[1:], server, "--", "true"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment())
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "safedial.cli.wait.run" in loaded
    assert not loaded & {
        "rich",
        "http.client",
        "safedial.testing",
        "safedial.cli.wait.gone",
        "safedial.cli.wait.as_json",
    }
