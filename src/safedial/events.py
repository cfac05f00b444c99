"""The events of a dial: one frozen record for each, passed to the caller's hook and to the log.

The `safedial` logger gets DEBUG for each attempt, INFO for retries (the 1st, 2nd, 4th, 8th … of a dial), for giving up
under a policy and for a recovery, and WARNING for a self-connect. Each message has a fixed template, and its values are
attributes of the log record too. Messages name hosts and ports, never payloads or secrets, and have no control
characters, whoever chose the names.

A handler of the log may dial, and so may a hook. While a record is handled, this thread logs no other one, and while a
hook runs, it tells no other one: each record would cause the next, for ever.
"""

import inspect
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from safedial._address import Host, Port, SockAddr, describe, printable, shown, worded

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

_WHY: dict[Reason | None, str] = {
    "policy": "the policy allows no other round",
    "permanent": "this error does not go away by itself",
    "unrecognised": "safedial does not know whether this error goes away by itself; if it does, use ",
    "time": "total_timeout is over",
}
# A message of a library is cut after so many characters.
_LONGEST = 300
# Errors of a chain; it may be a ring.
_DEEPEST = 10
# The query of a URL, which may have a token, and the user and password of one.
_SECRETS = re.compile(r"(\?)[^\s'\")]+|(?:(?<=//)|(?<=[\s\"']))[^\s\"'(/]+(?=@[\w.\[])")
# The code of the hooks that raised: each is reported once.
_reported: set[object] = set()


class _Thread(threading.local):
    """What this thread is doing. Not this context: a task that a hook starts would inherit it for its whole life."""

    logging = False
    telling = False


_thread = _Thread()


def check_hook(on_event: Any) -> OnEvent | None:
    """Return *on_event*, or raise TypeError if it can't be called, or would have to be awaited."""
    kind: Any = on_event.__class__
    called = getattr(kind, "__call__", None)  # noqa: B004  # to look at it, not to ask whether it is there
    awaits = inspect.iscoroutinefunction(on_event) or inspect.iscoroutinefunction(called)
    if on_event is not None and (not callable(on_event) or awaits):
        raise TypeError(f"on_event must be callable (but not a coroutine function) or None, not {shown(on_event)}")
    hook: OnEvent | None = on_event
    return hook


def emit(event: DialEvent, on_event: OnEvent | None, level: int = logging.DEBUG) -> None:
    """Log *event* at *level*, if it has one, and pass it to *on_event*."""
    if level and logger.isEnabledFor(level):
        template, values = _sentence(event)
        log(level, template, *values, fields=_fields(event))
    if on_event is not None:
        tell(on_event, event)


def log(level: int, template: str, *values: Any, fields: dict[str, Any] | None = None, exc_info: bool = False) -> None:
    """Log a line at *level*, unless this thread is logging one just now. *fields* are attributes of its record."""
    if _thread.logging:
        return
    values = tuple(map(_clean, values))
    _thread.logging = True
    try:
        try:
            logger.log(level, template, *values, extra=fields, exc_info=exc_info)
        except KeyError:  # a program's own LogRecord factory sets one of these
            logger.log(level, template, *values, exc_info=exc_info)
    finally:
        _thread.logging = False


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
        if key not in _reported:
            _reported.add(key)
            name = getattr(function, "__qualname__", type(function).__qualname__)
            template = "on_event: %s raised; further errors of this hook are not logged"
            log(logging.ERROR, template, name, exc_info=True)
    finally:
        _thread.telling = False


def is_telling() -> bool:
    """Return whether a hook runs in this thread: it is told of no dial that it makes itself."""
    return _thread.telling


def _clean(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def _sentence(event: DialEvent) -> tuple[str, tuple[Any, ...]]:
    """Return the template for *event* and its values. Log collectors group by the template."""
    dialed = _dialed(event)
    if event.kind == "resolved":
        return "%s: resolved in round %d, in %.3f s", (dialed, event.round, event.duration or 0.0)
    if event.kind == "connected":
        return "%s: connected in round %d, after %.3f s", (dialed, event.round, event.elapsed)
    if event.kind == "lost":
        template = "%s: still connecting when another address answered, round %d, %.3f s"
        return template, (dialed, event.round, event.elapsed)
    said = _said(event.error)
    if event.kind == "disconnected":
        return "%s: disconnected after %.3f s: %s", (dialed, event.duration, said)
    if event.kind == "retry":
        template = "%s: round %d failed: %s; next round in %.3f s, %.1f s so far"
        return template, (dialed, event.round, said, event.wait, event.elapsed)
    if event.kind == "gave_up":
        template = "%s: gave up after round %d, %.3f s: %s (%s)"
        why = _WHY[event.reason]
        if event.reason == "unrecognised":
            why += f"safedial.reconnect(also={_named(event.error)})"
        return template, (dialed, event.round, event.elapsed, said, why)
    if event.address is None and event.client is None:
        return "%s: resolving failed in round %d: %s", (dialed, event.round, said)
    return "%s: attempt failed in round %d: %s", (dialed, event.round, said)


def _fields(event: DialEvent) -> dict[str, Any]:
    """Return the attributes that the log record gets."""
    names = ("host", "port", "round", "elapsed", "wait", "error_type", "reason", "client")
    fields = {name: _clean(getattr(event, name)) for name in names}
    if isinstance(event.host, str):
        fields["host"] = worded(event.host)
    return fields


def _dialed(event: DialEvent) -> str:
    if event.host is None and event.port is None:
        return event.client or describe(None, None)
    dialed = describe(event.host, event.port)
    if event.address and (at := describe(*event.address[:2])) != dialed:
        dialed += f" at {at}"
    return f"{event.client} to {dialed}" if event.client else dialed


def _said(error: BaseException | None) -> str:
    """Return the message of *error* in one line. Errors about arguments may quote a password: only their class."""
    if error is None:
        return "no error"
    kind = type(error).__name__
    mistake = isinstance(error, TypeError | ValueError | LookupError | AttributeError) and not isinstance(
        error, OSError
    )
    if mistake or (kind == "ProgrammingError" and type(error).__module__.startswith("psycopg")):  # quotes the DSN
        return kind
    text = _line(error)
    if (cause := _line(_root(error))) not in text:
        text += f" ({cause})"
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _named(error: BaseException | None) -> str:
    """Return what to give `reconnect` as *also* for *error*."""
    kind = type(error)
    if kind in (OSError, Exception):
        return "<a function of the error>"  # the class is that of a wrong certificate, too
    return f"({kind.__qualname__ if kind.__module__ == 'builtins' else f'{kind.__module__}.{kind.__qualname__}'},)"


def _line(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except Exception:  # of a library
        text = ""
    return _SECRETS.sub(r"\1…", text) or type(error).__name__


def _root(error: BaseException) -> BaseException:
    """Return the error at the end of the chain behind *error*, which often has the only words that say something."""
    for _ in range(_DEEPEST):
        behind = [*getattr(error, "exceptions", ()), *error.args, error.__cause__, error.__context__]
        found = next((each for each in behind if isinstance(each, Exception)), None)
        if found is None:
            break
        error = found
    return error
