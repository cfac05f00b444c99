"""The one error that a round over several addresses ends with. Pure functions."""

from safedial.errors import PortsExhaustedError, SelfConnectError


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
