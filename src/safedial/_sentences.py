"""The sentences of the log: one template for each kind of event, and values without secrets or control characters."""

import re
from typing import TYPE_CHECKING, Any

from safedial._address import describe, printable, worded
from safedial.errors import PortsExhaustedError, for_log

if TYPE_CHECKING:
    from safedial.events import DialEvent, Reason

_WHY: "dict[Reason | None, str]" = {
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


def clean(value: Any) -> Any:
    """Return *value*; if it is a string, without control characters."""
    return printable(value) if isinstance(value, str) else value


def sentence(event: "DialEvent") -> tuple[str, tuple[Any, ...]]:
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


def fields_of(event: "DialEvent") -> dict[str, Any]:
    """Return the attributes that the log record gets."""
    names = ("host", "port", "round", "elapsed", "wait", "error_type", "reason", "client")
    fields = {name: clean(getattr(event, name)) for name in names}
    if isinstance(event.host, str):
        fields["host"] = worded(event.host)
    return fields


def _dialed(event: "DialEvent") -> str:
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
    text = one_line(error)
    if isinstance(error, PortsExhaustedError):
        return text  # it has all that is known, and its own error says less
    if (cause := one_line(_root(error))) not in text:
        text += f" ({cause})"
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _named(error: BaseException | None) -> str:
    """Return what to give `reconnect` as *also* for *error*."""
    kind = type(error)
    if kind in (OSError, Exception):
        return "<a function of the error>"  # the class is that of a wrong certificate, too
    return f"({kind.__qualname__ if kind.__module__ == 'builtins' else f'{kind.__module__}.{kind.__qualname__}'},)"


def one_line(error: BaseException) -> str:
    """Return the message of *error* in one line, without the secrets of URLs; the name of its class if it has none."""
    try:
        text = " ".join(for_log(error).split())
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
