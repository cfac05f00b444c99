import dataclasses
import errno
import io
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import safedial
from safedial import cli
from safedial.cli import demo
from tests.support import faults, namespace

FORCED = demo.Limits(dialing=0.0, comeback=0.2)
IN_USE = os.strerror(errno.EADDRINUSE)

# Seconds; ample, because the demo ends within a minute.
_SUBPROCESS_TIMEOUT = 120

CLEAN = demo.Tally(
    name="safedial",
    port=40000,
    limits=demo.Limits(),
    dials=100_001,
    dials_before=100_000,
    seconds_before=4.0,
    self_connects=0,
    released=0,
    forced=False,
    binds=1,
    after=0.0,
    reached=True,
)
GONE = {"binds": 400, "failed": 400, "error": IN_USE, "after": None, "reached": False}


def but(**changes):
    return dataclasses.replace(CLEAN, **changes)


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


class TestVerdict:
    @pytest.mark.parametrize("steered", [True, False])
    @pytest.mark.parametrize("tally", [CLEAN, but(released=3), but(forced=True, released=1)])
    def test_clean(self, tally, steered):
        assert demo.flaws(tally, steered=steered) == []

    @pytest.mark.parametrize("steered", [True, False])
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
    def test_not_clean(self, tally, steered, words):
        assert words in "; ".join(demo.flaws(tally, steered=steered))

    def test_one_failed_bind_is_allowed_if_the_kernel_cannot_be_steered(self):
        tally = but(released=1, binds=2, failed=1, error=IN_USE)
        assert demo.flaws(tally, steered=False) == []
        assert demo.flaws(tally, steered=True) != []

    def test_another_process_is_blamed_only_if_the_loop_never_drew_the_port(self):
        failed = {"binds": 3, "failed": 2, "error": IN_USE}
        assert "another process" in "; ".join(demo.flaws(but(**failed), steered=True))
        assert "another process" not in "; ".join(demo.flaws(but(**failed, released=2), steered=False))


class TestAct:
    """Each act on real sockets, with the fault forced at once. conftest checks that nothing is left behind."""

    @pytest.fixture(autouse=True)
    def _means(self, means, monkeypatch):
        if means == "bind":
            monkeypatch.setattr("safedial.testing.faults._narrow", lambda *args: None)

    def test_a_loop_that_trusts_its_socket_keeps_the_server_out(self):
        tally = demo.play(demo.PLAIN, FORCED)
        assert (tally.self_connects, tally.released, tally.forced) == (1, 0, True)
        assert tally.dials == tally.dials_before
        assert tally.after is None
        assert tally.binds == tally.failed > 0
        assert tally.error == IN_USE
        faults.assert_server_can_bind("127.0.0.1", tally.port)

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems let SO_REUSEADDR bind beside TIME_WAIT")
    def test_a_plain_close_keeps_the_server_out(self):
        tally = demo.play(demo.CLOSING, FORCED)
        assert tally.self_connects >= 1
        assert tally.forced
        assert tally.dials > tally.dials_before
        assert tally.after is None
        assert tally.binds == tally.failed > 0
        assert tally.error == IN_USE

    def test_safedial_releases_the_port_and_the_server_is_back(self):
        tally = demo.play(demo.SAFE, demo.Limits(), dials=100, force=True)
        assert tally.forced
        assert tally.released >= 1
        assert demo.flaws(tally, steered=demo.steering_works(tally.port)) == []


def test_safedial_unforced():
    tally = demo.play(demo.SAFE, demo.Limits(), dials=100)
    assert tally.dials >= tally.dials_before >= 100
    assert not tally.forced
    assert demo.flaws(tally, steered=demo.steering_works(tally.port)) == []


def test_self_connects_of_an_unsteered_safedial_are_counted(monkeypatch, caplog):
    monkeypatch.setattr(safedial._tcp.steering, "_steerable", False)
    tally = demo.play(demo.SAFE, demo.Limits(), dials=100, force=True)
    assert not demo.steering_works(tally.port)
    assert tally.released == sum(record.levelname == "WARNING" for record in caplog.records)
    assert demo.flaws(tally, steered=False) == []


@pytest.mark.parametrize(
    ("contender", "stage"), [(demo.SAFE, "the loop dials"), (demo.PLAIN, "the server tries to bind")]
)
def test_an_interrupt_leaves_nothing_behind(contender, stage):
    # conftest checks threads and descriptors; the logging handler is checked here.
    handlers = list(safedial.events.logger.handlers)

    def interrupt(now, dials):
        if now == stage:
            raise KeyboardInterrupt

    dials = 10**9 if contender is demo.SAFE else None
    with pytest.raises(KeyboardInterrupt):
        demo.play(contender, demo.Limits(), dials=dials, watch=interrupt)
    assert safedial.events.logger.handlers == handlers


def test_a_loop_that_cannot_reach_its_server_is_an_error(monkeypatch):
    def refused(address, timeout):
        raise ConnectionRefusedError

    monkeypatch.setattr(demo, "PATIENCE", 0.05)
    with pytest.raises(TimeoutError, match="no connection to a server"):
        demo.play(dataclasses.replace(demo.PLAIN, dial=refused), FORCED)


@pytest.mark.skipif(safedial._tcp.steering.read_range() is None, reason="no ephemeral range to read")
def test_the_port_is_one_that_the_kernel_likes_to_draw():
    low, high = safedial._tcp.steering.read_range()
    port = demo.play(demo.SAFE, demo.Limits(), dials=1).port
    assert low <= port <= high
    assert (port - low) % 2 == 0


def test_the_port_has_no_old_connection_that_would_keep_the_kernel_off_it():
    namespace.require()
    assert namespace.call(play_beside_time_wait, port_range=(40000, 40009)) == {40002}


def play_beside_time_wait():
    """Return the ports that the demo uses if servers have left a TIME_WAIT on all the others."""
    for port in (40000, 40004, 40006, 40008):
        with faults.listener(port=port) as server, socket.create_connection(server.getsockname()) as near:
            server.accept()[0].close()  # the side that closes first is the one in TIME_WAIT
            near.recv(1)
    return {demo.play(demo.SAFE, demo.Limits(), dials=1).port for _ in range(10)}


class TestReport:
    @pytest.fixture
    def report(self):
        pytest.importorskip("rich")
        from safedial.cli import demo_report

        return demo_report

    @pytest.fixture
    def play(self, report):
        """Run the report on forced acts; return its exit status and what it printed."""
        from rich.console import Console

        def played(**options):
            file = io.StringIO()
            console = Console(file=file, width=80, force_terminal=False)
            return report.run(console, limits=FORCED, enough_dials=0, **options), file.getvalue()

        return played

    def test_forced_acts_say_so(self, play):
        status, text = play(plain=[demo.PLAIN])
        assert status == 0
        assert text.count("The fault was then forced") == 2
        assert re.search(r"^create_connection +[\d,]+ +1\* ", text, re.MULTILINE)
        assert re.search(r"^safedial +[\d,]+ +0, \d+ released\* ", text, re.MULTILINE)
        assert "* forced" in text

    def test_a_row_that_is_not_clean_is_exit_status_1(self, play):
        status, text = play(plain=[demo.PLAIN], safe=dataclasses.replace(demo.PLAIN, name="safedial"))
        assert status == 1
        assert "safedial's row is not clean: self-connected sockets that its loop was given: 1" in text

    def test_what_happened_before_the_comeback(self, report):
        assert "100,000 times in 4.00 s, and was never connected to itself." in report.before(CLEAN)
        assert "until the kernel drew 40000" in report.before(but(self_connects=1))
        assert "safedial released 2 self-connects" in report.before(but(released=2))
        assert "forced: without success" in report.before(but(forced=True))

    def test_whether_the_server_came_back(self, report):
        assert report.after(CLEAN, "") == "The server was back in 0.00 s, and the loop reached it."
        late = but(binds=2, failed=1, error=IN_USE, reached=False)
        assert f"after 1 failed bind ({IN_USE}), but the loop did not reach it" in report.after(late, "")
        assert report.after(but(**GONE), "Why.").endswith(f"bind failed 400 times in 4 s, {IN_USE}. Why.")

    def test_steering_is_reported(self, report):
        assert "kept off local port 40000" in report.steering(40000, steered=True)
        assert "can't be steered" in report.steering(40000, steered=False)


class TestCommand:
    @pytest.mark.storm
    def test_demo(self):
        pytest.importorskip("rich")
        ended = run("demo")
        assert ended.stderr == ""
        assert ended.returncode == 0, ended.stdout
        assert "\x1b" not in ended.stdout
        assert "\r" not in ended.stdout
        rows = {row[0]: row[1:] for row in (re.split(" {2,}", line.strip()) for line in ended.stdout.splitlines())}
        dials, self_connects, binds, failed, back = rows["create_connection"]
        assert int(dials.replace(",", "")) > 0
        assert self_connects.rstrip("*") == "1"
        assert binds == failed
        assert back == "never, in 4 s"
        assert int(rows["plain close (Go's way)"][1].rstrip("*")) >= 1
        if sys.platform == "linux":
            assert rows["plain close (Go's way)"][-1] == "never, in 4 s"
        assert rows["safedial"][1].split(",")[0] == "0"
        assert re.fullmatch(r"[\d.]+ s", rows["safedial"][-1])

    def test_exit_status_is_the_report_s(self, monkeypatch):
        pytest.importorskip("rich")
        from safedial.cli import demo_report

        monkeypatch.setattr(demo_report, "run", lambda: 1)
        assert cli.main(["demo"]) == 1

    def test_no_loopback_is_an_error_without_traceback(self, monkeypatch, capsys):
        pytest.importorskip("rich")
        from safedial.cli import demo_report

        def denied():
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(demo_report, "run", denied)
        assert cli.main(["demo"]) == 1
        assert "Operation not permitted" in capsys.readouterr().err

    @pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent")
    def test_interrupt_is_exit_status_130(self):
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

    def test_without_rich(self, tmp_path: Path):
        (tmp_path / "rich.py").write_text("raise ImportError('not installed')\n")
        path = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
        ended = run("demo", PYTHONPATH=os.pathsep.join(path))
        assert ended.returncode == 2
        assert ended.stdout == ""
        assert "pip install 'safedial[cli]'" in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_importing_the_command_line_loads_no_rich(self):
        code = "import safedial.cli, sys; sys.exit('rich' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def test_version(self):
        ended = run("--version")
        assert (ended.returncode, ended.stdout) == (0, f"safedial {safedial.__version__}\n")

    def test_a_command_is_required(self, capsys):
        with pytest.raises(SystemExit, match="2"):
            cli.main([])
        assert "command" in capsys.readouterr().err
