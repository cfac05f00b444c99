"""What ends with pytest: the command of an outage, the child of a namespace, and their children."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import safedial
from safedial import testing
from safedial.testing import process_group
from tests.support import faults, left, libc
from tests.support.databases import _directory, postgres_command  # noqa: F401  # fixtures
from tests.support.forked import ends_well
from tests.support.plain import answers, ask, eventually

needs_redis = pytest.mark.skipif(
    not shutil.which("redis-server"), reason="redis-server is not installed: apt-get install redis-server"
)

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
REDIS = ["redis-server", "--bind", "{host}", "--port", "{port}", "--save", ""]


def with_child(file):
    """Return the command of a redis-server that has a child process, whose id is written to *file*."""
    return ["sh", "-c", f'sleep 3600 & echo $! >{file}; exec "$@"', "sh", *REDIS]


def all_have_ended(numbers):
    return eventually(lambda: all(left.has_ended(number) for number in numbers))


@pytest.fixture
def start(tmp_path):
    """Start a program that writes the ids of the processes that must end with it; return it, and those ids."""

    def started(*words, directory=tmp_path):
        ready = Path(directory, "ready")
        paths = [str(Path(safedial.__file__).parents[1]), str(Path(__file__).parents[2])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        with Path(directory, "printed").open("w") as printed:
            process = subprocess.Popen(
                [sys.executable, *words], cwd=directory, env=environment, stdout=printed, stderr=printed
            )
        assert eventually(lambda: ready.exists() or process.poll() is not None)
        assert ready.exists(), Path(directory, "printed").read_text()
        return process, [int(word) for word in ready.read_text().split()]

    return started


@needs_redis
def test_nothing_is_left_when_pytest_is_terminated(pytester, start, monkeypatch):
    """Neither the command of an outage nor the child of a namespace, nor what they have started."""
    pytester.makepyfile(
        functions="""
        import os, subprocess, time

        def call():
            with open("part", "a") as part:
                print(os.getpid(), subprocess.Popen(["sleep", "3600"]).pid, file=part)
            os.rename("part", "ready")
            time.sleep(3600)
        """,
        test_it=f"""
        import functions
        from safedial.testing.namespace import in_child

        def test_it(outage):
            server = outage({with_child("part")!r})
            with open("part", "a") as part:
                print(server._server._process.pid, file=part)
            in_child(functions.call, within=3600)
        """,
    )
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    process, numbers = start("-m", "pytest", "-p", "safedial.pytest_plugin", directory=pytester.path)
    assert len(numbers) == 4
    process.terminate()
    assert process.wait() == -signal.SIGTERM
    assert all_have_ended(numbers)


SCRIPT = """
import os, signal, sys, time
from safedial import testing

with testing.Outage({command}) as server:
    process = server._server._process
    with open("part", "a") as part:
        print(process.pid, file=part)
    {what}
    os.rename("part", "ready")
    {end}
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


@needs_redis
@pytest.mark.parametrize(
    ("what", "end"),
    [
        ("process.kill(), process.wait()", "os._exit(3)"),
        # SIGHUP, SIGINT, SIGTERM
        ("[os.kill(server._server._group.number, number) for number in (1, 2, 15)]", KILL),
    ],
    ids=["has seen its main process end, and exits", "was told to end with all others, and is killed"],
)
def test_a_command_ends_with_a_process_that(start, what, end):
    process, numbers = start("-c", SCRIPT.format(command=with_child("part"), what=what, end=end))
    process.wait()
    assert len(numbers) == 2
    assert all_have_ended(numbers)


@pytest.mark.storm
def test_postgresql_ends_with_its_sessions(start, request):
    """Each of its processes leads a group of its own, and ends when it sees that the first one has gone."""
    children = """
    import psycopg
    from tests.support import databases, left
    databases.postgres_answers(server.port)
    session = psycopg.connect(host="127.0.0.1", port=server.port, user=databases.USER, dbname="postgres")
    with open("part", "a") as part:
        print(session.info.backend_pid, *left.children(process.pid), file=part)
"""
    command = request.getfixturevalue("postgres_command")
    process, numbers = start("-c", SCRIPT.format(command=command, what=children, end=KILL))
    process.wait()
    assert len(numbers) > 4
    assert all_have_ended(numbers)


@needs_redis
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
def test_a_frozen_command_ends_with_a_process_whose_orphans_stay_in_the_session(start):
    """As in a container. Elsewhere the kernel resumes a group that becomes an orphan (setpgid(2))."""
    before = left.children()
    libc.call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        process, numbers = start("-c", SCRIPT.format(command=with_child("part"), what="server.freeze()", end=KILL))
        process.wait()
        assert all_have_ended(numbers)
    finally:
        libc.call("prctl", PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        for child in left.children() - before:
            os.kill(int(child), signal.SIGKILL)
            os.waitpid(int(child), 0)


@needs_redis
def test_a_fork_that_lives_on_keeps_no_command(start, tmp_path):
    """Such as a worker of multiprocessing, which has a copy of each descriptor."""
    fork = "(fork := os.fork()) or time.sleep(60) or os._exit(0); open('fork', 'w').write(str(fork))"
    process, numbers = start("-c", SCRIPT.format(command=with_child("part"), what=fork, end=KILL))
    process.wait()
    try:
        assert all_have_ended(numbers)
    finally:
        os.kill(int((tmp_path / "fork").read_text()), signal.SIGKILL)


@needs_redis
def test_a_command_that_leaves_its_group_ends_with_the_outage():
    with testing.Outage(["sh", "-c", 'exec setsid "$@"', "sh", *REDIS]) as server:
        process = server._server._process
        assert eventually(lambda: os.getpgid(process.pid) == process.pid)
    assert left.has_ended(process.pid)


@needs_redis
def test_children_that_outlive_a_command_end_with_the_outage(tmp_path):
    with testing.Outage(with_child(tmp_path / "child")) as server:
        process, group = server._server._process, server._server._group
        process.kill()
        process.wait()
        # The watcher has the number: it can't be another group's by now.
        assert os.getpgid(group.number) == group.number
    assert all_have_ended([int((tmp_path / "child").read_text())])


def test_a_command_that_does_not_exist_leaves_no_watcher():
    with pytest.raises(FileNotFoundError, match="no-such-command"):
        testing.Outage(["no-such-command", "{port}"]).start()
    assert not left.children()


@needs_redis
@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "a zombie"])
def test_a_watcher_that_was_killed(reaped):
    """If somebody else has reaped it, its number may be another's: the command alone gets signals."""
    with testing.Outage(REDIS) as server:
        process, group = server._server._process, server._server._group
        os.kill(group.number, signal.SIGKILL)
        os.waitid(os.P_PID, group.number, os.WEXITED | (0 if reaped else os.WNOWAIT))
        with pytest.MonkeyPatch.context() as patch:
            sent = []
            patch.setattr(os, "killpg", lambda *args: sent.append(args))
            group.thaw()
            assert bool(sent) is not reaped
        server.freeze()
        with pytest.raises(TimeoutError):
            socket.create_connection(server.address, 0.05)
        server.start()
        assert ask(server, b"PING\r\n") == b"+PONG\r\n"
    assert left.has_ended(process.pid)


@needs_redis
def test_a_start_bypasses_faults_and_connections_that_have_ended():
    with testing.Outage(REDIS) as server:
        assert ask(server, b"QUIT\r\n") == b"+OK\r\n"  # its end is in TIME_WAIT
        server.stop()
        with testing.address_not_available(server.port, times=None, unused="ignore") as fault:
            assert server.start().binds == 1
        assert fault.triggered == 0


@needs_redis
def test_children_that_nobody_waits_for():
    """The kernel reaps them itself (sigaction(2))."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with testing.Outage(REDIS) as server:
            process = server._server._process
            server.freeze()
            server.start()
            assert ask(server, b"PING\r\n") == b"+PONG\r\n"
            server.refuse_for(1)
            assert [answers(server) for _ in range(2)] == [False, True]
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert left.has_ended(process.pid)


def test_a_group_gets_no_signals_after_its_end(monkeypatch):
    with process_group.ProcessGroup() as group:
        pass
    # Its number may be another's by now.
    monkeypatch.setattr(os, "killpg", lambda *args: pytest.fail("a group was signalled"))
    monkeypatch.setattr(os, "waitid", lambda *args: None)
    group.kill()


@needs_redis
@faults.forks_among_threads
def test_a_forked_child_ends_no_command():
    with testing.Outage(REDIS) as server:
        assert ends_well(lambda: server.kill())
        assert ends_well(lambda: server.__exit__(None, None, None))
        assert ask(server, b"PING\r\n") == b"+PONG\r\n"
        server.freeze()
        assert ends_well(lambda: server.stop())
        server.start()
        assert ask(server, b"PING\r\n") == b"+PONG\r\n"
