"""The exceptions of the safe dial, and which errors are worth another dial.

Knows nothing of sockets or of retrying. Imports nothing of safedial.
"""

import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast


class SelfConnectError(ConnectionRefusedError):
    """The socket connected to itself, so nobody listens on that port.

    It is a `ConnectionRefusedError` with ``errno`` ECONNREFUSED, because a refusal is what the
    kernel would have said had it drawn another local port. The socket is already closed, with
    SO_LINGER (1, 0), so that a server can bind the port at once.

    Attributes:
        host: the address that was dialed, as text.
        port: the port that was dialed, and that the kernel drew as the local port.
    """

    host: str = ""
    port: int = 0

    @classmethod
    def at(cls, host: str, port: int) -> "SelfConnectError":
        """Build the error for a dial of *host* and *port*."""
        error = cls(
            errno.ECONNREFUSED,
            f"Connection refused: nobody listens on {host} port {port}; the kernel connected the socket "
            f"to itself (self-connect) and safedial let go of it. Start the server, or dial again later",
        )
        error.host, error.port = host, port
        return error


@dataclass(frozen=True, slots=True)
class PortUsage:
    """How many local ports are taken towards one destination. Counts, no units.

    Attributes:
        low: first port of the range the kernel may choose from; None where it can't be read.
        high: last port of that range, inclusive; None where it can't be read.
        in_use: connections of this host to the destination; None where they can't be counted.
        time_wait: how many of them are in TIME_WAIT.
    """

    low: int | None = None
    high: int | None = None
    in_use: int | None = None
    time_wait: int | None = None

    @property
    def mostly_held_by_others(self) -> bool:
        """Whether connections to this destination are less than half of the range."""
        if self.low is None or self.high is None or self.in_use is None:
            return False
        return 2 * self.in_use < self.high - self.low + 1

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return "the range of local ports could not be read"
        text = f"local ports {self.low} to {self.high} may be drawn"
        if self.in_use is not None:
            text += f", {self.in_use} in use to it, {self.time_wait} of them in TIME_WAIT"
        return text


class PortsExhaustedError(OSError):
    """No local port is free to reach the destination. ``errno`` is EADDRNOTAVAIL.

    Raised where EADDRNOTAVAIL is transient. An address that this host does not have (a bad
    source address, IPv6 switched off) stays the kernel's own `OSError`.

    Attributes:
        host: the address that was dialed, as text.
        port: the port that was dialed.
        usage: the range and the ports in use when the dial failed.
    """

    host: str = ""
    port: int = 0
    usage: PortUsage = PortUsage()

    @classmethod
    def at(cls, host: str, port: int, usage: PortUsage) -> "PortsExhaustedError":
        """Build the error for a dial of *host* and *port* with the figures in *usage*."""
        text = f"Address not available: no local port is free to reach {host} port {port}; {usage}. "
        if usage.mostly_held_by_others:
            text += "Sockets to other destinations, or bound ones, hold the rest: see ss -tan, or widen "
        else:
            text += "Reuse connections (a pool), dial less often, or widen "
        error = cls(errno.EADDRNOTAVAIL, text + "net.ipv4.ip_local_port_range")
        error.host, error.port, error.usage = host, port, usage
        return error


# What a server that is down, starting or out of reach makes the kernel say (connect(2)).
_TRANSIENT_ERRNOS = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
    }
)


def is_spurious(error: BaseException) -> bool:
    """Tell whether *error* says nothing about the server: a self-connect, or no free local port."""
    return any(isinstance(e, SelfConnectError | PortsExhaustedError) for e in errors_of(error))


def is_transient(error: BaseException) -> bool:
    """Tell whether a later dial may succeed: spurious, refused, timed out, reset, unreachable,
    or a temporary failure of the resolver (EAI_AGAIN).
    """
    return is_spurious(error) or any(_is_transient(e) for e in errors_of(error))


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, socket.gaierror):
        # Its errno is an EAI_ code, which may equal an errno of another meaning.
        return error.errno == socket.EAI_AGAIN
    if isinstance(error, TimeoutError):
        return True  # socket timeouts carry no errno
    return isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS


def errors_of(error: BaseException) -> Iterator[BaseException]:
    """Yield *error*, what the other addresses of the same dial said, and where it is another library's
    word for what the kernel said, that.
    """
    todo: list[BaseException | None] = [error]
    known: list[BaseException] = []  # a chain may be a ring
    while todo:
        each = todo.pop(0)
        if each is None or any(each is one for one in known):
            continue
        known.append(each)
        if isinstance(each, BaseExceptionGroup):
            todo += cast("BaseExceptionGroup[BaseException]", each).exceptions
            continue
        yield each
        todo += getattr(each, "_other_addresses", ())
        if not _is_the_kernels(each):
            todo.append(each.__cause__ or (None if each.__suppress_context__ else each.__context__))
            # urllib3, and requests over it, have the reason among the arguments.
            todo += [reason for reason in each.args if isinstance(reason, BaseException)]


def _is_the_kernels(error: BaseException) -> bool:
    """Tell whether *error* speaks for itself; what it was raised beside is no matter then. An OSError of
    another library does not: aiohttp's has the errno of what it stands for, and no more.
    """
    own = type(error).__module__.partition(".")[0] in ("builtins", "safedial", "socket", "ssl")
    return own and isinstance(error, OSError) and (error.errno is not None or isinstance(error, TimeoutError))


def last_error(errors: list[OSError]) -> OSError:
    """Choose the error of a dial as `socket.create_connection` does: the last address's."""
    return _with_others(errors[-1], errors[:-1])


def combined_error(errors: list[OSError]) -> OSError:
    """Choose the error of a dial as asyncio's ``create_connection`` does: the only one, or one
    for all that read alike, or one that lists them. Unlike asyncio's, the list keeps an errno
    that all share, so that ``except ConnectionRefusedError`` works for a name with two addresses.
    Errors that only safedial has stay themselves.
    """
    first = errors[0]
    texts = [str(error) for error in errors]
    ours = isinstance(first, SelfConnectError | PortsExhaustedError)
    if all(text == texts[0] for text in texts) or (ours and all(type(error) is type(first) for error in errors)):
        return _with_others(first, errors[1:])
    summary = f"Multiple exceptions: {', '.join(texts)}"
    if first.errno is not None and all(error.errno == first.errno for error in errors):
        return _with_others(OSError(first.errno, summary), errors)
    return _with_others(OSError(summary), errors)


def _with_others(error: OSError, others: list[OSError]) -> OSError:
    # Policies must see a transient fault at one address behind a permanent one at another, yet
    # the caller must get the one exception that the stdlib would raise.
    if others:
        error._other_addresses = tuple(others)  # type: ignore[attr-defined]  # errors_of reads it
    return error
