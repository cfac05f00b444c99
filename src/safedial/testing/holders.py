"""Who holds a port: for people, from /proc. Linux only; elsewhere nobody can be named."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

# include/net/tcp_states.h
_STATES = {"01": "ESTABLISHED", "06": "TIME_WAIT", "07": "CLOSE", "08": "CLOSE_WAIT", "0A": "LISTEN"}

# proc_net_tcp(5): local address, peer, state, ..., inode.
_ROW = re.compile(r"^ *\d+: (\w+:(\w{4})) (\w+:\w{4}) (\w\w) (?:\S+ +){3}\S+ +\S+ +(\d+)", re.MULTILINE)


def holders(port: int) -> list[str]:
    """Name the sockets of this host that have *port* as their local port, with their processes."""
    found: list[str] = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            rows = Path(f"/proc/thread-self/net/{table}").read_text()
            for local, local_port, peer, state, inode in _ROW.findall(rows):
                if int(local_port, 16) == port:
                    itself = " to itself" if peer == local else ""
                    found.append(f"{_STATES.get(state, state)}{itself}, {_process(inode)}")
    return found


def _process(inode: str) -> str:
    if inode == "0":
        return "of no process any more"
    for number, name in _processes_with(f"socket:[{inode}]"):
        return f"of process {number} ({name})"
    return "of an unknown process"


def _processes_with(target: str) -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone, or another user's
            if any(_leads_to(link, target) for link in (entry / "fd").iterdir()):
                yield int(entry.name), (entry / "comm").read_text().strip()


def _leads_to(link: Path, target: str) -> bool:
    try:
        return str(link.readlink()) == target
    except OSError:
        return False  # closed meanwhile
