"""What root may do here. In a container, even root often can't change settings, or close other programs' sockets."""

import contextlib
import os

_SETTING = "/proc/sys/net/ipv4/ip_local_reserved_ports"
_CAP_NET_ADMIN = 12  # linux/capability.h


def can_set() -> bool | None:
    """Return whether root can change settings. None: an ordinary user can't tell."""
    if os.access(_SETTING, os.W_OK):
        return True
    with contextlib.suppress(OSError):
        if os.statvfs(_SETTING).f_flag & os.ST_RDONLY or os.geteuid() == 0:
            return False
    return None


def can_close() -> bool | None:
    """Return whether root has CAP_NET_ADMIN: ``ss -K`` without it says so, and exits with 0. None: as in `can_set`."""
    with contextlib.suppress(OSError, KeyError), open("/proc/thread-self/status", "rb") as file:
        lines = dict(line.split(b":", 1) for line in file if line.startswith(b"Cap"))
        effective, bounding = (int(lines[name], 16) >> _CAP_NET_ADMIN & 1 for name in (b"CapEff", b"CapBnd"))
        if effective:
            return True
        if not bounding or os.geteuid() == 0:
            return False
    return None
