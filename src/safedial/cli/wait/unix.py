"""Connecting to a Unix socket. The kernel answers at once: connect() never waits in non-blocking mode."""

import socket

from safedial.cli.wait.progress import NotReady


def connect(path: str) -> socket.socket:
    """Return a non-blocking socket that is connected to *path*.

    asyncio takes EAGAIN, the answer of a full backlog, for a connect that goes on, and then the socket for connected.

    Raises:
        NotReady: there is no such file yet; the server has not given it its rights yet; its backlog is full.
        OSError: ConnectionRefusedError if nobody listens, and the kernel's other errors.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        why = error.strerror
        if isinstance(error, FileNotFoundError):
            hint = "No such file is there: has the server started, and is the directory shared with its container?"
        elif isinstance(error, PermissionError):
            hint = f"This user may not use the socket: see the rights of {path} and of its directories."
        elif isinstance(error, BlockingIOError):
            why, hint = "its backlog is full: the server does not accept", "The server is busy, or it hangs."
        else:
            raise
        raise NotReady(error.errno, why, hint=hint) from error
    return sock
