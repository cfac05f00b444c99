"""What one error means: a verdict, and a name for logs and metrics. Here for the kernel, the resolver and TLS."""

import enum
import errno
import socket
from collections.abc import Iterable
from typing import Final, NamedTuple

from safedial.errors import PortsExhaustedError, SelfConnectError


class Verdict(enum.Enum):
    """What an operator would say of a failed connection. Their order: the first that is found decides."""

    PERMANENT = "you must fix this"
    TRANSIENT = "it is coming back"
    ABSENT = "a name, or an address of this host, is not there"
    UNKNOWN = "not recognised"

    # Equality is identity; a number makes the order.
    @property
    def rank(self) -> int:
        """The place in the order."""
        return _RANKS[self]


_RANKS = {verdict: place for place, verdict in enumerate(Verdict)}


class Kind(NamedTuple):
    """A verdict, and the kind of the error in words, as OpenTelemetry writes them in ``error.type``."""

    verdict: Verdict
    name: str


REFUSED: Final = Kind(Verdict.TRANSIENT, "connection_refused")
RESET: Final = Kind(Verdict.TRANSIENT, "connection_reset")
ABORTED: Final = Kind(Verdict.TRANSIENT, "connection_aborted")
BROKEN_PIPE: Final = Kind(Verdict.TRANSIENT, "broken_pipe")
CLOSED: Final = Kind(Verdict.TRANSIENT, "connection_closed")  # the server hung up: end of file
TIMED_OUT: Final = Kind(Verdict.TRANSIENT, "timed_out")
HOST_UNREACHABLE: Final = Kind(Verdict.TRANSIENT, "host_unreachable")
NETWORK_UNREACHABLE: Final = Kind(Verdict.TRANSIENT, "network_unreachable")
SELF_CONNECT: Final = Kind(Verdict.TRANSIENT, "self_connect")
PORTS_EXHAUSTED: Final = Kind(Verdict.TRANSIENT, "address_not_available")
# The server says so itself.
UNAVAILABLE: Final = Kind(Verdict.TRANSIENT, "server_unavailable")  # starting, stopping, failing over
FULL: Final = Kind(Verdict.TRANSIENT, "too_many_connections")
DENIED: Final = Kind(Verdict.PERMANENT, "authentication_error")
NO_DATABASE: Final = Kind(Verdict.PERMANENT, "unknown_database")
MISCONFIGURED: Final = Kind(Verdict.PERMANENT, "configuration_error")

NO_NAME: Final = Kind(Verdict.ABSENT, "name_resolution_error")
NO_NAME_NOW: Final = Kind(Verdict.TRANSIENT, "name_resolution_error")
BAD_NAME: Final = Kind(Verdict.PERMANENT, "name_resolution_error")
NO_ADDRESS: Final = Kind(Verdict.ABSENT, "address_not_available")
CERTIFICATE: Final = Kind(Verdict.PERMANENT, "certificate_error")
TLS: Final = Kind(Verdict.UNKNOWN, "tls_error")
_DENIED_BY_THE_KERNEL = Kind(Verdict.UNKNOWN, "permission_denied")
_TOO_MANY_FILES = Kind(Verdict.UNKNOWN, "too_many_open_files")

# connect(2)'s errors for a server that is down, starting or unreachable; and those of the handshake that follows.
ERRNOS = {
    errno.ECONNREFUSED: REFUSED,
    errno.ECONNRESET: RESET,
    errno.ECONNABORTED: ABORTED,
    errno.EPIPE: BROKEN_PIPE,
    errno.ENOTCONN: CLOSED,  # a reset that came before the handshake asked for the peer's name
    errno.ETIMEDOUT: TIMED_OUT,
    errno.EHOSTUNREACH: HOST_UNREACHABLE,
    errno.EHOSTDOWN: HOST_UNREACHABLE,
    errno.ENETUNREACH: NETWORK_UNREACHABLE,
    errno.ENETDOWN: NETWORK_UNREACHABLE,
    errno.ENETRESET: RESET,
    errno.ESHUTDOWN: BROKEN_PIPE,
    # A source address that is not up yet. Exhausted ports are a PortsExhaustedError.
    errno.EADDRNOTAVAIL: NO_ADDRESS,
    # A source port whose last connection is in TIME_WAIT.
    errno.EADDRINUSE: Kind(Verdict.ABSENT, "address_in_use"),
    # Never PERMANENT: what holds for one address of a name, such as IPv6 switched off, need not hold for the next.
    errno.EACCES: _DENIED_BY_THE_KERNEL,
    errno.EPERM: _DENIED_BY_THE_KERNEL,
    errno.EMFILE: _TOO_MANY_FILES,
    errno.ENFILE: _TOO_MANY_FILES,
}
# getaddrinfo(3)'s, under the names that this system has. The others are permanent: an unknown service, bad flags. So is
# EAI_ADDRFAMILY, which glibc gives only for a numeric address of the wrong family.
_EAIS = {
    getattr(socket, name): kind
    for name, kind in {
        "EAI_AGAIN": NO_NAME_NOW,
        "EAI_NONAME": NO_NAME,
        "EAI_NODATA": NO_NAME,
        "EAI_FAIL": NO_NAME,  # the name server refuses; musl says it of each answer that it can't read
        "EAI_MEMORY": Kind(Verdict.UNKNOWN, "name_resolution_error"),
        "EAI_SYSTEM": Kind(Verdict.UNKNOWN, "name_resolution_error"),  # such as EMFILE
    }.items()
    if hasattr(socket, name)
}
_OWN_MODULES = frozenset({"builtins", "safedial.errors", "socket", "ssl"})
_TLS_CLASSES = {
    "SSLCertVerificationError": CERTIFICATE,
    "SSLSyscallError": RESET,
    "SSLEOFError": CLOSED,
    "SSLZeroReturnError": CLOSED,
}


def strongest(kinds: Iterable[Kind | None]) -> Kind | None:
    """Return the kind whose verdict decides: PERMANENT before TRANSIENT, ABSENT and UNKNOWN; of equals the first."""
    return min((kind for kind in kinds if kind is not None), key=lambda kind: kind.verdict.rank, default=None)


def kernels(error: BaseException) -> Kind | None:
    """Return the kind of an error that the kernel, the resolver or Python's ssl raised, None for all others.

    What Python links to such an error says nothing about it: that is an exception which was just being handled.
    """
    if not isinstance(error, OSError):
        return None
    if isinstance(error, SelfConnectError):
        return SELF_CONNECT
    if isinstance(error, PortsExhaustedError):
        return PORTS_EXHAUSTED
    if isinstance(error, socket.gaierror):
        # Its errno is an EAI_ code, which may equal an errno with another meaning.
        return _EAIS.get(error.errno, BAD_NAME) if error.errno else Kind(Verdict.UNKNOWN, "name_resolution_error")
    if type(error).__module__ not in _OWN_MODULES:
        return None
    if type(error).__module__ == "ssl":
        return _tls(error)
    if isinstance(error, TimeoutError):  # socket timeouts carry no errno
        return TIMED_OUT
    return None if error.errno is None else numbered(error.errno)


def numbered(number: object) -> Kind | None:
    """Return the kind of an errno, or of an EAI_ code, which is negative on Linux; None for what is no number."""
    if not isinstance(number, int):  # OSError("text", "more text")
        return None
    if number < 0:
        return _EAIS.get(number, BAD_NAME)
    return ERRNOS.get(number) or Kind(Verdict.UNKNOWN, errno.errorcode.get(number, "os_error"))


def _tls(error: OSError) -> Kind:
    # By name: importing ssl takes longer than the rest of safedial.
    for kind in type(error).__mro__:
        if kind.__name__ in _TLS_CLASSES:
            return _TLS_CLASSES[kind.__name__]
    return by_reason(str(getattr(error, "reason", None) or ""))


def by_reason(reason: str) -> Kind:
    """Return the kind of OpenSSL's *reason*."""
    # OpenSSL's errors and alerts, such as TLSV1_ALERT_UNKNOWN_CA.
    if "certificate" in (lower := reason.lower()) or "unknown_ca" in lower:
        return CERTIFICATE
    return CLOSED if reason == "UNEXPECTED_EOF_WHILE_READING" else TLS
