"""Sockets in states that the doctor has to tell apart, all in one network namespace. Range: 40000 to 40099."""

import contextlib
import errno
import socket

RANGE = (40000, 40099)


def client(host, port, local, source=None):
    """Return a socket that is connected to *host* and *port*, as if the kernel had drawn the port *local*."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((source or host, local))
    sock.connect((host, port))
    return sock


def itself(host, port):
    """Return a socket that is connected to itself."""
    return client(host, port, port)


@contextlib.contextmanager
def server(host="127.0.0.1", port=20000, *, dual=False):
    """Yield a listener."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual or "." in host else 1)
        sock.bind((host, port))
        sock.listen(128)
        yield sock


def pair(listener, local, source=None):
    """Return a connection to *listener* from the port *local*, and the accepted one."""
    near = client(*listener.getsockname()[:2], local, source)
    return near, listener.accept()[0]


def time_wait(listener, local):
    """Leave the port *local* in TIME_WAIT towards *listener*."""
    near, far = pair(listener, local)
    near.close()
    far.close()


def unanswered(port, local):
    """Return a stack of sockets: a listener whose queue is full, and one that dials it from *local*, in SYN_SENT."""
    stack = contextlib.ExitStack()
    full = stack.enter_context(socket.create_server(("127.0.0.1", port), backlog=0))
    for source in (*range(port + 1, port + 5), local):
        dialing = stack.enter_context(socket.socket())
        dialing.bind(("127.0.0.1", source))
        dialing.setblocking(False)
        assert dialing.connect_ex(full.getsockname()) in (0, errno.EINPROGRESS)
    return stack
