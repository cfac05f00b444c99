"""Check the answer of a user's resolver before it is dialed. Pure functions."""

import socket
from collections.abc import Sequence
from typing import Any

from safedial._address import AddrInfo, of_families

# The largest port, flow label (RFC 8200 section 6) and scope id of a socket address.
_LARGEST = {socket.AF_INET: (2**16 - 1,), socket.AF_INET6: (2**16 - 1, 2**20 - 1, 2**32 - 1)}
_LARGEST_INT = 2**31 - 1


def listed(answer: Any) -> list[Any]:
    """Return *answer* as a list, or raise TypeError naming the resolver."""
    if isinstance(answer, str | bytes) or not hasattr(answer, "__iter__"):
        raise TypeError(f"resolver must return a list of 5-tuples, as getaddrinfo() does, not {answer!r}")
    return list(answer)


def checked_answer(answer: Any, family: int) -> Sequence[AddrInfo]:
    """Return the addresses in *answer* that have *family*; all of them for 0. Raises OSError if there are none.

    Raises TypeError or ValueError naming the resolver if an address could not be dialed.
    """
    infos = listed(answer)
    for info in infos:
        try:
            valid = _can_be_dialed(*info)
        except (TypeError, ValueError, AttributeError, KeyError, OSError):
            valid = False
        if not valid:
            raise ValueError(
                f"resolver must return (family, SOCK_STREAM, proto, canonname, (address, port, ...)), not {info!r}"
            )
    usable = of_families(infos, (family,)) if family else infos
    if not usable:
        raise OSError("the resolver returned no address")
    return usable


def _can_be_dialed(family: Any, kind: Any, proto: Any, _canonname: Any, sockaddr: Any) -> bool:
    host, *numbers = sockaddr
    largest = _LARGEST[family]
    address, _, zone = host.partition("%")  # as in fe80::1%eth0
    socket.inet_pton(family, address)
    if zone and not zone.isdigit():
        socket.if_nametoindex(zone)  # connect() would ask the DNS for an unknown name
    return (
        isinstance(sockaddr, tuple)
        and not (zone and family == socket.AF_INET)
        and kind == socket.SOCK_STREAM
        and 1 <= len(numbers) <= len(largest)
        and all(map(_fits, (kind, proto, *numbers), (_LARGEST_INT, _LARGEST_INT, *largest)))
    )


def _fits(number: Any, largest: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= largest
