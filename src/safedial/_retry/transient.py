"""Which errors are worth another round. Pure functions over an exception, the same for sync and async code."""

import errno
import socket
from collections.abc import Iterator
from typing import cast

from safedial.errors import PortsExhaustedError, SelfConnectError

# What a server that is down, starting or out of reach makes the kernel say (connect(2)).
TRANSIENT_ERRNOS = frozenset(
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
    return isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS


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
