"""Destinations that were reached by the very port that was dialed: no load balancer rewrites it. See `selfconnect`.

They are forgotten all at once whenever the ephemeral range is read again: see `steering`.
"""

from safedial._address import SockAddr

_MOST_REMEMBERED = 1000

reached_as_dialed: set[SockAddr] = set()


def note_reached(sockaddr: SockAddr, port: int) -> bool:
    """Note that a dial to *sockaddr* reached *port*. Return whether that is news: no dial has shown it since."""
    try:
        if sockaddr in reached_as_dialed:
            return False
        if port == sockaddr[1] and len(reached_as_dialed) < _MOST_REMEMBERED:
            reached_as_dialed.add(sockaddr)
    except TypeError:
        pass  # a client's own address may have a bytearray in it
    return True
