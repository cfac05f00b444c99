"""What the doctor saw, as records. None: it could not be looked at, which is never "ok"."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from safedial._tcp.port_settings import PortSettings

# What a socket does: listens, is connected (in any state up to the last close), or is closed and keeps its port.
Kind: TypeAlias = Literal["listening", "connected", "time_wait"]


class Process(NamedTuple):
    """A process that has a socket. *name* is its command's name, printable; empty if it has just ended."""

    pid: int
    name: str


class Endpoint(NamedTuple):
    """A numeric address and a port."""

    host: str
    port: int

    @property
    def written(self) -> str:
        """Both, as ss(8) writes and reads them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Socket(NamedTuple):
    """A TCP socket of this network namespace."""

    kind: Kind
    local: Endpoint
    peer: Endpoint  # of a listener: all zeros
    # 0: the socket belongs to no process (any more), as in TIME_WAIT, or the system has no such numbers.
    inode: int
    processes: tuple[Process, ...] | None = None  # None: they could not be seen; (): there is none any more

    @property
    def is_self_connected(self) -> bool:
        """Whether its peer is itself."""
        return self.local == self.peer


class Destination(NamedTuple):
    """The connections from one local address to one destination, by local ports inside the ephemeral range."""

    source: str
    peer: Endpoint
    live: int  # local ports
    time_wait: int


@dataclass(frozen=True)
class Sockets:
    """What is of interest in the table of sockets. One pass over the table makes it."""

    listeners: tuple[Socket, ...] = ()
    # Sockets that have one of the PORTs asked for, and that no listener accepted; self-connected ones too. Of many on
    # one port, some of each kind.
    held: tuple[Socket, ...] = ()
    # How many of each kind have a PORT.
    numbers: Mapping[tuple[int, Kind], int] = field(default_factory=dict[tuple[int, Kind], int])
    # Self-connected sockets, alive and in TIME_WAIT, on any port.
    self_connected: tuple[Socket, ...] = ()
    # The fullest destinations, the fullest first.
    destinations: tuple[Destination, ...] = ()
    count: int = 0  # rows
    # Whether a server that sets SO_REUSEADDR, as most do, could bind a PORT just now, beside its listeners. None: that
    # could not be tried. A port that is not here: nobody tried.
    binds: Mapping[int, bool | None] = field(default_factory=dict[int, bool | None])


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
    unprivileged_start: int | None = None  # net.ipv4.ip_unprivileged_port_start, the first that needs no privilege
    can_set: bool | None = None  # whether root can change the settings, from where the doctor is
    can_close: bool | None = None  # whether root can close sockets, from there
    # What could not be looked at, and why, in whole sentences for the report.
    unseen: tuple[str, ...] = ()
