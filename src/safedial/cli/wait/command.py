"""The command that follows the wait. It takes the place of this process: its pid, descriptors, terminal and signals."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from safedial._address import printable
from safedial.cli.wait import show

# A shell's statuses for a command that does not exist, and for one that can't be executed.
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
# Python ignores these when it starts, and a program that takes its place would inherit that. exec resets the signals
# that Python or asyncio handle to their default; all others are as they were.
_IGNORED = ("SIGPIPE", "SIGXFSZ", "SIGXFZ")


def run(command: Sequence[str]) -> int:
    """Run *command* in the place of this process, and return only if that failed: the status, after a word of why.

    Windows has no such thing: there it runs as a child, whose status is returned.
    """
    return in_place(command) if os.name == "posix" else as_child(command)


def in_place(command: Sequence[str]) -> int:
    """Replace this process."""
    with contextlib.suppress(AttributeError, OSError):  # it is closed, or nobody reads it: the command's own affair
        sys.stdout.flush()
    for name in _IGNORED:
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Python only notes a signal, and handles it later. From here on there is no later.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        os.execvpe(command[0], list(command), _environment())  # noqa: S606  # no shell, on purpose
    except OSError as error:
        return _failed(command[0], error)


def as_child(command: Sequence[str]) -> int:
    """Run *command* as a child of this process."""
    name, *arguments = command
    # The console tells the child, too: it says whether to end. An exception could come while wait() has the status.
    before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        # which(): Windows finds a .cmd or .bat only by its whole name.
        with subprocess.Popen([shutil.which(name) or name, *arguments]) as child:  # noqa: S603  # as the user typed it
            return child.wait()
    except OSError as error:
        return _failed(name, error)
    finally:
        signal.signal(signal.SIGINT, before)


def _failed(name: str, error: OSError) -> int:
    why, status = error.strerror or str(error), _NOT_EXECUTABLE
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        if shutil.which(name):
            why = (
                "the interpreter that its first line names is not found (line endings of Windows have the same effect)"
            )
        else:
            why, status = "not found", _NOT_FOUND
    elif error.errno == errno.ENOEXEC:
        why = f'{why} (a script needs a first line such as "#!/bin/sh")'
    show.log(f"can't run {printable(name)}: {why}")
    return status


def _environment() -> Mapping[str, str]:
    """Return the environment that this process was started with.

    In the C locale Python adds LC_CTYPE to its own (PEP 538), and a program in its place would inherit that.
    """
    try:
        began = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:  # not Linux
        return os.environ
    return {
        name: value for name, value in os.environ.items() if name != "LC_CTYPE" or f"LC_CTYPE={value}".encode() in began
    }
