"""What was there before in this process: names that resolved, and source addresses that were used.

If one of them is gone, it may come back: a container's name while the container restarts, an address that DHCP renews.
`mark` says so on the error, for `safedial._retry.transient`.
"""

import errno
import socket
from typing import TypeAlias

from safedial._address import Host
from safedial.errors import PortsExhaustedError

# A host with the family that was asked for, or a source address.
Key: TypeAlias = tuple[Host, int] | str

_MOST = 1024
_seen: set[Key] = set()

# getaddrinfo's errors about the other arguments: the name may be there all the same.
_ABOUT_OTHERS = {
    getattr(socket, name, None)
    for name in ("EAI_SERVICE", "EAI_FAMILY", "EAI_SOCKTYPE", "EAI_PROTOCOL", "EAI_BADFLAGS")
}


def remember(key: Key) -> None:
    """Remember that *key* was there."""
    if key not in _seen:
        if len(_seen) >= _MOST:
            _seen.clear()  # the next success remembers it again
        _seen.add(key)


def mark(error: BaseException, key: Key) -> None:
    """Mark *error* with ``_was_there``, if it says that *key* is gone, and *key* was there before."""
    if key in _seen and _says_gone(error):
        error._was_there = True  # type: ignore[attr-defined]  # `safedial._retry.transient` reads it


def _says_gone(error: BaseException) -> bool:
    if isinstance(error, socket.gaierror):
        return error.errno not in _ABOUT_OTHERS
    gone = isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL
    return gone and not isinstance(error, PortsExhaustedError)
