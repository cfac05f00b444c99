"""One look at a port that is to become free: a server could bind it.

That nobody listens is not enough: a connection that has the port as its own, even one to itself, keeps a server away.
"""

import errno
import os
import socket
from pathlib import Path

from safedial._address import SockAddr
from safedial._tcp import procnet
from safedial.cli.doctor import processes, who
from safedial.cli.doctor.facts import Endpoint, Kind, Socket
from safedial.cli.wait import threads, unix
from safedial.cli.wait.progress import NotReady
from safedial.cli.wait.targets import Target

_KINDS: dict[bytes, Kind] = {procnet.LISTENING: "listening", procnet.IN_TIME_WAIT: "time_wait"}
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


async def look(target: Target, _step: object = None) -> None:
    """Return if a server could bind each address of *target*, without a host every address; or raise why not.

    As servers do, the socket sets SO_REUSEADDR: connections in TIME_WAIT are not in the way of such a server. It is
    closed at once and never listens. A Unix socket is gone if there is no such file, or nobody listens.

    Raises:
        NotReady: somebody has the port.
        PermissionError: this user may not bind such a port, so that nothing is known.
        ValueError: no address of the target is of this host.
        OSError: others, the kernel's or the resolver's.
    """
    if target.path:
        _look_at_path(target.path)
        return
    host = target.host or None  # of every address
    infos = await threads.resolve(host, target.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    missing: OSError | None = None
    found = 0
    for family, _, _, _, sockaddr in infos:
        try:
            _bind(family, sockaddr)
            found += 1
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                holder = await threads.call(_holder, target.port)
                raise NotReady(error.errno, holder or error.strerror) from None
            if error.errno not in _NO_SUCH_ADDRESS:
                raise
            missing = error
    if not found and missing is not None:
        why = "no address of this host, and only its own host can tell whether a port is free"
        raise ValueError(f"{why}: {missing.strerror}")


def _bind(family: int, sockaddr: SockAddr) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        if os.name == "posix":  # on Windows it would take the port from its owner
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(sockaddr)


def _holder(port: int) -> str:
    """Say which socket has *port*: the one that listens, if there is one. Empty if no table shows it."""
    found = min(procnet.sockets_on(port), key=_harmless, default=None)
    if found is None:
        return ""
    local, peer, state, number = found
    kind, inode = _KINDS.get(state, "connected"), int(number)
    those = processes.find([inode])[0].get(inode) if inode else ()
    return who.predicate(Socket(kind, Endpoint(*procnet.read(local)), Endpoint(*procnet.read(peer)), inode, those))


def _harmless(row: procnet.Row) -> tuple[bool, ...]:
    """Order sockets: connections that a server had accepted are not in the way of one that sets SO_REUSEADDR."""
    return row.state != procnet.LISTENING, row.local != row.peer, row.state == procnet.IN_TIME_WAIT


def _look_at_path(path: str) -> None:
    try:
        unix.connect(path).close()
    except ConnectionRefusedError:
        if not Path(path).is_socket():  # a server removes a socket that was left over, but nothing else
            raise NotReady(errno.EADDRINUSE, "taken: by what is no socket", hint=f"See: ls -ld {path}") from None
        return
    except NotReady as error:
        if error.errno != errno.ENOENT:
            raise
        return
    raise NotReady("taken: a server accepts connections")
