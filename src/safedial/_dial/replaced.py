"""Functions that a program put in the place of the stdlib's or of a library's: DNS pinning, guards against SSRF, mocks.

Whoever did so is asked. Imports nothing of safedial.
"""

import socket
from types import FunctionType, MethodType
from typing import Any

# They replace parts of the stdlib by their own, which wait for other greenlets: no guards.
_STAND_INS = ("gevent", "eventlet")
plain_getaddrinfo: object = None  # the last getaddrinfo() that proved to be the stdlib's or one of these


def is_theirs(function: Any, *packages: str) -> bool:
    """Return whether *function*, found where one of *packages* has its own, was put there by somebody else."""
    function = function.__func__ if type(function) is MethodType else function
    if type(function) is not FunctionType:  # a mock, or a proxy that looks like the function
        return True
    # Names can be copied, as functools.wraps() does. The globals can't.
    home = str(function.__globals__.get("__name__"))
    return home.partition(".")[0] not in (*packages, *_STAND_INS)


def skips_resolver() -> bool:
    """Return whether a numeric host need not be shown to `socket.getaddrinfo`, because that is nobody's guard."""
    global plain_getaddrinfo
    getaddrinfo = socket.getaddrinfo
    if getaddrinfo is plain_getaddrinfo:
        return True
    if is_theirs(getaddrinfo, "socket"):
        return False
    plain_getaddrinfo = getaddrinfo
    return True
