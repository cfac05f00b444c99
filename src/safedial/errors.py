"""The exceptions of the safe dial. Of safedial it imports `_address`."""

import errno
from dataclasses import dataclass

from safedial._address import describe


class SelfConnectError(ConnectionRefusedError):
    """The socket connected to itself: nobody listens on that port.

    ``errno`` is ECONNREFUSED, because the kernel would have refused the connection if it had drawn another local port.
    The socket is already closed, with SO_LINGER (1, 0), so a server can bind the port at once. A note says so if a
    sandbox denied that option.

    Attributes:
        host: the dialed address, as text.
        port: the dialed port, which the kernel drew as the local port too.
    """

    host: str = ""
    port: int = 0

    @classmethod
    def at(cls, host: str, port: int) -> "SelfConnectError":
        """Build the error for a dial of *host* and *port*."""
        text = (
            f"Connection refused: nobody listens on {describe(host, port)}; the kernel connected the socket to itself "
        )
        text += "(self-connect), and safedial released it. Start the server, or dial again later"
        error = cls(errno.ECONNREFUSED, text)
        error.host, error.port = host, port
        return error


@dataclass(frozen=True, slots=True)
class PortUsage:
    """How many local ports are in use towards one destination. A field that can't be read is None.

    Attributes:
        low: first port of the ephemeral range.
        high: last port of that range, inclusive.
        in_use: the number of this host's connections to the destination.
        time_wait: how many of these are in TIME_WAIT.
    """

    low: int | None = None
    high: int | None = None
    in_use: int | None = None
    time_wait: int | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return "the ephemeral range could not be read"
        text = f"the ephemeral range is {self.low} to {self.high}"
        if self.in_use is not None:
            text += f", {self.in_use} ports in use to this destination, {self.time_wait} of them in TIME_WAIT"
        return text


class PortsExhaustedError(OSError):
    """No local port is free to reach the destination. ``errno`` is EADDRNOTAVAIL.

    If this host lacks an address (a wrong source address, IPv6 switched off), the kernel's own `OSError` is raised
    instead.

    Attributes:
        host: the dialed address, as text.
        port: the dialed port.
        usage: the range and the ports in use when the dial failed.
    """

    # safedial._tcp.exhaustion tells the two cases apart.
    host: str = ""
    port: int = 0
    usage: PortUsage = PortUsage()

    @classmethod
    def at(cls, host: str, port: int, usage: PortUsage) -> "PortsExhaustedError":
        """Build the error for a dial of *host* and *port* with the figures in *usage*."""
        text = f"Address not available: no local port is free to reach {describe(host, port)}; {usage}. "
        low, high, in_use = usage.low, usage.high, usage.in_use
        if low is not None and high is not None and in_use is not None and 2 * in_use <= high - low:
            text += "Other sockets (bound, or connected elsewhere) hold the rest: see ss -tan, or widen "
        else:
            text += "Reuse connections (a pool), dial less often, or widen "
        error = cls(errno.EADDRNOTAVAIL, text + "net.ipv4.ip_local_port_range")
        error.host, error.port, error.usage = host, port, usage
        return error
