"""What the words, the bases and the copied errno of another library's error mean: where nothing else is known."""

import os
import re

from safedial._retry.kinds import (
    ABORTED,
    BROKEN_PIPE,
    CLOSED,
    ERRNOS,
    PORTS_EXHAUSTED,
    REFUSED,
    RESET,
    SELF_CONNECT,
    TIMED_OUT,
    TLS,
    Kind,
    by_reason,
    numbered,
    strongest,
)

# By class and not by number: these come without an errno too, and from the classes of other libraries.
_BASES = (
    (ConnectionRefusedError, REFUSED),
    (ConnectionResetError, RESET),
    (ConnectionAbortedError, ABORTED),
    (BrokenPipeError, BROKEN_PIPE),
    (ConnectionError, CLOSED),
    (TimeoutError, TIMED_OUT),
    (EOFError, CLOSED),  # asyncio.IncompleteReadError is one
)
# As Python's ssl and grpc write OpenSSL's reasons.
_REASON = re.compile(r"(?<=\[SSL: )\w+|CERTIFICATE_VERIFY_FAILED")
_NUMBER = re.compile(r"\[Errno (-?\d+)\]")
_LONGEST = 20_000  # characters: pymongo's description of a large replica set has some thousand
# SelfConnectError.at and PortsExhaustedError.at write these words.
SPURIOUS_WORDS = {"(self-connect), and safedial": SELF_CONNECT, "no local port is free to reach": PORTS_EXHAUSTED}


def by_base(error: BaseException) -> Kind | None:
    """Return the kind that the built-in bases of *error* suggest: the last resort for another library's class."""
    for base, kind in _BASES:
        if isinstance(error, base):
            return kind
    # aiohttp's OSErrors copy the errno of their cause.
    return numbered(error.errno) if isinstance(error, OSError) and error.errno is not None else None


def by_words(text: str) -> Kind | None:
    """Return the kind of an error of which *text* is all that a library kept, such as "[Errno 111] …"."""
    text = text[:_LONGEST]
    kinds = [kind for words, kind in SPURIOUS_WORDS.items() if words in text]
    kinds += map(by_reason, _REASON.findall(text))
    if "rejected SSL upgrade" in text:  # asyncpg's ConnectionError, if the server has no TLS
        kinds.append(TLS)
    return strongest([*kinds, *(numbered(int(number)) for number in _NUMBER.findall(text))])


def by_strerror(text: str) -> Kind | None:
    """Return the kind of the kernel's messages in *text*, which C libraries give without their number."""
    # Asked anew each time: strerror follows the locale of the process, as the library's text does.
    return strongest(kind for number, kind in ERRNOS.items() if os.strerror(number) in text)


def says_spurious(text: str) -> bool:
    """Return whether safedial's own words for a self-connect or exhausted ports are in *text*."""
    return any(words in text for words in SPURIOUS_WORDS)
