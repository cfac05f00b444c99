"""The exceptions of the safe dial. Of safedial it imports `_address` and `_steps`."""

import errno
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol

from safedial._address import describe
from safedial._steps import in_event_loop

# Seconds for which Linux keeps a closed connection. include/net/tcp.h: TCP_TIMEWAIT_LEN.
TIME_WAIT = 60.0


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
        reserved: how many ports of the range `net.ipv4.ip_local_reserved_ports` keeps from being drawn.
        bound: how many of the other ports can't be drawn because a socket was bound to them. Those that have become
            free since the dial are counted too: the kernel shows no sockets that are bound and not connected.
        time_wait_seconds: how long after its close a connection in TIME_WAIT keeps its port from this destination.
        host_time_wait: the number of this host's sockets in TIME_WAIT, to all destinations.
        own_range: whether low and high are of the socket's own range, IP_LOCAL_PORT_RANGE.
    """

    low: int | None = None
    high: int | None = None
    in_use: int | None = None
    time_wait: int | None = None
    _: KW_ONLY
    reserved: int | None = None
    bound: int | None = None
    time_wait_seconds: float | None = None
    host_time_wait: int | None = None
    own_range: bool = False

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return "the ephemeral range could not be read"
        whose = "socket's own range (IP_LOCAL_PORT_RANGE)" if self.own_range else "ephemeral range"
        text = f"the {whose} is {self.low} to {self.high}"
        if self.reserved:
            text += f", {'all' if self._all_reserved else self.reserved} of its ports reserved"
        if self.in_use is not None:
            text += f", {self.in_use} ports in use to this destination, {self.time_wait} of them in TIME_WAIT"
            if self.bound:
                text += f", {self.bound} bound by other sockets or free by now"
        elif self.host_time_wait is not None:
            text += f", {self.host_time_wait} sockets of this host in TIME_WAIT"
        return text

    @property
    def remedy(self) -> str:
        """What helps against that which takes most of the ports, in one sentence."""
        widen = "the socket's IP_LOCAL_PORT_RANGE" if self.own_range else "net.ipv4.ip_local_port_range"
        time_wait = self.time_wait or 0
        live = (self.in_use or 0) - time_wait
        counted = self.in_use is not None and self.bound is not None
        most = max(self.reserved or 0, time_wait, live, self.bound or 0, 1)
        if self.reserved == most if counted else self._all_reserved:
            return f"Reserve fewer ports (net.ipv4.ip_local_reserved_ports), or widen {widen}"
        if not counted:
            return f"Reuse connections (a pool), dial less often, or widen {widen}"
        if time_wait == most:
            if self.time_wait_seconds is None:
                return "Reuse connections (a pool): each that is closed keeps its port in TIME_WAIT"
            return (
                f"Reuse connections (a pool): each that is closed keeps its port for {self.time_wait_seconds:g} s "
                f"({'net.ipv4.tcp_tw_reuse' if self.time_wait_seconds < TIME_WAIT else 'TIME_WAIT'})"
            )
        if live == most:
            return f"Share connections (a pool), or widen {widen}"
        return "A port that a socket was bound to is never drawn: see ss -tanp and ss -tanp --bound-inactive"

    @property
    def _all_reserved(self) -> bool:
        return self.low is not None and self.high is not None and self.reserved == self.high - self.low + 1


class _Counter(Protocol):
    """Counts ports for one error."""

    def known(self) -> PortUsage | None:
        """Return what is known without reading a file, None if that is nothing."""
        ...

    def counted(self) -> PortUsage:
        """Count. It may take a tenth of a second."""
        ...


class PortsExhaustedError(OSError):
    """No local port is free to reach the destination. ``errno`` is EADDRNOTAVAIL.

    If this host lacks an address (a wrong source address, IPv6 switched off), the kernel's own `OSError` is raised
    instead.

    The dial does not count the ports in use, which would cost many times as much as the dial itself. They are counted
    when somebody first reads them, and then stay the same: in ``str(error)``, so in a traceback too, in `usage`, and
    when the error is pickled or copied. A count is believed for a second, so a thousand errors count once.
    ``repr(error)``, ``args``, ``strerror`` and the notes need no count.

    In an event loop nothing is counted. There the message has the range, how much of it is reserved, and this host's
    sockets in TIME_WAIT, which a thread reads once a second. ``await asyncio.to_thread(str, error)`` counts.

    Attributes:
        host: the dialed address, as text.
        port: the dialed port.
    """

    # safedial._tcp.exhaustion tells the two cases apart.
    host: str = ""
    port: int = 0
    _usage: PortUsage | None = None
    _counter: _Counter | None = None

    @classmethod
    def at(
        cls, host: str, port: int, usage: PortUsage | None = None, counter: _Counter | None = None
    ) -> "PortsExhaustedError":
        """Build the error for a dial of *host* and *port* with the figures in *usage*, or those of *counter*."""
        text = f"Address not available: no local port is free to reach {describe(host, port)}"
        error = cls(errno.EADDRNOTAVAIL, text)
        error.host, error.port = host, port
        if usage is not None:
            error._usage = usage
        if counter is not None:
            error._counter = counter
        return error

    @property
    def usage(self) -> PortUsage:
        """The range and the ports in use, counted when this is first read. In an event loop: what is known."""
        return self._figures(count=True) or PortUsage()

    def _figures(self, *, count: bool) -> PortUsage | None:
        if self._usage is None and self._counter is not None:
            found = self._counter.counted() if count and not in_event_loop() else self._counter.known()
            if found is None or found.in_use is None:
                return found
            self.__dict__.setdefault("_usage", found)  # another thread may have counted meanwhile
        return self._usage

    def __str__(self) -> str:
        return self._text(count=True)

    def _text(self, *, count: bool) -> str:
        figures = self._figures(count=count)
        text = super().__str__()
        if figures is not None:
            text += f"; {figures}. {figures.remedy}"
            if count and figures.in_use is None and in_event_loop():
                text += (
                    ". To count the ports in use: str(error) in a thread, such as await asyncio.to_thread(str, error)"
                )
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        usage = self._figures(count=True)  # now: the copy may be read on another host
        state = {name: value for name, value in self.__dict__.items() if name != "_counter"}
        return type(self), self.args, state if usage is None else {**state, "_usage": usage}


def without_counting(error: BaseException) -> str:
    """Return ``str(error)``. Of exhausted ports it has only the figures that are known."""
    if isinstance(error, PortsExhaustedError):
        return error._text(count=False)  # pyright: ignore[reportPrivateUsage]  # its class is of this module
    return str(error)
