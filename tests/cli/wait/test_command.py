"""The command that follows the wait, without the wait."""

import os
import re
import signal
import stat
import subprocess
import sys

import pytest

from safedial.cli.wait import command

posix = pytest.mark.skipif(os.name != "posix", reason="this system has no exec that keeps the process")


def in_place(*arguments, code="", **options):
    """Replace a Python process, after *code*, by the command *arguments*."""
    options.setdefault("env", {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"})
    start = (
        f"import signal, sys\nfrom safedial.cli.wait import command\n{code}\nsys.exit(command.in_place({arguments}))"
    )
    return subprocess.run(
        [sys.executable, "-c", start], capture_output=True, text=True, timeout=60, check=False, **options
    )


def script(folder, text, mode=0o755):
    path = folder / "start"
    path.write_text(text)
    path.chmod(stat.S_IFREG | mode)
    return str(path)


@posix
def test_output_before_comes_first_and_the_status_is_the_commands():
    ended = in_place("sh", "-c", "echo after; exit 7", code="sys.stdout.write('before ')")
    assert (ended.stdout, ended.stderr, ended.returncode) == ("before after\n", "", 7)


def told(output):
    """Return what a process told of its environment and signals, without 32 and up: libc's own, and real-time ones."""
    variables, _, signals = output.partition("SigBlk:")
    return sorted(variables.splitlines()), [int(each, 16) & 0x7FFFFFFF for each in re.findall(r"\t(\w+)", signals)]


@posix
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is read")
@pytest.mark.parametrize("way", [{"restore_signals": True}, {"restore_signals": False}], ids=["usual", "ignored"])
def test_signals_and_environment_are_as_this_process_got_them(way):
    """Also those that somebody ignores or blocks on purpose, such as nohup, and a shell for its background jobs."""
    if not way["restore_signals"]:
        way["preexec_fn"] = lambda: [
            signal.signal(signal.SIGHUP, signal.SIG_IGN),
            signal.signal(signal.SIGINT, signal.SIG_IGN),
            signal.signal(signal.SIGPIPE, signal.SIG_DFL),
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL),
            signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1}),
        ]
    clean = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    see = ("sh", "-c", "env | grep -vE '^(_|PWD|SHLVL)='; grep -E '^Sig(Blk|Ign)' /proc/self/status")
    bare = subprocess.run(see, capture_output=True, text=True, check=True, env=clean, **way)
    code = "import asyncio; asyncio.run(asyncio.sleep(0))"
    ours = told(in_place(*see, code=code, env=clean, **way).stdout)
    assert ours == told(bare.stdout)
    assert len(ours[1]) == 2


@posix
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is read")
def test_descriptors_that_were_inherited_stay_and_no_other():
    """Descriptor 3 and up may be sockets of systemd's."""
    ours, theirs = os.pipe()
    try:
        see = ("sh", "-c", "ls /proc/$$/fd; cat")
        code = "import socket; open_here = socket.socket()"
        ended = in_place(*see, code=code, pass_fds=(theirs,), input="stdin is left as it is")
        *descriptors, read = ended.stdout.split(maxsplit=4)
        assert sorted(map(int, descriptors)) == [0, 1, 2, theirs]
        assert read == "stdin is left as it is"
    finally:
        os.close(ours)
        os.close(theirs)


@posix
@pytest.mark.parametrize(
    ("text", "mode", "status", "says"),
    [
        (None, 0, 127, "not found"),
        ("#!/bin/sh\n", 0o644, 126, "Permission denied"),
        ("exit 0\n", 0o755, 126, 'first line such as "#!/bin/sh"'),
        ("#!/bin/sh\r\n", 0o755, 126, "the interpreter that its first line names"),
    ],
    ids=["missing", "not executable", "no first line", "no interpreter"],
)
def test_command_that_cannot_be_run(capsys, tmp_path, text, mode, status, says):
    path = str(tmp_path / "none") if text is None else script(tmp_path, text, mode)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)}
    try:
        assert command.run([path]) == status
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    said = capsys.readouterr().err
    assert said.startswith(f"safedial: can't run {path}: ")
    assert says in said
    assert said.count("\n") == 1


def test_name_of_a_command_that_is_not_there_can_not_forge_the_log(capsys):
    assert command.as_child(["\x1b[2J\nsafedial: db:1: ready"]) == 127
    assert capsys.readouterr().err == r"safedial: can't run \x1b[2J\nsafedial: db:1: ready: not found" + "\n"


@posix
def test_command_is_looked_for_in_path(capsys, tmp_path):
    script(tmp_path, "#!/bin/sh\necho found\n")
    ended = in_place("start", env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"})
    assert (ended.stdout, ended.returncode) == ("found\n", 0)


def test_as_child_its_status_is_returned(capfd):
    code = "import sys; print('here'); sys.exit(7)"
    assert command.as_child([sys.executable, "-c", code]) == 7
    assert capfd.readouterr().out == "here\n"


def test_as_child_that_does_not_exist(capsys):
    assert command.as_child(["no-such-command-here"]) == 127
    assert capsys.readouterr().err == "safedial: can't run no-such-command-here: not found\n"


@posix
def test_as_child_it_decides_what_an_interrupt_does():
    """On Windows, too, the console tells parent and child."""
    child = "import sys, time\ntry: print('waits', flush=True); time.sleep(60)\nexcept KeyboardInterrupt: sys.exit(7)"
    wait = f"[sys.executable, '-c', {child!r}]"
    code = f"import sys\nfrom safedial.cli.wait import command\nsys.exit(command.as_child({wait}))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline() == "waits\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 7


@posix
def test_as_child_an_interrupt_as_it_ends_does_not_change_its_status():
    child = "trap '' INT; kill -INT $PPID; exit 7"
    assert {command.as_child(["/bin/sh", "-c", child]) for _ in range(100)} == {7}
