"""Seeing a dial: one frozen record per happening, to the caller's hook and to the logger.

The `safedial` logger gets DEBUG per attempt, INFO on a recovery after retries, WARNING on a
self-connect. Hosts and ports are named, payloads never are.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from safedial._address import Host, Port, SockAddr, describe

logger = logging.getLogger("safedial")

EventKind: TypeAlias = Literal["connected", "lost", "failed", "self_connect", "retry"]


@dataclass(frozen=True, slots=True)
class DialEvent:
    """Something that happened during a dial.

    Attributes:
        kind: ``connected``: an address answered. ``lost``: this one had not when another did, just
            after this event; its socket is closed. ``failed``: an address, or the resolver, did not.
            ``self_connect``: the kernel connected the socket to itself; it was let go.
            ``retry``: the policy goes on, after `wait`.
        host: the host as the caller gave it.
        port: the port as the caller gave it.
        address: the socket address of the attempt; None for the resolver's failures and ``retry``.
        attempt: the round of the policy, from 1. One round tries every address.
        elapsed: seconds since the dial began.
        error: what the attempt raised; None for ``connected`` and ``lost``.
        wait: seconds until the next round; None but for ``retry``.
    """

    kind: EventKind
    host: Host
    port: Port
    address: SockAddr | None
    attempt: int
    elapsed: float
    error: OSError | None = None
    wait: float | None = None


OnEvent: TypeAlias = Callable[[DialEvent], object]


class HookError(Exception):
    """Carries an OSError of the user's `on_event` past everything that retries an OSError."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


def level(event: DialEvent) -> int:
    """Return the logging level of *event*."""
    if event.kind == "self_connect":
        return logging.WARNING
    if event.kind == "connected" and event.attempt > 1:
        return logging.INFO
    return logging.DEBUG


def emit(event: DialEvent, on_event: OnEvent | None) -> None:
    """Log *event* and hand it to *on_event*, whose exceptions go to the caller of the dial."""
    severity = level(event)
    if logger.isEnabledFor(severity):
        logger.log(severity, "%s", _sentence(event))
    if on_event is not None:
        try:
            on_event(event)
        except OSError as error:
            raise HookError(error) from None


def _sentence(event: DialEvent) -> str:
    dialed = describe(event.host, event.port)
    if event.address and (at := describe(*event.address[:2])) != dialed:
        dialed += f" at {at}"
    if event.kind == "connected":
        return f"{dialed}: connected, attempt {event.attempt}, {event.elapsed:.3f} s since the dial began"
    if event.kind == "lost":
        return f"{dialed}: attempt {event.attempt} had no answer when another address had, {event.elapsed:.3f} s"
    if event.kind == "retry":
        return f"{dialed}: attempt {event.attempt} failed, the next one in {event.wait:.3f} s"
    return f"{dialed}: attempt {event.attempt} failed: {event.error}"
