"""Spurious, transient and permanent errors."""

import errno
import socket

import pytest

import safedial
from safedial._retry.transient import is_spurious, is_transient

SELF = safedial.SelfConnectError.at("127.0.0.1", 80)
EXHAUSTED = safedial.PortsExhaustedError.at("127.0.0.1", 80, safedial.PortUsage())
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
BAD_SOURCE = OSError(errno.EADDRNOTAVAIL, "bind")


@pytest.mark.parametrize(
    ("error", "spurious", "transient"),
    [
        (SELF, True, True),
        (EXHAUSTED, True, True),
        (REFUSED, False, True),
        (TimeoutError("timed out"), False, True),
        (TimeoutError(errno.ETIMEDOUT, "timed out"), False, True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), False, True),
        (OSError(errno.ENETUNREACH, "unreachable"), False, True),
        (OSError(errno.EHOSTUNREACH, "unreachable"), False, True),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), False, True),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), False, False),
        (BAD_SOURCE, False, False),
        (PermissionError(errno.EACCES, "denied"), False, False),
        (OSError("no errno"), False, False),
        (ValueError("no OSError"), False, False),
        (ExceptionGroup("all", [BAD_SOURCE, SELF]), True, True),
    ],
)
def test_errors_are_spurious_or_transient(error, spurious, transient):
    assert (is_spurious(error), is_transient(error)) == (spurious, transient)
