"""The ports that one entry of a `hold` holds, and what the log says of those that can't be held."""

import logging

from safedial._address import SockAddr, describe
from safedial._clients.repeating import Repeating
from safedial._tcp import holding
from safedial._tcp.steering import ON_LINUX
from safedial.events import is_first, log, warn

# The addresses that a warning was about.
_warned: dict[SockAddr, object] = {}


class Held:
    """The ports that are held for some addresses."""

    def __init__(self) -> None:
        self._holders: dict[object, holding.Holder] = {}
        self._busy: list[SockAddr] = []  # another socket has the port on all addresses, and keeps the kernel off it
        self._waiting: Repeating | None = None

    def __bool__(self) -> bool:
        return bool(self._holders or self._busy)

    def take(self, sockaddr: SockAddr) -> None:
        """Hold the port of the numeric *sockaddr*, unless it is busy. If it can't be held, the log says so.

        Raises:
            OSError: descriptors or memory are used up.
        """
        if not self._took(sockaddr):
            self._busy.append(sockaddr)

    def _took(self, sockaddr: SockAddr) -> bool:
        """Do as `take` does. Return False if the port is busy."""
        key: object = sockaddr[1] if ON_LINUX else sockaddr  # on Linux, one holder serves all addresses
        if key in self._holders:
            return True
        if not sockaddr[1] or not holding.is_local(sockaddr):
            log(logging.DEBUG, "%s is not held: it is not an address of this host", describe(*sockaddr[:2]))
            return True
        try:
            holder = holding.hold(sockaddr)
        except OSError as error:
            if error.errno in holding.SHORTAGE:
                raise
            _tell(sockaddr, error)
            return True
        if holder is None:
            return False
        self._holders[key] = holder
        return True

    def wait_for_busy(self) -> None:
        """Until `close`, take each port that a server has on all addresses as soon as the server has gone."""
        if self._busy:
            try:
                self._waiting = Repeating(self._take_busy)
            except RuntimeError as error:  # no more threads, or the interpreter shuts down
                where = describe(*self._busy[0][:2])
                warn("%s is held only while its server listens: %s", where, error)

    def _take_busy(self) -> bool:
        """Take the ports that were busy. Return whether one still is."""
        # Whether a port is at risk is asked here, in a thread, because that reads a file. The list is replaced as a
        # whole: a fork may happen at any time, and the child goes on with it.
        self._busy = [each for each in self._busy if holding.may_be_drawn(each[1]) and self._is_busy(each)]
        return bool(self._busy)

    def _is_busy(self, sockaddr: SockAddr) -> bool:
        try:
            return not self._took(sockaddr)
        except OSError:  # descriptors are used up just now
            return True

    def close(self) -> None:
        """Let go of all ports."""
        if self._waiting is not None:
            self._waiting.end()
            self._waiting = None
        for holder in self._holders.values():
            holder.close()
        self._holders.clear()


def _tell(sockaddr: SockAddr, error: OSError) -> None:
    """Log that *sockaddr* can't be held, for *error*: a WARNING if that may do harm."""
    where = describe(*sockaddr[:2])
    if not holding.may_be_drawn(sockaddr[1]):
        log(logging.DEBUG, "%s is not held (%s): the kernel draws no such port", where, error.strerror)
    elif is_first(_warned, sockaddr[:2]):
        warn("%s can't be held (%s): %s", where, error.strerror, _what_to_do(sockaddr[1]))


def _what_to_do(port: int) -> str:
    if ON_LINUX:
        return (
            "a client that dials it in C may connect to itself. Reserve the port, and the kernel draws it for nobody: "
            f"add {port} to the sysctl net.ipv4.ip_local_reserved_ports"
        )
    return (
        "if no server listens there, a client that dials it in C may connect to itself. Give the server a port outside "
        "of the range that the system draws from"
    )
