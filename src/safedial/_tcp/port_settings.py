"""The kernel's settings that say which local ports connect(2) draws, in this thread's network namespace. Linux only."""

import contextlib
import re
from io import FileIO  # as in `steering`
from typing import NamedTuple

from safedial._tcp.steering import PortRange, read_range
from safedial.errors import TIME_WAIT

# Seconds. What tcp_tw_reuse_delay is by default, and the delay of kernels that lack this setting (before Linux 6.14).
_REUSE_DELAY = 1.0
# Bytes. Of a list of reserved ports, the kernel ends each read where the buffer does, and the part of a port that fits
# is a number too (proc_do_large_bitmap, kernel/sysctl.c). The longest list has every second port: 192 KiB.
_WHOLE = 1 << 18


class PortSettings(NamedTuple):
    """The settings of a namespace. None: it can't be read, or was not."""

    ports: PortRange | None = None
    reserved: tuple[PortRange, ...] | None = None
    # Seconds after which a port in TIME_WAIT is drawn again: towards this host's loopback addresses, and others.
    wait_on_loopback: float | None = None
    wait: float | None = None
    # What sets these seconds, if they are not a minute.
    wait_setting: str = "net.ipv4.tcp_tw_reuse"
    # The number of sockets in TIME_WAIT, to all destinations.
    time_wait: int | None = None


def read_settings() -> PortSettings:
    """Read the settings."""
    reuse, delay = map(sysctl, ("tcp_tw_reuse", "tcp_tw_reuse_delay"))
    if sysctl("tcp_timestamps") == "0":
        reuse = "0"  # tcp_twsk_unique() (net/ipv4/tcp_ipv4.c) asks for a timestamp
    soon = _REUSE_DELAY if delay is None else _seconds(delay)
    return PortSettings(
        read_range(),
        read_reserved(),
        {"0": TIME_WAIT, "1": soon, "2": soon}.get(reuse or ""),
        {"0": TIME_WAIT, "1": soon, "2": TIME_WAIT}.get(reuse or ""),
        "net.ipv4.tcp_tw_reuse_delay" if delay is not None else "net.ipv4.tcp_tw_reuse",
        _time_wait(),
    )


def read_reserved() -> tuple[PortRange, ...] | None:
    """Read which ports are never drawn; None if that can't be read."""
    text = sysctl("ip_local_reserved_ports")
    if text is None:
        return None
    bounds = [part.partition("-") for part in text.split(",") if part]
    with contextlib.suppress(ValueError):
        return tuple(PortRange(int(low), int(high if dash else low)) for low, dash, high in bounds)
    return None


def reserved_in(settings: PortSettings, ports: PortRange) -> set[int]:
    """Return the reserved ones of *ports*."""
    found: set[int] = set()
    for low, high in settings.reserved or ():
        found.update(range(max(low, ports.low), min(high, ports.high) + 1))
    return found


def _seconds(milliseconds: str) -> float | None:
    with contextlib.suppress(ValueError):
        return int(milliseconds) / 1000
    return None


def sysctl(name: str) -> str | None:
    """Read net.ipv4.*name*; None if that can't be read."""
    with contextlib.suppress(OSError), FileIO(f"/proc/sys/net/ipv4/{name}") as file:
        return (file.read(_WHOLE) or b"").decode(errors="replace").strip()
    return None


def _time_wait() -> int | None:
    with contextlib.suppress(OSError), FileIO("/proc/thread-self/net/sockstat") as file:
        if found := re.search(rb"^TCP: .*\btw (\d+)", file.read(), re.MULTILINE):
            return int(found[1])
    return None
