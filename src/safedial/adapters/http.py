"""The stdlib's clients of HTTP, SMTP and FTP, which never speak to themselves.

Drop-ins for `http.client`, for the openers of `urllib.request`, for `smtplib` and `ftplib`, whose clients
wait for a greeting that never comes where they have connected to themselves.

Example::

    from safedial.adapters.http import SMTP

    with SMTP("localhost", 1025, timeout=10) as smtp:
        smtp.send_message(message)
"""

import ftplib
import functools
import http.client
import smtplib
import socket
import ssl
import urllib.request
from dataclasses import replace
from typing import Any

from safedial._clients.guard import guard
from safedial._dial.dialer import Dialer
from safedial._dial.settings import checked_timeout
from safedial._retry.argument import DEFAULT

__all__ = ["FTP", "FTP_TLS", "SMTP", "SMTP_SSL", "HTTPConnection", "HTTPSConnection", "build_opener"]

_DIALER = Dialer()


def _dial(dialer: Dialer, address: tuple[str, int], timeout: Any, source_address: Any) -> socket.socket:
    """Dial as `socket.create_connection` is asked to; what the client was not told, *dialer* says."""
    told: dict[str, Any] = {}
    if (limit := checked_timeout(timeout)) is not DEFAULT:
        told["timeout"] = limit
    if source_address:
        told["source_address"] = source_address
    return (replace(dialer, **told) if told else dialer).dial(address)


class _Dials:
    """Comes first among the bases of a client, as some dial while they are made."""

    def __init__(self, *args: Any, dialer: Dialer = _DIALER, **kwds: Any) -> None:
        if not isinstance(dialer, Dialer):
            raise TypeError(f"dialer must be a safedial.Dialer, not {dialer!r}")
        self._dialer = dialer
        super().__init__(*args, **kwds)


class _DialsHTTP(_Dials):
    def __init__(self, *args: Any, **kwds: Any) -> None:
        super().__init__(*args, **kwds)
        # Private: http.client.HTTPConnection._create_connection, "stored as an instance variable to allow
        # unit tests to replace it"; connect() goes on from there with proxies and TLS.
        self._create_connection = functools.partial(_dial, self._dialer)


class HTTPConnection(_DialsHTTP, http.client.HTTPConnection):
    """An `http.client.HTTPConnection` that dials with *dialer*, a keyword argument.

    Its *timeout* and *source_address*, where given, come before the dialer's. Default: ``Dialer()``.
    Where nobody listens, connecting raises ConnectionRefusedError, never BadStatusLine.

    Raises:
        TypeError: *dialer* is no Dialer.
    """


class HTTPSConnection(_DialsHTTP, http.client.HTTPSConnection):
    """An `http.client.HTTPSConnection` that dials as `HTTPConnection` does; TLS begins after the check."""


class _Opens(_Dials):
    connection: Any

    def do_open(self, http_class: Any, req: urllib.request.Request, **http_conn_args: Any) -> Any:  # noqa: ARG002  # ours instead
        below: Any = super()
        return below.do_open(functools.partial(self.connection, dialer=self._dialer), req, **http_conn_args)


class _HTTPHandler(_Opens, urllib.request.HTTPHandler):
    connection = HTTPConnection


class _HTTPSHandler(_Opens, urllib.request.HTTPSHandler):
    connection = HTTPSConnection


class _Opener(urllib.request.OpenerDirector):
    # Reaches ftp:// and the handlers of others, which dial for themselves.
    open = guard()(urllib.request.OpenerDirector.open)


def build_opener(
    *handlers: Any, dialer: Dialer = _DIALER, context: ssl.SSLContext | None = None
) -> urllib.request.OpenerDirector:
    """Build an opener as `urllib.request.build_opener` does, whose connections never reach themselves.

    Args:
        *handlers: as there. One that takes the place of urllib's HTTPHandler or HTTPSHandler dials for
            itself, as does ftp://: these are guarded, and leave *dialer* aside.
        dialer: what dials for http:// and https://, proxies included. A timeout that is given to
            ``open()`` comes before its own. Default: ``Dialer()``.
        context: for https://. Default: None, Python's own, which verifies certificates.

    Returns:
        The opener. Where nobody listens, it raises a `urllib.error.URLError` whose reason is a
        ConnectionRefusedError.

    Raises:
        TypeError: an argument is of no use; the message names it.

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
    _dialer: Dialer

    # Private: smtplib.SMTP._get_socket, made to be overridden: SMTP_SSL does, and starts TLS on what it
    # gets; and _print_debug, which it tells what it dials.
    def _get_socket(self, host: str, port: int, timeout: Any) -> socket.socket:
        if timeout is not None and not timeout:
            raise ValueError("Non-blocking socket (timeout=0) is not supported")
        if self.debuglevel > 0:
            self._print_debug("connect: to", (host, port), self.source_address)  # type: ignore[attr-defined]  # not in typeshed
        return _dial(self._dialer, (host, port), timeout, self.source_address)


class SMTP(_Dials, _DialingSMTP):
    """An `smtplib.SMTP` that dials with *dialer*, a keyword argument.

    Its *timeout* and *source_address*, where given, come before the dialer's. Default: ``Dialer()``.
    Where nobody listens, it raises ConnectionRefusedError and does not wait for its own greeting.

    Raises:
        TypeError: *dialer* is no Dialer.
    """


class SMTP_SSL(_Dials, smtplib.SMTP_SSL, _DialingSMTP):  # noqa: N801  # smtplib's name
    """An `smtplib.SMTP_SSL` that dials as `SMTP` does; TLS begins after the check."""


class FTP(ftplib.FTP):
    """An `ftplib.FTP` whose connections, data included, are guarded by `safedial.guard`.

    ftplib dials with `socket.create_connection` and can't be given a Dialer; `safedial.wrap` retries.
    Where nobody listens, it raises ConnectionRefusedError and does not wait for its own greeting.
    """

    connect = guard()(ftplib.FTP.connect)
    ntransfercmd = guard()(ftplib.FTP.ntransfercmd)


class FTP_TLS(ftplib.FTP_TLS, FTP):  # noqa: N801  # ftplib's name
    """An `ftplib.FTP_TLS` that is guarded as `FTP` is."""
