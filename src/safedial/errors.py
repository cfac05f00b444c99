"""The exceptions of the safe dial. Of safedial it imports `_address` and `_steps`."""

import errno
import os
from copy import copy, deepcopy
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol, Self

from safedial._address import describe, family_of
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
        in_use: how many of its ports have a connection to the destination, from the local address of the dial.
        time_wait: how many of these are in TIME_WAIT.
        reserved: how many ports of the range `net.ipv4.ip_local_reserved_ports` keeps from being drawn.
        others: how many ports are neither. When the dial failed they had a connection, too, or a socket was bound to
            them. When they are counted they may be free again: the kernel's table has no sockets that are only bound.
        host_time_wait: the number of this host's sockets in TIME_WAIT, to all destinations.
        own_range: whether low and high are of the socket's own range, IP_LOCAL_PORT_RANGE.
        remedy: what helps against that which has most of the ports, in words.
    """

    low: int | None = None
    high: int | None = None
    in_use: int | None = None
    time_wait: int | None = None
    _: KW_ONLY
    reserved: int | None = None
    others: int | None = None
    host_time_wait: int | None = None
    own_range: bool = False
    remedy: str = ""

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return "the ephemeral range could not be read"
        whose = "socket's own range (IP_LOCAL_PORT_RANGE)" if self.own_range else "ephemeral range"
        text = f"the {whose} is {self.low} to {self.high}"
        if self.reserved:
            text += f", {'all' if self.reserved == self.high - self.low + 1 else self.reserved} of its ports reserved"
        if self.in_use is not None:
            text += f", {self.in_use} {'port' if self.in_use == 1 else 'ports'} in use to this destination"
            if self.in_use:
                text += f" ({self.time_wait} in TIME_WAIT)"
            if self.others:
                text += f", {self.others} not in use to it"
        elif self.host_time_wait is not None:
            sockets = "socket" if self.host_time_wait == 1 else "sockets"
            text += f", {self.host_time_wait} {sockets} of this host in TIME_WAIT to all destinations"
        return text


class _Counter(Protocol):
    """Counts ports for one error."""

    def known(self) -> PortUsage:
        """Return what is known without reading a file."""
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
    when the error is pickled. A count is believed for a second, so a thousand errors count once. ``repr(error)``,
    ``args``, ``strerror`` and the notes have no figures.

    In an event loop nothing is counted. There the message has the range, how much of it is reserved, and this host's
    sockets in TIME_WAIT, which a thread reads once a second. ``str(error)`` in a thread counts
    (``asyncio.to_thread``, ``trio.to_thread.run_sync``). An error that is pickled in an event loop, and was not counted
    before, never has more figures.

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
        text = (
            f"{os.strerror(errno.EADDRNOTAVAIL)}: no local port is free to reach {describe(host, port)} "
            "(all are in use, in TIME_WAIT, reserved or bound)"
        )
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
        return self._figures() or PortUsage()

    def _figures(self) -> PortUsage | None:
        if self._usage is None and self._counter is not None:
            found = self._counter.known() if in_event_loop() else self._counter.counted()
            if found.in_use is None:
                return found
            self.__dict__.setdefault("_usage", found)  # another thread may have counted meanwhile
        return self._usage

    def __str__(self) -> str:
        try:
            return self._text("To count the ports in use: str(error) in a thread")
        except TypeError:  # the interpreter shuts down, and this module's names are None
            return super().__str__()

    def _text(self, hint: str) -> str:
        """Return the message. If nothing was counted because an event loop runs, it ends with *hint*."""
        parts = [super().__str__()]
        if (figures := self._figures()) is not None:
            parts[0] += f"; {figures}"
            if figures.remedy:
                parts += [figures.remedy]
            if figures.in_use is None and in_event_loop():
                parts += [hint]
        return ". ".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        usage = self._figures()  # now: the copy may be read on another host
        state = {name: value for name, value in self.__dict__.items() if name != "_counter"}
        return type(self), self.args, state if usage is None else {**state, "_usage": usage}

    def __copy__(self) -> Self:
        twin = type(self)(*self.args)
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = copy(self)  # the counter is shared, and what the copy knows of its own is copied
        twin.__dict__.update({name: deepcopy(value, memo) for name, value in vars(self).items() if name != "_counter"})
        return twin


def without_figures(error: BaseException) -> str:
    """Return ``str(error)``, of exhausted ports without the figures, which need a count and differ in each round."""
    return OSError.__str__(error) if isinstance(error, PortsExhaustedError) else str(error)


def for_log(error: BaseException) -> str:
    """Return ``str(error)`` for somebody who reads a log and has no *error*."""
    if not isinstance(error, PortsExhaustedError):
        return str(error)
    connections = f"dport = :{error.port}"
    peer = error.host.partition("%")[0].removeprefix("::ffff:")  # as ss spells it
    if family_of(peer) and peer not in ("0.0.0.0", "::"):  # noqa: S104  # a peer has none of these
        connections = f"dst [{peer}]:{error.port}" if ":" in peer else f"dst {peer}:{error.port}"
    hint = f"To count the ports in use: ss -Htan '{connections}' | wc -l"
    return error._text(hint)  # pyright: ignore[reportPrivateUsage]  # its class is of this module
