"""Scene 2: a server is down, a client's connection to another server draws its port, the server tries to come back.

No connection is made to itself here. Everything happens in one thread. Linux only: elsewhere safedial does not set
SO_REUSEADDR, which means something else there.
"""

import contextlib
import errno
import socket
import time
from collections.abc import Generator
from dataclasses import dataclass, replace

from safedial._tcp import steering
from safedial._tcp.selfconnect import RESET
from safedial.cli.demo import scene
from safedial.cli.demo.scene import ANSWER, HOST, PATIENCE, REQUEST, Contender, Limits, Stage, Watch
from safedial.testing import dead_port
from safedial.testing.intercept import Connect, intercepting
from safedial.testing.servers import Address

PLAIN = Contender(
    "create_connection",
    "connects as most clients do",
    "The connection holds the port until it ends, and for 60 s more in TIME_WAIT if the client closes it.",
    socket.create_connection,
)
SAFE = replace(scene.SAFE, habit="safe_connect in place of create_connection; it sets SO_REUSEADDR, as servers do")


@dataclass(slots=True, kw_only=True)
class Tally(scene.Tally):
    """The figures of one act. The dials are connections to the other server."""

    other_port: int
    drawn: bool = False  # whether the kernel drew the port of the server that is down
    works: bool = False  # whether the connection that drew it still worked afterwards


def flaws(tally: Tally) -> list[str]:
    """Return the flaws of safedial's *tally*, in words; empty if it is clean, or if the port was not drawn."""
    if not tally.drawn:
        return []
    found: list[str] = []
    if tally.failed:
        failed = f"{tally.failed} of the server's {tally.binds} binds failed ({tally.error})"
        found.append(f"beside a connection to another server, {failed}")
        found.append("another process may have a connection from that port, too: run the demo again")
    if tally.after is not None and not tally.reached:
        found.append("the server that came back beside a connection to another server was not reached")
    if not tally.works:
        found.append("the connection to the other server did not work any more")
    return found


def play(contender: Contender, limits: Limits, *, watch: Watch | None = None) -> Tally:
    """Play one act: connect to another server until the kernel draws the port of the server that is down.

    If it does not within `limits.dialing`, the kernel is forced to, if it has IP_LOCAL_PORT_RANGE.
    """
    port = dead_port(HOST)
    with _other_server(port) as other:
        tally = Tally(name=contender.name, port=port, limits=limits, other_port=other.getsockname()[1])
        began = seen = time.monotonic()

        def look(stage: Stage) -> None:
            if watch is not None:
                watch(stage, tally.dials)

        def draws() -> bool:
            """Connect once. If this draws the port, let the server come back beside the connection."""
            with contender.dial(other.getsockname(), PATIENCE) as near, other.accept()[0] as far:
                # Thousands of connections must not use up the ports: close() resets, and leaves no TIME_WAIT.
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                tally.dials += 1
                tally.seconds_before = time.monotonic() - began
                if near.getsockname()[1] != port:
                    return False
                tally.drawn = True
                tally.come_back(lambda listener: _reached(contender, listener), look)
                tally.works = _talk(near, far)
                return True

        while (now := time.monotonic()) - began < limits.dialing and not draws():
            if now - seen > scene.TICK:
                look("the client dials")
                seen = now
        if not tally.drawn:
            with _drawing(port, other.getsockname()):
                try:
                    draws()
                except OSError as error:
                    if error.errno != errno.EADDRNOTAVAIL:  # the port is reserved: ip_local_reserved_ports
                        raise
            tally.forced = tally.drawn
    return tally


def _other_server(port: int) -> socket.socket:
    """Return a server on a port near the highest, and another one for each *port*.

    Near the highest: outside the ephemeral range or at its end, so that safedial does not steer its clients off *port*.
    Another one: towards the same destination, the kernel would go on from the port that it drew for the last contender,
    and draw *port* very soon.
    """
    for other in range(max(65535 - port % 1000, port + 1), port, -1):
        with contextlib.suppress(OSError):
            listener = socket.create_server((HOST, other))
            listener.settimeout(PATIENCE)
            return listener
    raise OSError(f"no port above {port} is free on {HOST}")


@contextlib.contextmanager
def _drawing(port: int, address: Address) -> Generator[None]:
    """Leave the kernel only *port* to draw for a connect to *address*, beneath the code that connects."""
    option = steering.option_value(steering.PortRange(port, port))

    def intercept(sock: socket.socket, to: object, connect: Connect) -> bool:
        if to != address:
            return False
        with contextlib.suppress(OSError):  # this kernel has no such option
            sock.setsockopt(socket.IPPROTO_IP, steering.IP_LOCAL_PORT_RANGE, option)
        connect()
        return True

    with intercepting(intercept):
        yield


def _reached(contender: Contender, listener: socket.socket) -> bool:
    """Return whether a new client reaches the server that came back."""
    listener.settimeout(PATIENCE)
    with (
        contextlib.suppress(OSError),
        contender.dial(listener.getsockname(), PATIENCE) as near,
        listener.accept()[0] as far,
    ):
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)  # leaves no TIME_WAIT on the server's port
        return _talk(near, far)
    return False


def _talk(near: socket.socket, far: socket.socket) -> bool:
    """Return whether a request and an answer pass through the connection."""
    far.settimeout(PATIENCE)
    with contextlib.suppress(OSError):
        near.sendall(REQUEST)
        if scene.read_line(far) == REQUEST:
            far.sendall(ANSWER)
        return scene.read_line(near) == ANSWER
    return False
