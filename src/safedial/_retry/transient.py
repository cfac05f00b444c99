"""Which errors are transient: worth another round. Pure functions over an exception, for sync and async code."""

import errno
import socket
from typing import cast

from safedial.errors import PortsExhaustedError, SelfConnectError

# connect(2)'s errors for a server that is down, starting or unreachable.
TRANSIENT_ERRNOS = frozenset(
    {errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ETIMEDOUT}
    | {errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN}
)
_OWN_MODULES = frozenset({"builtins", "safedial.errors", "socket", "ssl"})
_SPURIOUS = (SelfConnectError, PortsExhaustedError)


def is_spurious(error: BaseException) -> bool:
    """Return whether *error* says nothing about the server: a self-connect, or exhausted local ports."""
    return any(isinstance(each, _SPURIOUS) for each in errors_of(error))


def is_transient(error: BaseException) -> bool:
    """Return whether a later round may succeed after *error*, the error of a server that may come back."""
    return any(_is_transient(each) for each in errors_of(error))


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, socket.gaierror):
        # Its errno is an EAI_ code, which may equal an errno with another meaning.
        return error.errno == socket.EAI_AGAIN
    if isinstance(error, TimeoutError | PortsExhaustedError):  # socket timeouts carry no errno
        return True
    return isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS  # a SelfConnectError too


def errors_of(error: BaseException) -> list[BaseException]:
    """Return *error*, those of the other addresses of its dial, and the kernel's error behind another library's."""
    if _is_the_kernels(error) and not hasattr(error, "_other_addresses"):
        return [error]  # most errors
    found: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    known: set[int] = set()  # a chain may be a ring
    while todo:
        each = todo.pop(0)
        if each is None or id(each) in known:
            continue
        known.add(id(each))
        if isinstance(each, BaseExceptionGroup):
            todo += cast("BaseExceptionGroup[BaseException]", each).exceptions
            continue
        found.append(each)
        todo += getattr(each, "_other_addresses", ())
        if not _is_the_kernels(each):
            todo.append(each.__cause__ or (None if each.__suppress_context__ else each.__context__))
            # urllib3, and requests above it, keep the reason among the arguments.
            todo += [reason for reason in each.args if isinstance(reason, BaseException)]
    return found


def _is_the_kernels(error: BaseException) -> bool:
    """Return whether *error* is the kernel's own, so that its context says nothing about it."""
    # aiohttp's OSErrors copy only the errno of their cause, so look at the cause too.
    return (
        isinstance(error, OSError)
        and (error.errno is not None or isinstance(error, TimeoutError))
        and type(error).__module__ in _OWN_MODULES
    )
