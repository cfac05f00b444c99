"""A port that answers no SYN: that of a server which accepts nothing, with a full backlog."""

import contextlib
import socket
from collections.abc import Generator

from safedial.testing.manager import managed
from safedial.testing.ports import bound
from safedial.testing.servers import fill


@managed
def silent_port(host: str = "127.0.0.1") -> Generator[int]:
    """Hold a port of this host that never answers: a connect to it times out, as if packets to a far host were lost.

    So it is for each client, also in other processes and in C. A server listens there whose backlog is full. As long as
    it is, Linux drops every SYN (tcp_conn_request, net/ipv4/tcp_input.c), whatever net.ipv4.tcp_syncookies and
    tcp_abort_on_overflow say. The kernel never draws the port. On macOS it is silent too; Windows refuses a connect
    after some tries (both not tested).

    Args:
        host: a numeric address of this host. Default: 127.0.0.1.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
        OSError: no port is free, or *host* is not an address of this host.
    """
    with bound(host) as listener, full(listener):
        yield listener.getsockname()[1]


@contextlib.contextmanager
def full(listener: socket.socket) -> Generator[None]:
    """Let *listener* listen, and fill its backlog, for as long as it accepts nothing."""
    listener.listen(0)  # the smallest backlog: on Linux, for one connection
    with fill(listener.getsockname()[:2]):
        yield
