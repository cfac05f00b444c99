"""The events of a dial: one frozen record for each, passed to the caller's hook and to the log.

The `safedial` logger gets DEBUG for each attempt, INFO for a recovery after retries and WARNING for a self-connect.
Messages name hosts and ports, never payloads.
"""

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from safedial._address import Host, Port, SockAddr, describe

logger = logging.getLogger("safedial")

EventKind: TypeAlias = Literal["connected", "lost", "failed", "self_connect", "retry"]


@dataclass(frozen=True, slots=True)
class DialEvent:
    """Something that happened during a dial.

    Attributes:
        kind: ``connected``: an attempt succeeded. ``lost``: this attempt was still waiting when another one succeeded
            (the next event); its socket is closed. ``failed``: an attempt or the resolver failed. ``self_connect``: the
            socket connected to itself and was released. ``retry``: the policy starts another round after `wait`.
        host, port: the address that the caller gave.
        address: the socket address of the attempt; None for a failed resolution and for ``retry``.
        round: the number of the round, from 1. A round tries every address.
        elapsed: seconds since the dial began.
        error: the exception of the attempt or the round; None for ``connected`` and ``lost``.
        wait: seconds until the next round for ``retry``, else None.
    """

    kind: EventKind
    host: Host
    port: Port
    address: SockAddr | None
    round: int
    elapsed: float
    error: OSError | None = None
    wait: float | None = None


OnEvent: TypeAlias = Callable[[DialEvent], object]


class HookError(Exception):
    """Carries an OSError raised by the user's `on_event` past the code that retries after an OSError."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


def check_hook(on_event: Any) -> OnEvent | None:
    """Return *on_event*, or raise TypeError if it can't be called, or would have to be awaited."""
    if on_event is not None and (not callable(on_event) or inspect.iscoroutinefunction(on_event)):
        raise TypeError(f"on_event must be callable (but not a coroutine function) or None, not {on_event!r}")
    hook: OnEvent | None = on_event
    return hook


def emit(event: DialEvent, on_event: OnEvent | None) -> None:
    """Log *event* and pass it to *on_event*, whose exceptions go to the caller of the dial."""
    recovered = event.kind == "connected" and event.round > 1
    level = logging.WARNING if event.kind == "self_connect" else logging.INFO if recovered else logging.DEBUG
    if logger.isEnabledFor(level):
        logger.log(level, "%s", _sentence(event))
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
        return f"{dialed}: connected in round {event.round}, {event.elapsed:.3f} s after the dial began"
    if event.kind == "lost":
        return f"{dialed}: still connecting when another address answered, round {event.round}, {event.elapsed:.3f} s"
    if event.kind == "retry":
        return f"{dialed}: round {event.round} failed, next round in {event.wait:.3f} s"
    failed = "attempt" if event.address else "resolving"
    return f"{dialed}: {failed} failed in round {event.round}: {event.error}"
