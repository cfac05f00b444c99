"""asyncio's "Multiple exceptions" with the errno that it drops."""

import asyncio
import errno
import os
import socket

import pytest

import safedial
from safedial._retry.multiple import with_shared_errno
from safedial._retry.transient import is_spurious, is_transient
from tests.support import faults

SELF = safedial.SelfConnectError.at("::1", 5000), safedial.SelfConnectError.at("127.0.0.1", 5000)
EXHAUSTED = safedial.PortsExhaustedError.at("127.0.0.1", 5000, safedial.PortUsage())


def refused(code=errno.ECONNREFUSED):
    return OSError(code, os.strerror(code))


def multiple(*errors):
    return OSError(f"Multiple exceptions: {', '.join(map(str, errors))}")


@pytest.mark.parametrize(
    ("errors", "kind", "code"),
    [
        ([refused(), refused()], ConnectionRefusedError, errno.ECONNREFUSED),
        ([refused(errno.ENETUNREACH)] * 2, OSError, errno.ENETUNREACH),
        ([refused(errno.ETIMEDOUT)] * 2, TimeoutError, errno.ETIMEDOUT),
        ([refused(), refused(errno.ENETUNREACH)], OSError, None),
        (SELF, safedial.SelfConnectError, errno.ECONNREFUSED),
        ([SELF[0], refused()], ConnectionRefusedError, errno.ECONNREFUSED),
        ([EXHAUSTED, EXHAUSTED], safedial.PortsExhaustedError, errno.EADDRNOTAVAIL),
        ([EXHAUSTED, SELF[0]], OSError, None),
    ],
)
def test_shared_errno(errors, kind, code):
    error = multiple(*errors)
    assert is_transient(error)
    found = with_shared_errno(error)
    assert (type(found), found.errno) == (kind, code)
    assert str(error) in str(found)
    assert is_spurious(found) == (errors in (SELF, [EXHAUSTED, EXHAUSTED], [EXHAUSTED, SELF[0]]))
    if kind is safedial.SelfConnectError:
        assert (found.host, found.port) == ("127.0.0.1", 5000)


@pytest.mark.parametrize(
    "error", [OSError("Multiple exceptions: none"), OSError(5, "[Errno 111]"), OSError("[Errno 111]"), ValueError()]
)
def test_other_errors_stay(error):
    assert with_shared_errno(error) is error


@pytest.mark.parametrize("text", ["[Errno 111] (self-connect), and safedial", "[Errno 5] (self-connect), and safedial"])
def test_words_of_ours_without_an_address_are_no_error_of_ours(text):
    error = with_shared_errno(OSError(f"Multiple exceptions: {text}, {text}"))
    assert not isinstance(error, safedial.SelfConnectError)


def test_links_and_traceback_are_kept():
    error = multiple(refused(), refused())
    cause = RuntimeError()
    try:
        raise error from cause
    except OSError:
        found = with_shared_errno(error)
    assert found.__cause__ is cause
    assert found.__traceback__ is error.__traceback__


def test_what_asyncio_raises(monkeypatch):
    """If both addresses of a name are refused."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        addresses = [faults.tcp("127.0.0.1", port), faults.tcp("127.0.0.2", port)]

        async def main():
            async def getaddrinfo(*args, **kwds):
                return addresses

            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
            await asyncio.open_connection("db", port)

        with pytest.raises(OSError, match="Multiple exceptions") as caught:
            asyncio.run(main())
    assert caught.value.errno is None
    assert isinstance(with_shared_errno(caught.value), ConnectionRefusedError)
