"""What was there before in this process: names that resolved, and source addresses that were used.

If one of them is gone, it may come back: a container's name while the container restarts, an address that DHCP renews.
`mark` says so on the error, for `safedial._retry.transient`.
"""

from typing import TypeAlias

from safedial._address import Host
from safedial._retry.transient import mark_as_known

# A host with the family that was asked for, or a source address.
Key: TypeAlias = tuple[Host, int] | str

_MOST = 1024
_seen: set[Key] = set()


def remember(key: Key) -> None:
    """Remember that *key* was there."""
    if key not in _seen:
        if len(_seen) >= _MOST:
            _seen.clear()  # the next success remembers it again
        _seen.add(key)


def mark(error: BaseException, key: Key) -> None:
    """Mark *error*, which concerns *key*, if that was there before."""
    if key in _seen:
        mark_as_known(error)
