"""A process group that ends with this process, even if this process is killed. POSIX only."""

import contextlib
import os
import signal
import subprocess
from typing import Self
from weakref import WeakSet

# Standard input is a pipe that nobody writes to. It ends when this process ends, and with it the group, the watcher
# itself included. What tells a whole session or container to end must not end the watcher before the group.
_WATCH = "trap '' HUP INT TERM; read -r _; kill -KILL 0"


class ProcessGroup:
    """A group for `subprocess.Popen`'s *process_group*, led by a watcher: a shell that waits for this process to end.

    No thread of this process could do that, nor a signal handler: SIGKILL and SIGTERM end pytest at once. Nor could
    PR_SET_PDEATHSIG: it fires when the thread that started a command ends, and grandchildren don't inherit it.

    The watcher comes before the command, so nothing is unwatched for a moment. As long as it is not reaped, the number
    of the group is not given to other processes. If somebody else has reaped it (``os.wait()``, or the kernel because
    SIGCHLD is ignored), nobody can know whose the number is, and the group gets no signals any more. A process that
    leaves the group is not found: a session of PostgreSQL leaves, but ends by itself when its parent has gone.

    Attributes:
        number: the group's number.
    """

    def __init__(self) -> None:
        null = subprocess.DEVNULL
        self._watcher = subprocess.Popen(  # noqa: S603  # a fixed script
            ["/bin/sh", "-c", _WATCH], stdin=subprocess.PIPE, stdout=null, stderr=null, bufsize=0, process_group=0
        )
        self.number = self._watcher.pid
        _groups.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Kill all processes of the group, and the watcher."""
        self._signal(signal.SIGKILL)
        self.let_go()
        self._watcher.wait()

    def freeze(self) -> None:
        """Suspend the group."""
        self._signal(signal.SIGSTOP)
        if self._is_ours():
            os.kill(self.number, signal.SIGCONT)  # the watcher goes on

    def thaw(self) -> None:
        """Let the group go on."""
        self._signal(signal.SIGCONT)

    def let_go(self) -> None:
        """Close this process's end of the pipe."""
        if self._watcher.stdin is not None:
            self._watcher.stdin.close()

    def _signal(self, number: int) -> None:
        if self._is_ours():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.number, number)

    def _is_ours(self) -> bool:
        """Return whether the watcher is not reaped, by nobody."""
        if self._watcher.returncode is not None:
            return False
        if hasattr(os, "waitid"):
            try:
                os.waitid(os.P_PID, self.number, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # reaps nothing
            except ChildProcessError:
                return False
        return True


_groups: WeakSet[ProcessGroup] = WeakSet()


def _let_go_of_all() -> None:
    """Close the pipes in a forked child, which may outlive this process: a worker of multiprocessing does."""
    for group in tuple(_groups):
        with contextlib.suppress(OSError):
            group.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_of_all)
