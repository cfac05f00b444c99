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
    try:
        sock.setblocking(False)
        sock.connect(path)
    except BlockingIOError as error:
        sock.close()
        raise NotReady(error.errno, "its backlog is full: the server does not accept") from error
    except (FileNotFoundError, PermissionError) as error:
        sock.close()
        raise NotReady(error.errno, error.strerror) from error
    except BaseException:
        sock.close()
        raise
    return sock
