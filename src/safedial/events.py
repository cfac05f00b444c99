"""The events of a dial: one frozen record for each, passed to the caller's hook and to the log.

The `safedial` logger gets DEBUG for each attempt, INFO for retries (the 1st, 2nd, 4th, 8th … of a dial), for giving up
under a policy and for a recovery, and WARNING for a self-connect. Each message has a fixed template, and its values are
attributes of the log record too. Messages name hosts and ports, never payloads or secrets, and have no control
characters, whoever chose the names.

Handlers of the log may dial, and so may hooks. What a handler dials is not logged, and no hook is told of a dial that a
hook makes. Otherwise each record would cause the next, for ever, and a collector that serves one connection at a time
would hang.
"""

import inspect
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from safedial._address import Host, Port, SockAddr, shown
from safedial._sentences import clean, fields_of, sentence

logger = logging.getLogger("safedial")

EventKind: TypeAlias = Literal[
    "resolved", "connected", "lost", "failed", "self_connect", "retry", "gave_up", "disconnected"
]
Reason: TypeAlias = Literal["policy", "permanent", "unrecognised", "time"]


@dataclass(frozen=True, slots=True)
class DialEvent:
    """Something that happened during a dial.

    Attributes:
        kind: ``resolved``: the resolver answered. ``connected``: an attempt succeeded. ``lost``: this attempt was still
            waiting when another one succeeded (the next event); its socket is closed. ``failed``: an attempt or the
            resolver failed. ``self_connect``: the socket connected to itself and was released. ``retry``: another round
            starts after `wait`. ``gave_up``: the dial is over without a connection, for `reason`. ``disconnected``: a
            connection of `safedial.connections` ended, after `duration`.
        host, port: the address that the caller gave, None if `safedial.wrap` finds none in a factory's arguments.
        address: the socket address of the attempt; None for what concerns the whole round, and below `safedial.wrap`.
        round: the number of the round, from 1. A round tries every address.
        elapsed: seconds since the dial began. In `safedial.connections`: since the last stable connection was lost.
        error: the exception of the attempt, the round or the dial.
        wait: seconds until the next round, for ``retry``.
        duration: seconds that the attempt, the resolver or the factory took; None if that was not measured.
        error_type: the error in a few words of OpenTelemetry's kind: ``connection_refused``, ``timed_out``,
            ``address_not_available``, ``name_resolution_error``, …; the name of the class for others.
        reason: why the dial gave up. ``policy``: the policy allows no other round. ``permanent``: the error does not go
            away by itself. ``unrecognised``: safedial does not know whether it does. ``time``: *total_timeout* is over.
        client: the name of the factory in `safedial.wrap`, of the driver that dials in C under `safedial.install`, else
            None.
    """

    kind: EventKind
    host: Host
    port: Port
    address: SockAddr | None
    round: int
    elapsed: float
    error: Exception | None = None
    wait: float | None = None
    duration: float | None = None
    error_type: str | None = None
    reason: Reason | None = None
    client: str | None = None


OnEvent: TypeAlias = Callable[[DialEvent], object]

# The code of the hooks that raised: each is reported once.
_reported: dict[object, object] = {}


class _Thread(threading.local):
    """Whether a hook runs in this thread. Not in this context: a task that the hook starts would inherit it."""

    telling = False


_thread = _Thread()
# Functions of `logging` that are on the stack while a record is handled, whoever logged it. Only their names: when this
# is loaded, a mock may stand in their place.
_HANDLING = ("handle", "callHandlers")


def check_hook(on_event: Any) -> OnEvent | None:
    """Return *on_event*, or raise TypeError if it can't be called, or would have to be awaited."""
    kind: Any = on_event.__class__
    called = getattr(kind, "__call__", None)  # noqa: B004  # to look at it, not to ask whether it is there
    awaits = inspect.iscoroutinefunction(on_event) or inspect.iscoroutinefunction(called)
    if on_event is not None and (not callable(on_event) or awaits):
        raise TypeError(f"on_event must be callable (but not a coroutine function) or None, not {shown(on_event)}")
    hook: OnEvent | None = on_event
    return hook


def is_first(seen: dict[Any, object], thing: object) -> bool:
    """Add *thing* to *seen*, and return whether it was not in it yet: of several threads, True for one alone.

    setdefault() is atomic, also without the GIL. No lock, which a signal handler or a forked child might find taken.
    """
    mark = object()
    return seen.setdefault(thing, mark) is mark


def emit(event: DialEvent, on_event: OnEvent | None, level: int = logging.DEBUG) -> None:
    """Log *event* at *level*, if it has one, and pass it to *on_event*."""
    if level and logger.isEnabledFor(level):
        template, values = sentence(event)
        log(level, template, *values, fields=fields_of(event))
    if on_event is not None:
        tell(on_event, event)


def log(level: int, template: str, *values: Any, fields: dict[str, Any] | None = None, exc_info: bool = False) -> None:
    """Log a line at *level*, unless a handler of the log dials. *fields* are attributes of its record."""
    if not logger.isEnabledFor(level) or _handles_a_record():
        return
    values = tuple(map(clean, values))
    try:
        logger.log(level, template, *values, extra=fields, exc_info=exc_info)
    except KeyError:  # a program's own LogRecord factory sets one of these
        logger.log(level, template, *values, exc_info=exc_info)


def _handles_a_record() -> bool:
    frame: Any = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name in _HANDLING and frame.f_globals is vars(logging):
            return True
        frame = frame.f_back
    return False


def warn(template: str, *values: Any) -> None:
    """Log a line at WARNING; see `log`."""
    log(logging.WARNING, template, *values)


def tell(on_event: OnEvent, event: DialEvent) -> None:
    """Call *on_event* with *event*, unless a hook runs in this thread. If it raises an Exception, log the first one."""
    if _thread.telling:
        return
    _thread.telling = True
    try:
        on_event(event)
    except Exception:  # monitoring must not end the dial
        # By the code: two lambdas have one name, and a bound method is a new object each time.
        function: Any = getattr(on_event, "__func__", on_event)
        key: object = getattr(function, "__code__", None) or function.__class__
        if is_first(_reported, key):
            name = getattr(function, "__qualname__", type(function).__qualname__)
            template = "on_event: %s raised; further errors of this hook are not logged"
            log(logging.ERROR, template, name, exc_info=True)
    finally:
        _thread.telling = False
