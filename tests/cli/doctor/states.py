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


def unanswered(listener_host, port, local):
    """Fill the queue of a listener, and yield all sockets and one that dials it from *local* in vain (SYN_SENT)."""
    stack = contextlib.ExitStack()
    full = stack.enter_context(socket.create_server((listener_host, port), backlog=0))
    for _ in range(4):
        filler = stack.enter_context(socket.socket())
        filler.setblocking(False)
        assert filler.connect_ex(full.getsockname()) in (0, errno.EINPROGRESS)
    last = stack.enter_context(socket.socket())
    last.bind((listener_host, local))
    last.setblocking(False)
    assert last.connect_ex(full.getsockname()) == errno.EINPROGRESS
    return stack
