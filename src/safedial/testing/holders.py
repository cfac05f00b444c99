"""Who holds a port, in words, from /proc. On Linux only; elsewhere nobody can be named."""

import contextlib
import glob
import os
from pathlib import Path

from safedial._tcp import procnet

# include/net/tcp_states.h
_STATES = {b"01": "ESTABLISHED", b"06": "TIME_WAIT", b"07": "CLOSE", b"08": "CLOSE_WAIT", b"0A": "LISTEN"}


def holders(port: int) -> list[str]:
    """Describe each TCP socket of this host whose local port is *port*, and its process."""
    found: list[str] = []
    for row in procnet.sockets_on(port):
        state = _STATES.get(row.state, f"state {row.state.decode()}")
        found.append(f"{state}{' to itself' if row.peer == row.local else ''}, {_process(row.inode.decode())}")
    return found


def _process(inode: str) -> str:
    if inode == "0":
        return "of no process any more"
    for link in glob.iglob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # gone, or another user's
            if os.readlink(link) == f"socket:[{inode}]":
                number = link.split("/")[2]
                return f"of process {number} ({Path(f'/proc/{number}/comm').read_text().strip()})"
    return "of an unknown process"
