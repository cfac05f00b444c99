"""The figures of a PortsExhaustedError: counted when they are read, never in an event loop, believed for a second.

To count many ports takes a tenth of a second, so a dial that fails counts none.
"""

import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from safedial import _clock
from safedial._address import SockAddr
from safedial._forks import lock_held_across_forks
from safedial._steps import in_event_loop
from safedial._tcp import procnet, steering
from safedial._tcp.namespaces import namespace_here, namespace_of
from safedial._tcp.port_settings import PortSettings, read_settings, reserved_in
from safedial._tcp.remedy import ELSEWHERE, remedy
from safedial._tcp.settings_thread import last_look
from safedial._tcp.steering import PortRange
from safedial.errors import PortUsage

_AGE = 1.0  # seconds for which figures are believed
_MOST = 256  # destinations to remember; then all are forgotten

# One thread counts, and those that want the same figures wait for it.
_counting = lock_held_across_forks()
# A destination, the local address of the dial, and the socket's own range.
_Ask: TypeAlias = tuple[SockAddr, str | None, PortRange | None]
# (believed until, figures), by namespace and what was asked.
_counted: dict[tuple[int, _Ask], tuple[float, PortUsage]] = {}


class Counter:
    """Counts the ports in use from *local* to *reached*, as a thread in the network namespace of *sock* sees them.

    The addresses are in numbers, or None if they are not known. *own* is the socket's own range.
    """

    __slots__ = ("_ask", "_look", "_namespace", "_own")
    _NOTHING = PortUsage()

    def __init__(self, sock: socket.socket, reached: SockAddr | None, local: str | None, own: PortRange | None) -> None:
        self._namespace = namespace_of(sock)
        self._ask: _Ask | None = reached and (reached[:2], local, own)
        self._own = own
        self._look = last_look(self._namespace) if in_event_loop() else None

    def known(self) -> PortUsage:
        """Return the figures of the last second. If there are none, what a thread read."""
        if self._ask is not None and (found := _believed(self._namespace, self._ask)) is not None:
            return found
        settings = self._look.settings if self._look is not None else None
        return uncounted(settings or PortSettings(steering.known_range()), self._own)

    def counted(self) -> PortUsage:
        """Count, unless that was done in the last second. Never raise: somebody wants to show another error."""
        try:
            return self._counted()
        except Exception:  # such as when the interpreter shuts down, and this module's names are None
            return self._NOTHING

    def _counted(self) -> PortUsage:
        here = namespace_here()
        if self._namespace not in (0, here):
            # The tables here are another namespace's.
            return replace(uncounted(PortSettings(), self._own), remedy=ELSEWHERE)
        if self._ask is None:
            return uncounted(read_settings(), self._own)
        with _counting:
            found = _believed(here, self._ask)
            if found is None:
                found = count(*self._ask)
                if len(_counted) >= _MOST:
                    _counted.clear()
                _counted[here, self._ask] = _clock.real() + _AGE, found
        return found


def _believed(namespace: int, ask: _Ask) -> PortUsage | None:
    until, found = _counted.get((namespace, ask), (0.0, None))
    return found if _clock.real() < until else None


def uncounted(settings: PortSettings, own: PortRange | None) -> PortUsage:
    """Return what *settings* tell of the ephemeral range, or of *own*, to which a socket narrowed it."""
    ports = _drawn_from(settings.ports, own)
    low, high = ports or (None, None)
    reserved = None if ports is None or settings.reserved is None else len(reserved_in(settings, ports))
    own_range = ports != settings.ports
    found = PortUsage(low, high, reserved=reserved, host_time_wait=settings.time_wait, own_range=own_range)
    return replace(found, remedy=remedy(found, settings, loopback=False))


def _drawn_from(ports: PortRange | None, own: PortRange | None) -> PortRange | None:
    """Return what the kernel makes of a socket's *own* range (inet_sk_get_local_port_range, inet_connection_sock.c)."""
    if own is None:
        return ports
    if ports is None:
        return own if own.low and own.high else None
    low, high = ports
    if low <= own.low <= high:
        low = own.low
    if low <= own.high <= high:
        high = own.high
    return PortRange(low, high)


def count(reached: SockAddr, local: str | None, own: PortRange | None) -> PortUsage:
    """Count the ports of the ephemeral range, or of *own*, with a TCP connection from *local* to *reached*."""
    settings, connections = read_settings(), procnet.connections_to(reached, local)
    return uncounted(settings, own) if connections is None else _figures(settings, own, reached, connections)


def _figures(
    settings: PortSettings, own: PortRange | None, reached: SockAddr, connections: Sequence[procnet.Connection]
) -> PortUsage:
    known = _drawn_from(settings.ports, own)
    ports = known or PortRange(0, 65535)
    inside = [each for each in connections if ports.low <= each.port <= ports.high]
    in_use = {each.port for each in inside}
    live = {each.port for each in inside if each.state != procnet.IN_TIME_WAIT}
    others = None
    if settings.reserved is not None and known is not None:
        taken = in_use | reserved_in(settings, ports)
        if own is None:
            taken.add(reached[1])  # steering keeps the kernel off it
        others = len(set(range(ports.low, ports.high + 1)) - taken)
    found = replace(uncounted(settings, own), in_use=len(in_use), time_wait=len(in_use) - len(live), others=others)
    return replace(found, remedy=remedy(found, settings, loopback=procnet.is_loopback(reached[0])))
