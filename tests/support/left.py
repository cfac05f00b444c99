"""The open descriptors and the child processes of this process, to test that nothing is left behind."""

import os
from pathlib import Path

_FDS = Path("/proc/self/fd")


def open_descriptors() -> dict[str, str]:
    found = {}
    for entry in _FDS.iterdir() if _FDS.exists() else ():
        try:
            found[entry.name] = os.readlink(entry)
        except OSError:
            continue  # the listing's own descriptor
    return {fd: target for fd, target in found.items() if not target.startswith("/proc/")}


def children(process: int | None = None) -> set[str]:
    """Return the ids of the child processes of *process*, or of this process."""
    process = process or os.getpid()
    listing = Path(f"/proc/{process}/task/{process}/children")
    return set(listing.read_text().split()) if listing.exists() else set()


def has_ended(process: int) -> bool:
    """Return whether a process has ended; it may not be reaped yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
