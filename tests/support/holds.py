"""For tests of holding: what else may have the port, and a loop of dials that counts self-connects."""

import contextlib
import errno
import fcntl
import socket
import struct
import time

from safedial._tcp import steering
from safedial._tcp.selfconnect import RESET
from tests.support import faults
from tests.support.namespace import set_port_range

HOST = "127.0.0.1"
# A port that no test's range has.
OTHER_PORT = 2222
# A range of so few is that of a namespace.
_MOST_PORTS = 10
_SIOCSIFADDR = 0x8916  # linux/sockios.h


@contextlib.contextmanager
def ordinary_connection(port, host=HOST, *, reuse=False):
    """Connect a socket to some server, from local *port*, which the kernel drew."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, OTHER_PORT), family=family) as other, socket.socket(family) as sock:
        if reuse:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with _draws(port, sock):
            sock.connect(other.getsockname())
        assert sock.getsockname()[1] == port
        with other.accept()[0]:
            yield sock


@contextlib.contextmanager
def _draws(port, sock):
    """Leave the kernel only *port* to draw for *sock*."""
    before = steering.read_range()
    if faults.kernel_steers() or before.high - before.low > _MOST_PORTS:
        sock.setsockopt(*faults.option(port, port))
        yield
        return
    set_port_range(port, port)  # in a namespace of the test's own
    try:
        yield
    finally:
        set_port_range(*before)


@contextlib.contextmanager
def time_wait(port):
    """Leave *port* in TIME_WAIT."""
    with ordinary_connection(port) as sock:
        sock.close()
    yield


@contextlib.contextmanager
def listening(host, port, *, reuse=True, backlog=4096):
    """Listen on *host*, a wildcard of IPv6 on IPv4 too."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
        if ":" in host:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if reuse:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        server.listen(backlog)
        yield server


def count_self_connects(host, port, times):
    """Dial as a C library does: socket() and connect(). Any other outcome than a refusal is an error."""
    count = 0
    for _ in range(times):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            code = sock.connect_ex((host, port))
            if not code:
                assert sock.getsockname() == sock.getpeername()
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                count += 1
            # A range of a few ports: the one that an ordinary connection has, and TIME_WAIT, may be the rest.
            assert code in (0, errno.ECONNREFUSED, errno.EADDRNOTAVAIL)
    return count


def can_start(host, port, *, reuse):
    """Return whether a server starts on *port*. If it does, it is reached, too."""
    try:
        with listening(host, port, reuse=reuse) as server:
            reached = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)
            with socket.socket(server.family) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)  # leaves no TIME_WAIT
                client.connect((reached, port))
                server.accept()[0].close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def starts_beside(dial, far, server):
    """Return whether a server on the host *server* can start on the local port of a connection to *far*.

    While it lives, (whether it goes on working,) in FIN_WAIT2, in TIME_WAIT.
    """
    with listening(*far) as listener:
        sock = dial()
        with sock, listener.accept()[0] as peer:
            port = sock.getsockname()[1]
            found = [can_start(server, port, reuse=True)]
            for one, other in ((sock, peer), (peer, sock)):
                one.sendall(b"still at work")
                found[1:] = [other.recv(20) == b"still at work"]
            sock.close()
            assert peer.recv(1) == b""
            found.append(can_start(server, port, reuse=True))
        return [*found, can_start(server, port, reuse=True)]


def add_address(host):
    """Give the loopback interface of this namespace the address *host*. The program ip has no rights here."""
    if ":" in host:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            packed = socket.inet_pton(socket.AF_INET6, host)
            fcntl.ioctl(sock, _SIOCSIFADDR, struct.pack("=16sIi", packed, 64, socket.if_nametoindex("lo")))
            while True:
                with contextlib.suppress(OSError):  # duplicate address detection has not ended
                    sock.bind((host, 0, 0, socket.if_nametoindex("lo")))
                    break
                time.sleep(0.01)
    else:
        _set_address(b"lo:1", host)


def remove_ipv4():
    """Take 127.0.0.1 from the loopback interface of this namespace."""
    _set_address(b"lo", "0.0.0.0")


def _set_address(name, host):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sockaddr = struct.pack("=H2x4s8x", socket.AF_INET, socket.inet_aton(host))
        fcntl.ioctl(sock, _SIOCSIFADDR, struct.pack("=16s16s8x", name, sockaddr))
