"""Faults of the real kernel, made on purpose and without root (see the README's "How it is tested")."""

import contextlib
import errno
import os
import socket

from safedial import ports

MEANS = ("option", "bind")


def option(low: int, high: int) -> tuple[int, int, int]:
    """IP_LOCAL_PORT_RANGE as a member of socket_options."""
    return (socket.IPPROTO_IP, ports.IP_LOCAL_PORT_RANGE, ports.option_value(ports.PortRange(low, high)))


def kernel_steers() -> bool:
    with socket.socket() as sock:
        try:
            sock.setsockopt(*option(0, 0))
        except OSError:
            return False
    return True


def forcing_socket(means: str, port: int, times: int = 10**9) -> type[socket.socket]:
    """A socket class whose next connects, *times* of them, make the kernel draw *port*.

    It comes after whatever the code under test has set on the socket, so it defeats steering.
    """
    left = times

    class Forcing(socket.socket):
        forced = False

        def connect(self, address):
            nonlocal left
            if not self.forced and left > 0 and self.type == socket.SOCK_STREAM:
                self.forced = True  # asyncio's dial connects a socket twice
                left -= 1
                if means == "option":
                    self.setsockopt(*option(port, port))
                else:
                    self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    self.bind(address)
            return super().connect(address)

    return Forcing


def free_port(family: int = socket.AF_INET, host: str = "127.0.0.1", *, skip: int = 0) -> int:
    """A free even port inside the ephemeral range: the kind that connect() likes to draw."""
    low, high = ports.read_range() or (32768, 60999)
    middle = (low + high) // 2
    # Workers of pytest-xdist, and other runs on this machine, must not take each other's dead ports
    # for theirs: each process has a place of its own to begin at. 131 is prime.
    own = os.getpid() * 131 % max(1, (high - middle) // 2)
    start = (middle + own + skip) & ~1
    for port in range(start, high, 2):
        with socket.socket(family) as sock, contextlib.suppress(OSError):
            sock.bind((host, port))
            return port
    raise AssertionError("no free even port")


def assert_server_can_bind(host: str, port: int) -> None:
    """Bind and listen as the strictest server does: without SO_REUSEADDR."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
        server.bind((host, port))
        server.listen()


@contextlib.contextmanager
def held_port():
    """A port that a bind holds, so that the kernel never draws it."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", free_port(skip=2000)))
        yield holder.getsockname()[1]


@contextlib.contextmanager
def listener(host: str = "127.0.0.1", port: int = 0, backlog: int = 128):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=backlog) as server:
        yield server


@contextlib.contextmanager
def full_listener():
    """A server whose backlog is full: further dials get no answer."""
    with listener(backlog=0) as server, contextlib.ExitStack() as stack:
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            assert filler.connect_ex(server.getsockname()) in (0, errno.EINPROGRESS)
        yield server
