"""asyncio's "Multiple exceptions": one OSError with the texts of several, whose errnos and classes are lost."""

import errno
import re

from safedial._retry.words import SPURIOUS_WORDS
from safedial.errors import PortsExhaustedError, SelfConnectError

_NUMBERS = re.compile(r"\[Errno (\d+)\]")
_ADDRESS = re.compile(r"(?:nobody listens on|free to reach) (\S+) port (\d+)\b")
_OURS: dict[int, type[SelfConnectError | PortsExhaustedError]] = {
    errno.ECONNREFUSED: SelfConnectError,
    errno.EADDRNOTAVAIL: PortsExhaustedError,
}


def with_shared_errno(error: Exception) -> Exception:
    """Return *error* with the errno that all of its texts share, or *error* itself if it is no such list.

    Of an errno Python makes a class: ConnectionRefusedError if all addresses refused, as it is raised for one address.
    Of several self-connects it is a SelfConnectError again, for the last address.
    """
    if type(error) is not OSError or error.errno is not None:
        return error
    text = str(error)
    numbers = _NUMBERS.findall(text)
    if not text.startswith("Multiple exceptions: ") or len(set(numbers)) != 1:
        return error
    number = int(numbers[0])
    copy = OSError(number, text)
    if (addresses := _ADDRESS.findall(text)) and sum(map(text.count, SPURIOUS_WORDS)) == len(numbers):
        copy = _ours(number, text, *addresses[-1]) or copy
    copy.__cause__, copy.__context__ = error.__cause__, error.__context__
    copy.__suppress_context__ = error.__suppress_context__
    return copy.with_traceback(error.__traceback__)


def _ours(number: int, text: str, host: str, port: str) -> OSError | None:
    """Return the error of one address, as safedial raised it."""
    if number not in _OURS:
        return None
    copy = _OURS[number](number, text)
    copy.host, copy.port = host, int(port)
    return copy
