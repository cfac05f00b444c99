"""Transient or permanent: what a failed connection means. Pure functions over an exception, for sync and async code.

The kernel's own errors are judged here, others by `safedial._retry.judge`.
"""

from safedial._retry import clients, judge, kinds
from safedial._retry.chain import attribute
from safedial._retry.kinds import Kind, Verdict
from safedial.errors import PortsExhaustedError, SelfConnectError


def verdict(error: BaseException) -> Verdict:
    """Return what an operator would say of *error*, with which a connection failed."""
    found = _kind(error)
    return Verdict.UNKNOWN if found is None else found.verdict


def error_type(error: BaseException) -> str:
    """Return the kind of *error* in a word or two for logs and metrics, as in OpenTelemetry's ``error.type``.

    Such as connection_refused or name_resolution_error. It is that of the error that decides on the verdict. If nothing
    is known of it: the name of the class with its module.
    """
    if (found := _kind(error)) is not None:
        return found.name
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def is_transient(error: BaseException, *, names: bool = False) -> bool:
    """Return whether a later round may succeed after *error*, the error of a server that may come back.

    If *names* is set, so may a name that does not resolve, and a source address that this host does not have.
    Otherwise they count only if they are known to have been there (`mark_as_known`).
    """
    if not isinstance(error, Exception):
        return False  # a cancellation or Ctrl-C, whatever was just being handled: tenacity asks about these too
    found = verdict(error)
    if found is Verdict.ABSENT:
        return names or any(attribute(each, "_was_there") is True for each in errors_of(error))
    return found is Verdict.TRANSIENT


def ends_connection(error: BaseException) -> bool:
    """Return whether *error*, raised while a connection was in use, says that the connection is gone.

    An exception of the program's own never does, whatever was being handled when it was raised.
    """
    if not isinstance(error, OSError | EOFError) and not clients.knows(error):
        return False
    return is_transient(error)


def is_spurious(error: BaseException) -> bool:
    """Return whether *error* says nothing about the server: a self-connect, or exhausted local ports."""
    if type(error) is ConnectionRefusedError and error.errno and getattr(error, "_other_addresses", None) is None:
        return False  # the most frequent failure: each refused dial asks
    if _stands_alone(error):
        return isinstance(error, SelfConnectError | PortsExhaustedError)
    if not isinstance(error, Exception):
        return False  # as in `is_transient`
    return any(map(judge.is_spurious, errors_of(error))) and verdict(error) is not Verdict.PERMANENT


def mark_as_known(error: BaseException) -> None:
    """Mark *error*, a name or an address that is not there, as one that was there before in this process."""
    error._was_there = True  # type: ignore[attr-defined]  # is_transient reads it


def errors_of(error: BaseException) -> list[BaseException]:
    """Return *error*, those of the other addresses of its dial, and the kernel's error behind another library's."""
    if _stands_alone(error):
        return [error]
    return judge.errors_of(error)


def _kind(error: BaseException) -> Kind | None:
    """Return the kind of *error*, None if nothing is known of it."""
    if _stands_alone(error):
        return kinds.kernels(error)
    return judge.kind_of(error)


def _stands_alone(error: BaseException) -> bool:
    """Return whether nothing but *error* itself says what it means."""
    return kinds.kernels(error) is not None and attribute(error, "_other_addresses") is None
