"""httpx that dials with a Dialer: `mount` makes a client safe, `SafeTransport` is what one may mount.

What httpx does with a connection stays its own: pools, limits, TLS (after the check), HTTP/2, what it says
to a proxy, Unix sockets, *retries*. Those and the Dialer's policy multiply.
"""

import asyncio
import contextlib
import socket
from collections.abc import Generator, Iterable
from dataclasses import replace
from typing import Any, TypeVar, cast

from safedial._address import shown
from safedial._clients.guard import guard
from safedial._dial.dialer import Dialer
from safedial._retry.argument import DEFAULT
from safedial.adapters import Needs, checked_dialer

with Needs("httpx"):
    import httpcore
    import httpx
    from anyio.abc import SocketStream

    # Private: what a connected socket becomes. httpcore has no public way from the one to the other.
    from httpcore._backends.anyio import AnyIOStream
    from httpcore._backends.sync import SyncStream

__all__ = ["SafeAsyncTransport", "SafeTransport", "mount"]

C = TypeVar("C", bound=httpx.Client | httpx.AsyncClient)

_NODELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
_DIAL_NOTHING = (httpx.MockTransport, httpx.WSGITransport, httpx.ASGITransport)


class SafeTransport(httpx.HTTPTransport):
    """A transport whose connections, those to its proxy too, *dialer* dials.

    What fails raises httpx's own errors: refused, and a self-connect, is `httpx.ConnectError`.

    httpx reads no proxy from the environment for a client with a transport, and gives that client's own
    *proxy* a plain one: hand *proxy* to the transport, or use `mount`.

    Args:
        *args: the arguments of HTTPTransport.
        dialer: dials. httpx's connect timeout and *local_address* come before the Dialer's, which count
            where those are None. The timeout is for each attempt. Default: None, ``Dialer()``.
        **kwds: the arguments of HTTPTransport, such as *proxy*, *retries* and *socket_options*.

    Raises:
        TypeError: *dialer* is no Dialer.

    Example::

        client = httpx.Client(transport=SafeTransport(proxy="http://proxy:3128", retries=2))
    """

    def __init__(self, *args: Any, dialer: Dialer | None = None, **kwds: Any) -> None:
        backend = _Backend(dialer)
        super().__init__(*args, **kwds)
        _replace_backend(self, backend)


class SafeAsyncTransport(httpx.AsyncHTTPTransport):
    """`SafeTransport` for an `httpx.AsyncClient`, on any asyncio event loop, uvloop too.

    As in httpx, the connect timeout is for the whole dial here; a Dialer with a *total_timeout* has that,
    and each attempt the connect timeout. Under trio, where a Dialer can't dial, httpx's own dial runs in
    `safedial.guard`: as safe, but nothing of *dialer* counts.

    Args:
        *args: the arguments of AsyncHTTPTransport.
        dialer: dials, in asyncio. Default: None, ``Dialer()``.
        **kwds: the arguments of AsyncHTTPTransport.

    Raises:
        TypeError: *dialer* is no Dialer.
        ImportError: anyio is older than 4.10.

    Example::

        client = httpx.AsyncClient(transport=SafeAsyncTransport())
    """

    def __init__(self, *args: Any, dialer: Dialer | None = None, **kwds: Any) -> None:
        backend = _AsyncBackend(dialer)
        super().__init__(*args, **kwds)
        _replace_backend(self, backend)


def mount(client: C, *, dialer: Dialer | None = None) -> C:
    """Make *client* safe, with its proxies, those of the environment too, and mounts; return it.

    Its transports stay, with all their settings, and dial with *dialer* from now on.

    Args:
        client: an `httpx.Client` or `httpx.AsyncClient`.
        dialer: dials, as `SafeTransport` and `SafeAsyncTransport` explain. Default: None, ``Dialer()``.

    Raises:
        TypeError: an argument is of no use, or a transport of the client's is not httpx's own, so that
            nobody knows how it dials; the message names it.
        ImportError: anyio is older than 4.10, for an AsyncClient.

    Example::

        client = mount(httpx.Client(proxy="http://proxy:3128", http2=True))
    """
    kind: type[httpx.HTTPTransport | httpx.AsyncHTTPTransport]
    backend: _Backend | _AsyncBackend
    if isinstance(client, httpx.Client):
        kind, backend = httpx.HTTPTransport, _Backend(dialer)
    elif isinstance(client, httpx.AsyncClient):
        kind, backend = httpx.AsyncHTTPTransport, _AsyncBackend(dialer)
    else:
        raise TypeError(f"client must be an httpx.Client or AsyncClient, not {shown(client)}")
    made: Any = client
    # Private: the transports that a client has made, one for each proxy; what it was given is in there too.
    transports = [each for each in (made._transport, *made._mounts.values()) if each is not None]
    for transport in transports:
        if not isinstance(transport, (kind, *_DIAL_NOTHING)):
            raise TypeError(f"client: how {transport!r} dials is not known; build that on a {kind.__name__}")
    for transport in transports:
        if isinstance(transport, kind):
            _replace_backend(transport, backend)
    return client


def _replace_backend(transport: Any, backend: Any) -> None:
    # Private: httpx has no argument for what httpcore calls network_backend. Its pools, those of HTTP and SOCKS
    # proxies too, hand theirs to each connection that they make.
    transport._pool._network_backend = backend


class _Backend(httpcore.SyncBackend):
    """httpcore's own, but for TCP."""

    def __init__(self, dialer: Dialer | None) -> None:
        self._dialer = checked_dialer(dialer)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        dialer = _with(self._dialer, timeout, local_address)
        with _httpcore_errors():
            return SyncStream(_prepared(dialer.dial((host, port)), socket_options))


class _AsyncBackend(httpcore.AnyIOBackend):
    """httpcore's own, but for TCP. anyio's Unix sockets and sleep work under trio too."""

    def __init__(self, dialer: Dialer | None) -> None:
        if not hasattr(SocketStream, "from_socket"):
            raise ImportError("safedial.adapters.httpx needs anyio 4.10 or later: pip install -U anyio", name="anyio")
        self._dialer = checked_dialer(dialer)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # the argument is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        if not _in_asyncio():
            own: Any = httpcore.TrioBackend()  # a placeholder of that name where trio is missing, for type checkers
            with guard():
                return cast(
                    "httpcore.AsyncNetworkStream",
                    await own.connect_tcp(host, port, timeout, local_address, socket_options),
                )
        dialer = _with(self._dialer, timeout, local_address)
        if timeout is not None and dialer.total_timeout is None:
            dialer = replace(dialer, total_timeout=timeout)
        with _httpcore_errors(UnicodeError):  # anyio's word for a host that is none, too
            sock = _prepared(await dialer.dial_async((host, port)), socket_options)
            try:
                return AnyIOStream(await SocketStream.from_socket(sock))
            except ValueError as error:  # anyio's word for a connection that was reset meanwhile
                sock.close()
                raise ConnectionResetError(str(error)) from error


def _with(dialer: Dialer, timeout: float | None, local_address: str | None) -> Dialer:
    if timeout is None and dialer.timeout is not DEFAULT:
        timeout = dialer.timeout
    source = dialer.source_address if local_address is None else (local_address, 0)
    return replace(dialer, timeout=timeout, source_address=source)


def _prepared(sock: socket.socket, options: Iterable[Any] | None) -> socket.socket:
    """Set *options* as httpcore does: after the connect, and small packets go at once whatever they say."""
    try:
        for option in (*(options or ()), _NODELAY):
            sock.setsockopt(*option)
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _httpcore_errors(also: type[Exception] = OSError) -> Generator[None]:
    """Raise what *retries* and httpx know: only these are retried, and become httpx's."""
    try:
        yield
    except TimeoutError as error:
        raise httpcore.ConnectTimeout(error) from error
    except (OSError, also) as error:
        raise httpcore.ConnectError(error) from error


def _in_asyncio() -> bool:
    try:
        return asyncio.current_task() is not None  # None: trio as a guest of an asyncio loop
    except RuntimeError:
        return False
