"""What the doctor saw, as records. None: it could not be looked at, which is never "ok"."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from safedial._tcp.port_settings import PortSettings

# What a socket does: listens, is connected (in any state up to the last close), or is closed and keeps its port.
Kind: TypeAlias = Literal["listening", "connected", "time_wait"]


class Process(NamedTuple):
    """A process that has a socket. *name* is its command's name (/proc/PID/comm); empty if it has just ended."""

    pid: int
    name: str


class Endpoint(NamedTuple):
    """A numeric address and a port."""

    host: str
    port: int


class Socket(NamedTuple):
    """A TCP socket of this network namespace."""

    kind: Kind
    local: Endpoint
    peer: Endpoint  # of a listener: all zeros
    # 0: the socket belongs to no process (any more), as in TIME_WAIT, or the system has no such numbers.
    inode: int
    processes: tuple[Process, ...] | None = None  # None: they could not be seen; (): there is none any more


class Crowd(NamedTuple):
    """The connections from one local address to one destination, by local ports inside the ephemeral range."""

    source: str
    destination: Endpoint
    live: int  # local ports
    time_wait: int


@dataclass(frozen=True)
class Sockets:
    """What is of interest in the table of sockets. One pass over the table makes it."""

    listeners: tuple[Socket, ...] = ()
    # Sockets that have one of the PORTs asked for, on which nobody listens; self-connected ones too. Of many on one
    # port, some of each kind.
    taken: tuple[Socket, ...] = ()
    # Self-connected sockets, alive and in TIME_WAIT, on any port.
    self_connected: tuple[Socket, ...] = ()
    # The fullest destinations, the fullest first.
    crowds: tuple[Crowd, ...] = ()
    count: int = 0  # rows
    # The PORTs that a socket of no table has: a bound one, that neither listens nor is connected.
    bound: tuple[int, ...] = ()


@dataclass(frozen=True)
class Facts:
    """All that was seen."""

    system: str  # sys.platform
    kernel: str | None = None  # its release, such as 6.18.5
    settings: PortSettings = field(default_factory=PortSettings)
    steering: bool | None = None  # whether IP_LOCAL_PORT_RANGE keeps the kernel off a port
    tw_reuse: int | None = None  # net.ipv4.tcp_tw_reuse
    tw_reuse_delay: int | None = None  # milliseconds; None where there is no such setting, too
    step_width: int | None = None  # net.ipv4.ip_local_port_step_width; None where there is no such setting, too
    ipv6: bool | None = None
    loopback_v6: bool | None = None  # whether ::1 is an address of this host
    sockets: Sockets | None = None
    # What could not be looked at, and why, in whole sentences for the report.
    unseen: tuple[str, ...] = ()
