"""A port that the kernel draws for no connect, for a server that is restarted."""

import contextlib
import errno
import os
import socket
from collections.abc import Generator, Iterator

from safedial._address import family_of
from safedial._forks import lock_held_across_forks
from safedial._tcp import steering
from safedial._tcp.port_settings import PortSettings, read_reserved, reserved_in
from safedial._tcp.steering import PortRange
from safedial.testing.manager import managed
from safedial.testing.ports import bind, check_numeric, is_free

# The ports from which systems draw whose range can't be read: IANA's (RFC 6335 section 6), and Linux's.
_DRAWN = PortRange(32768, 65535)
# The first port that any user may bind.
_FIRST = 1024
# How many ports this process has given out.
_given = 0
# getservbyport(3) has one buffer for all threads.
_lock = lock_held_across_forks()


@managed
def server_port(host: str = "127.0.0.1") -> Generator[int]:
    """Yield a free port for a server that is stopped and started again: no client can draw it meanwhile.

    It lies outside of the ephemeral range, or is one of net.ipv4.ip_local_reserved_ports. At the start it is free on
    all addresses. Until the block ends or the process dies, no other `server_port` of this machine gets it, and the
    server may bind it whenever it likes. On other systems than Linux, a UDP socket at 127.0.0.1 holds the port.

    Args:
        host: the numeric address that the server will listen on. Default: 127.0.0.1.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
        OSError: no such port is free, or *host* is not an address of this host.
    """
    check_numeric(host)
    with _lock:
        claim, port = _chosen(host)
    with claim:
        yield port


def _chosen(host: str) -> tuple[socket.socket, int]:
    """Return a port for a server at *host*, and the socket that claims it."""
    for port in _outside():
        with contextlib.ExitStack() as stack:
            try:
                claim = stack.enter_context(_claim(port))
                with socket.socket(family_of(host), socket.SOCK_STREAM) as probe:
                    bind(probe, host, port)
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):  # Windows reserves ports, too
                    raise
                continue
            if is_free(port) and not _has_a_name(port):
                stack.pop_all()
                return claim, port
    raise OSError(
        errno.EADDRINUSE,
        "no port outside of the ephemeral range is free: narrow it (net.ipv4.ip_local_port_range), or reserve ports in "
        "it (net.ipv4.ip_local_reserved_ports)",
    )


def _outside() -> Iterator[int]:
    """Yield the ports that are never drawn, each time from another one on: those above the range, below it, in it."""
    global _given
    _given += 1
    low, high = drawn = steering.read_range() or _DRAWN
    reserved = sorted(reserved_in(PortSettings(reserved=read_reserved()), drawn))
    for ports in (range(high + 1, 65536), range(_FIRST, low), reserved):
        first = (os.getpid() + _given) % max(1, len(ports))
        yield from ports[first:]
        yield from ports[:first]


def _claim(port: int) -> socket.socket:
    """Return a socket that no other `server_port` has for *port*. It stands in no TCP server's way."""
    # An abstract name (unix(7)): it belongs to this network namespace, as ports do, and goes with the process.
    name: str | tuple[str, int] = f"\0safedial server_port {port}"
    if not steering.ON_LINUX:
        name = "127.0.0.1", port
    claim = socket.socket(socket.AF_UNIX if steering.ON_LINUX else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        claim.bind(name)
    except BaseException:
        claim.close()
        raise
    return claim


def _has_a_name(port: int) -> bool:
    """Return whether some software is known to use *port* (/etc/services)."""
    with contextlib.suppress(OSError):
        return bool(socket.getservbyport(port, "tcp"))
    return False
