"""The values of the options: durations and HTTP statuses. Pure functions, each made for ``type=`` of argparse."""

import re
from argparse import ArgumentTypeError

from safedial._address import MAX_SECONDS

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?|\.[0-9]{1,9}) ?(ms|s|m|h)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
# RFC 9110, section 15: a status has three digits, and the first is its class.
_STATUSES = re.compile(r"([1-5])(?:xx|XX|([0-9]{2}))")


def duration(text: str) -> float:
    """Return *text*, such as ``60``, ``500ms``, ``1.5m`` or ``2h``, in seconds.

    Raises:
        ArgumentTypeError: it is no such duration. argparse shows this message, and of a ValueError none.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ArgumentTypeError("a duration is a number and ms, s, m or h, such as 60, 500ms, 1.5s or 2m")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > MAX_SECONDS:
        raise ArgumentTypeError(f"a duration of more than {MAX_SECONDS:.0f} s can't be waited for")
    return seconds


def given(text: str) -> str:
    """Return *text*.

    Raises:
        ArgumentTypeError: it is empty, as a variable of the shell that is not set.
    """
    if not text:
        raise ArgumentTypeError("it is empty: is a variable of the shell not set?")
    return text


def statuses(text: str) -> frozenset[int]:
    """Return the HTTP statuses in *text*, such as ``200,204`` or ``2xx``.

    Raises:
        ArgumentTypeError: it has something else.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = _STATUSES.fullmatch(part.strip())
        if match is None:
            raise ArgumentTypeError("statuses are numbers from 100 to 599, such as 200,204 or 2xx,3xx")
        low = int(match[1] + (match[2] or "00"))
        found.update(range(low, low + (1 if match[2] else 100)))
    return frozenset(found)
