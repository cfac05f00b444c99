"""What one error means: a verdict, and a name for logs and metrics. Here for the kernel, the resolver and TLS."""

import enum
import errno
import os
import re
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
_ERRNOS = {
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
    # A source address that is not up yet. Exhausted ports are a PortsExhaustedError.
    errno.EADDRNOTAVAIL: NO_ADDRESS,
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
_OWN_MODULES = frozenset({"builtins", "safedial.errors", "socket", "ssl"})
_TLS_CLASSES = {
    "SSLCertVerificationError": CERTIFICATE,
    "SSLSyscallError": RESET,
    "SSLEOFError": CLOSED,
    "SSLZeroReturnError": CLOSED,
}
# OpenSSL's alerts and errors about a certificate, such as TLSV1_ALERT_UNKNOWN_CA.
_ABOUT_CERTIFICATES = re.compile("certificate|unknown[_ ]ca", re.IGNORECASE)
# As Python's ssl and grpc write OpenSSL's reasons.
_REASON = re.compile(r"(?<=\[SSL: )\w+|CERTIFICATE_VERIFY_FAILED")
_NUMBER = re.compile(r"\[Errno (-?\d+)\]")
_LONGEST = 20_000  # characters: pymongo's description of a large replica set has some thousand
# SelfConnectError.at and PortsExhaustedError.at write these words.
SPURIOUS_WORDS = {"(self-connect), and safedial": SELF_CONNECT, "no local port is free to reach": PORTS_EXHAUSTED}


def strongest(kinds: Iterable[Kind | None]) -> Kind | None:
    """Return the kind whose verdict decides: PERMANENT before TRANSIENT, ABSENT and UNKNOWN; of equals the first."""
    return min((kind for kind in kinds if kind is not None), key=lambda kind: kind.verdict.rank, default=None)


def kernels(error: BaseException) -> Kind | None:
    """Return the kind of an error that the kernel, the resolver or Python's ssl raised, None for all others.

    What Python links to such an error says nothing about it: that is an exception which was just being handled.
    """
    if not isinstance(error, OSError):
        return None
    if isinstance(error, SelfConnectError | PortsExhaustedError):
        return PORTS_EXHAUSTED if isinstance(error, PortsExhaustedError) else SELF_CONNECT
    if isinstance(error, socket.gaierror):
        # Its errno is an EAI_ code, which may equal an errno with another meaning.
        return _EAIS.get(error.errno or 0, BAD_NAME)
    if type(error).__module__ not in _OWN_MODULES:
        return None
    if type(error).__module__ == "ssl":
        return _tls(error)
    if isinstance(error, TimeoutError):  # socket timeouts carry no errno
        return TIMED_OUT
    return None if error.errno is None else _numbered(error.errno)


def by_base(error: BaseException) -> Kind | None:
    """Return the kind that the built-in bases of *error* suggest: the last resort for another library's class."""
    for base, kind in _BASES:
        if isinstance(error, base):
            return kind
    # aiohttp's OSErrors copy the errno of their cause.
    return _numbered(error.errno) if isinstance(error, OSError) and error.errno is not None else None


def by_words(text: str) -> Kind | None:
    """Return the kind of an error of which *text* is all that a library kept, such as "[Errno 111] …"."""
    text = text[:_LONGEST]
    kinds = [kind for words, kind in SPURIOUS_WORDS.items() if words in text]
    kinds += map(_by_reason, _REASON.findall(text))
    if "rejected SSL upgrade" in text:  # asyncpg's ConnectionError, if the server has no TLS
        kinds.append(TLS)
    return strongest([*kinds, *(_numbered(int(number)) for number in _NUMBER.findall(text))])


def by_strerror(text: str) -> Kind | None:
    """Return the kind of the kernel's messages in *text*, which C libraries give without their number."""
    # Asked anew each time: strerror follows the locale of the process, as the library's text does.
    return strongest(kind for number, kind in _ERRNOS.items() if os.strerror(number) in text)


def says_spurious(text: str) -> bool:
    """Return whether safedial's own words for a self-connect or exhausted ports are in *text*."""
    return any(words in text for words in SPURIOUS_WORDS)


def _numbered(number: int) -> Kind:
    if number < 0:
        return _EAIS.get(number, BAD_NAME)
    return _ERRNOS.get(number) or Kind(Verdict.UNKNOWN, errno.errorcode.get(number, "os_error"))


def _tls(error: OSError) -> Kind:
    # By name: importing ssl takes longer than the rest of safedial.
    for kind in type(error).__mro__:
        if kind.__name__ in _TLS_CLASSES:
            return _TLS_CLASSES[kind.__name__]
    return _by_reason(str(getattr(error, "reason", None) or ""))


def _by_reason(reason: str) -> Kind:
    if _ABOUT_CERTIFICATES.search(reason):
        return CERTIFICATE
    return CLOSED if reason == "UNEXPECTED_EOF_WHILE_READING" else TLS
