"""Which processes have a socket: those with a descriptor of its inode, among the processes that are seen here.

A process of another PID namespace, such as another container's, is not seen, and the descriptors of other users'
processes only by root (ptrace(2), "Ptrace access mode checking").
"""

import contextlib
import os
from collections import defaultdict
from collections.abc import Collection, Iterator

from safedial._address import printable
from safedial.cli.doctor.facts import Process


def find(inodes: Collection[int]) -> tuple[dict[int, tuple[Process, ...]], bool]:
    """Return the processes of each socket of *inodes* that has any, and whether no process refused to be looked at."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, list[Process]] = defaultdict(list)
    all_seen = True
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()) if wanted else ():
        try:
            held = {wanted[link] for link in _links(pid) if link in wanted}
        except PermissionError:
            all_seen = False
            continue
        except OSError:
            continue  # it has ended
        if held:
            process = Process(pid, _name(pid))
            for inode in held:
                found[inode].append(process)
    return {inode: tuple(those) for inode, those in found.items()}, all_seen


def _links(pid: int) -> Iterator[str]:
    """Yield what the descriptors of a process lead to."""
    folder = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                yield os.readlink(name, dir_fd=folder)
    finally:
        os.close(folder)


def _name(pid: int) -> str:
    """Return the name of a process's command, empty if it has ended. A process may give itself any name."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", "rb") as file:
        return printable(file.read().decode(errors="replace").rstrip("\n"))
    return ""
