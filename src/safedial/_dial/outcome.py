"""The one error of a round over several addresses. Pure functions."""

from collections.abc import Sequence

from safedial.errors import PortsExhaustedError, SelfConnectError


def last_error(errors: Sequence[OSError]) -> OSError:
    """Choose the error that `socket.create_connection` would raise: the last address's."""
    return _with_others(errors[-1], errors[:-1])


def combined_error(errors: Sequence[OSError]) -> OSError:
    """Choose the error that asyncio's ``create_connection`` would raise: the first, or one that lists all messages.

    Unlike asyncio's, the list keeps an errno that all share, so ``except ConnectionRefusedError`` works for a name
    with two addresses. Exceptions of safedial's own classes stay as they are.
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


def _with_others(error: OSError, others: Sequence[OSError]) -> OSError:
    # Policies must see a transient error of one address behind a permanent one of another.
    if others:
        error._other_addresses = tuple(others)  # type: ignore[attr-defined]  # errors_of reads it
    return error
