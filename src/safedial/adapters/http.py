"""The stdlib's clients of HTTP, SMTP and FTP, never connected to themselves.

Drop-ins for `http.client`, `smtplib` and `ftplib`, and for the openers of `urllib.request`. If nobody listens, they
raise ConnectionRefusedError: no BadStatusLine, and no waiting for their own greeting. *dialer* is a keyword argument;
ftplib's clients have none. As in these clients, the timeout of the dial stays on the socket, a Dialer's too. They have
no retries of their own that a policy could multiply with.

If a program replaced `socket.create_connection`, that makes the connection, as `safedial.adapters` says. An opener asks
a class that was put in the place of `http.client.HTTPConnection`, as cassettes do. `SafeHTTPConnection` can't, and
raises RuntimeError.
"""

import ftplib
import functools
import http.client
import smtplib
import socket
import ssl
import urllib.request
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from safedial._clients.decorator import decorated
from safedial._clients.guard import inside
from safedial._dial.dialer import Dialer
from safedial._dial.replaced import is_theirs
from safedial._dial.settings import checked_timeout
from safedial._retry.argument import DEFAULT
from safedial.adapters import TakesDialer, _others, merged, takes_dialer

if TYPE_CHECKING:
    from http.client import HTTPConnection as _Plain
    from http.client import HTTPSConnection as _PlainTLS
else:
    # This module may be loaded while a cassette is in force.
    _Plain = _others.own_class(http.client, "HTTPConnection")
    _PlainTLS = _others.own_class(http.client, "HTTPSConnection")


def _dial(dialer: Dialer, address: tuple[str, int], timeout: Any, source_address: Any) -> socket.socket:
    """Dial with the arguments that clients give to `socket.create_connection`."""
    given = checked_timeout(timeout) is not DEFAULT
    dialer = merged(dialer, timeout, given=given, source=source_address)
    sock: socket.socket = _others.connected(dialer, socket, address, timeout)
    return sock


def _refuse_bypass(name: str) -> None:
    _others.refuse_bypass(name, http.client, HTTPConnection=_Plain, HTTPSConnection=_PlainTLS)


def _dial_http(name: str, *args: Any) -> socket.socket:
    _refuse_bypass(name)
    return _dial(*args)


class SafeHTTPConnection(TakesDialer, _Plain):
    """An `http.client.HTTPConnection` that dials with *dialer*.

    It raises RuntimeError if `http.client` has another class in the place of its own when it is made, or dials.
    """

    def __init__(self, *args: Any, **kwds: Any) -> None:
        _refuse_bypass(type(self).__name__)
        super().__init__(*args, **kwds)
        # Private: http.client.HTTPConnection._create_connection, "stored as an instance variable to allow
        # unit tests to replace it". connect() goes on from there with proxies and TLS.
        self._create_connection = functools.partial(_dial_http, type(self).__name__, self.dialer)


class SafeHTTPSConnection(SafeHTTPConnection, _PlainTLS):
    """An `http.client.HTTPSConnection` that dials with *dialer*. TLS begins after the check."""


class _Opens(TakesDialer, urllib.request.AbstractHTTPHandler):
    connection: Any

    @override
    def do_open(self, http_class: Any, req: urllib.request.Request, **http_conn_args: Any) -> Any:
        if http_class in (_Plain, _PlainTLS):  # and no class that somebody put in their place
            http_class = functools.partial(self.connection, dialer=self.dialer)
        return super().do_open(http_class, req, **http_conn_args)


class _HTTPHandler(_Opens, urllib.request.HTTPHandler):
    connection = SafeHTTPConnection


class _HTTPSHandler(_Opens, urllib.request.HTTPSHandler):
    connection = SafeHTTPSConnection


class _Opener(urllib.request.OpenerDirector):
    # For ftp:// and the caller's handlers, which dial for themselves.
    open = decorated(urllib.request.OpenerDirector.open, inside)


@takes_dialer
def build_opener(
    *handlers: Any, dialer: Dialer | None = None, context: ssl.SSLContext | None = None
) -> urllib.request.OpenerDirector:
    """Build an opener as `urllib.request.build_opener` does. Its connections never connect to themselves.

    If nobody listens, it raises a `urllib.error.URLError` whose reason is a ConnectionRefusedError; for ftp:// on
    Python 3.14 and newer the reason is a text, and the ConnectionRefusedError is the ``__cause__``. *dialer* dials for
    http:// and https://, and their proxies. ftp:// and handlers that replace urllib's HTTPHandler or HTTPSHandler dial
    for themselves: they are guarded, but do not use *dialer*. *context* is for https://. Default: None, Python's own,
    which verifies certificates.

    Example::

        urllib.request.install_opener(build_opener())
    """
    if context is not None and not isinstance(context, ssl.SSLContext):
        raise TypeError(f"context must be an ssl.SSLContext or None, not {context!r}")
    ours = (
        (urllib.request.HTTPHandler, _HTTPHandler(dialer=dialer)),
        (urllib.request.HTTPSHandler, _HTTPSHandler(dialer=dialer, context=context)),
    )
    kinds = [handler if isinstance(handler, type) else type(handler) for handler in handlers]
    wanted = [handler for base, handler in ours if not any(issubclass(kind, base) for kind in kinds)]
    opener = _Opener()
    built: Any = urllib.request.build_opener(*wanted, *handlers)  # typeshed lacks its attributes
    for handler in built.handlers:
        opener.add_handler(handler)
    return opener


class _DialingSMTP(smtplib.SMTP):
    dialer: Dialer

    # Private: smtplib.SMTP._get_socket, which SMTP_SSL overrides to start TLS on the socket;
    # and _print_debug, the log of its dials.
    @override
    def _get_socket(self, host: str, port: int, timeout: Any) -> socket.socket:  # type: ignore[misc]  # not in typeshed
        if timeout is not None and not timeout:
            raise ValueError("Non-blocking socket (timeout=0) is not supported")
        below: Any = super()
        if is_theirs(below._get_socket, "smtplib"):
            sock: socket.socket = _others.by_library(self.dialer, below._get_socket, host, port, timeout)
            return sock
        if self.debuglevel > 0:
            self._print_debug("connect: to", (host, port), self.source_address)  # type: ignore[attr-defined]  # not in typeshed
        return _dial(self.dialer, (host, port), timeout, self.source_address)


class SafeSMTP(TakesDialer, _DialingSMTP):
    """An `smtplib.SMTP` that dials with *dialer*."""


class SafeSMTP_SSL(TakesDialer, smtplib.SMTP_SSL, _DialingSMTP):  # noqa: N801  # smtplib's name
    """An `smtplib.SMTP_SSL` that dials with *dialer*. TLS begins after the check."""


class SafeFTP(ftplib.FTP):
    """An `ftplib.FTP` under `safedial.guard`, for data connections too. It takes no Dialer and dials once."""

    connect = decorated(ftplib.FTP.connect, inside)
    ntransfercmd = decorated(ftplib.FTP.ntransfercmd, inside)


class SafeFTP_TLS(ftplib.FTP_TLS, SafeFTP):  # noqa: N801  # ftplib's name
    """An `ftplib.FTP_TLS` that is guarded as `SafeFTP` is."""
