"""Names that come and go, for one thread and for those that it starts: C libraries see them too.

A thread may have a mount namespace of its own (unshare(2)), and with it an /etc/hosts of its own. Needs root.
"""

import os
import sys
from pathlib import Path

from tests.support import libc

NAME = "server.test"  # RFC 6761: no name server has it
_CLONE_NEWNS = 0x20000  # linux/sched.h
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000  # linux/mount.h
# glibc gives both addresses of a name that is listed twice.
_LOCALHOST = "127.0.0.1 localhost\n::1 localhost\n"


def lacking():
    """Return why there can be no such names here; empty if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, for an /etc/hosts of its own"
    return ""


class Hosts:
    """The names that threads see after they have called `enter`: localhost, with two addresses, and those added."""

    def __init__(self, directory):
        self._files = {name: Path(directory, name) for name in ("hosts", "nsswitch.conf")}
        self._files["hosts"].write_text(_LOCALHOST)
        # No name server: a name that is not in the file does not exist (EAI_NONAME).
        self._files["nsswitch.conf"].write_text("hosts: files\n")

    def add(self, name):
        # Into the same file, because the mount is of the inode.
        with self._files["hosts"].open("a") as file:
            file.write(f"127.0.0.1 {name}\n")

    def enter(self):
        """Let this thread, and the threads that it starts, see these names."""
        libc.call("unshare", _CLONE_NEWNS)
        libc.call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
        for name, path in self._files.items():
            libc.call("mount", str(path).encode(), f"/etc/{name}".encode(), None, _MS_BIND, None)
