"""Who holds a port, in words, from /proc. On Linux only; elsewhere nobody can be named."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from safedial._tcp import procnet

# include/net/tcp_states.h
_STATES = {b"01": "ESTABLISHED", b"06": "TIME_WAIT", b"07": "CLOSE", b"08": "CLOSE_WAIT", b"0A": "LISTEN"}


def holders(port: int) -> list[str]:
    """Describe each TCP socket of this host whose local port is *port*, and its process."""
    return [_described(row) for row in procnet.sockets_on(port)]


def _described(row: procnet.Row) -> str:
    state = _STATES.get(row.state, f"state {row.state.decode()}")
    return f"{state}{' to itself' if row.peer == row.local else ''}, {_process(row.inode.decode())}"


def _process(inode: str) -> str:
    if inode == "0":
        return "of no process any more"
    number, name = next(_processes_with(f"socket:[{inode}]"), (None, None))
    return "of an unknown process" if number is None else f"of process {number} ({name})"


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
