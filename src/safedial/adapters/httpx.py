"""httpx that dials with a Dialer: `protect` makes a client safe, by the transports that it has.

Pools, limits, TLS (after the check), HTTP/2, proxies, Unix sockets and *retries* stay httpx's own. Its *retries* and
the Dialer's policy multiply. Async clients need anyio 4.10 or later, else they raise ImportError.
"""

import asyncio
import contextlib
import inspect
import socket
from collections.abc import Generator
from dataclasses import replace
from typing import Any, TypeVar

from typing_extensions import override

from safedial._clients.guard import inside
from safedial._clients.marks import note_protected
from safedial._dial.dialer import Dialer
from safedial._dial.replaced import is_theirs
from safedial._retry.argument import DEFAULT
from safedial.adapters import TakesDialer, _others, merged, needs, takes_dialer
from safedial.adapters._mistakes import mistaken

with needs("httpx"):
    import anyio
    import httpcore
    import httpx
    from anyio.abc import SocketStream

    # Private: the stream classes of httpcore, which has no public way to make a stream of a connected socket.
    from httpcore._backends.anyio import AnyIOBackend, AnyIOStream
    from httpcore._backends.auto import AutoBackend
    from httpcore._backends.sync import SyncStream

C = TypeVar("C", bound=httpx.Client | httpx.AsyncClient)

_NODELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
# A mount without a transport is None.
_DIAL_NOTHING = (httpx.MockTransport, httpx.WSGITransport, httpx.ASGITransport, type(None))
# Values of httpx's connect timeout that count as not given: clients pass on their default, 5 seconds.
_NOT_GIVEN = (None, inspect.signature(httpx.Client).parameters["timeout"].default.connect)


class SafeHTTPTransport(httpx.HTTPTransport):
    """A transport whose connections, also those to its proxy, *dialer* dials.

    Errors are httpx's own: a refused dial and a self-connect are an `httpx.ConnectError`. httpx's connect timeout,
    *local_address* and *socket_options* come before the Dialer's. The timeout is for each attempt; None and 5 seconds,
    httpx's default, count as not given.

    A client with a transport reads no proxy from the environment, and makes a plain transport for its own *proxy*
    argument. So give *proxy* to the transport, or use `protect`.

    Example::

        client = httpx.Client(transport=SafeHTTPTransport(proxy="http://proxy:3128", retries=2))
    """

    @takes_dialer
    def __init__(self, *args: Any, dialer: Dialer | None = None, **kwds: Any) -> None:
        super().__init__(*args, **kwds)
        _replace_backend(self, _Backend(dialer=dialer))


class SafeAsyncHTTPTransport(httpx.AsyncHTTPTransport):
    """`SafeHTTPTransport` for an `httpx.AsyncClient`, on any asyncio event loop, also uvloop.

    As in httpx, the connect timeout limits the whole dial, unless the Dialer has a *total_timeout*. Under trio, where a
    Dialer can't dial, httpx's own dial runs under `safedial.guard`: as safe, but without *dialer*.
    """

    @takes_dialer
    def __init__(self, *args: Any, dialer: Dialer | None = None, **kwds: Any) -> None:
        super().__init__(*args, **kwds)
        _replace_backend(self, _AsyncBackend(dialer=dialer))


@takes_dialer
def protect(client: C, *, dialer: Dialer | None = None) -> C:
    """Make *client* safe, with its proxies (also those of the environment) and mounts, and return it.

    Its transports stay, with all their settings, and dial with *dialer* from now on. Connections that are open stay as
    they are. A second call replaces the Dialer of the first.

    Raises:
        TypeError: a transport of the client is not httpx's own, or has a network backend of somebody else, so it is not
            known how it dials.
    """
    if not isinstance(client, httpx.Client | httpx.AsyncClient):
        raise mistaken("client", "an httpx.Client or AsyncClient", client, "protect(httpx.Client())", "httpx")
    blocking = isinstance(client, httpx.Client)
    kind = httpx.HTTPTransport if blocking else httpx.AsyncHTTPTransport
    backend = _Backend(dialer=dialer) if blocking else _AsyncBackend(dialer=dialer)
    made: Any = client
    # Private: the transports of a client: its own, and one for each mount and each proxy.
    transports = [made._transport, *made._mounts.values()]
    for transport in transports:
        if not isinstance(transport, (kind, *_DIAL_NOTHING)):
            raise TypeError(f"client: safedial does not know how {transport!r} dials; derive it from {kind.__name__}")
        own: Any = getattr(getattr(transport, "_pool", None), "_network_backend", None)
        if isinstance(transport, kind) and type(own) not in _BACKENDS:
            raise TypeError(f"client: safedial does not know how the network backend {type(own).__name__} dials")
    for transport in transports:
        if isinstance(transport, kind):
            _replace_backend(transport, backend)
    note_protected(client)
    return client


def _replace_backend(transport: Any, backend: Any) -> None:
    # Private: httpx has no argument for httpcore's network_backend. Pools, also for proxies, give it to connections.
    transport._pool._network_backend = backend


class _Backend(TakesDialer, httpcore.SyncBackend):
    """httpcore's own backend, except for TCP."""

    @override
    def connect_tcp(self, host: str, port: int, *args: Any, **kwds: Any) -> httpcore.NetworkStream:
        below = super().connect_tcp
        with _httpcore_errors():
            if _left(self.dialer, below, socket.create_connection, "socket", host, port):
                stream: httpcore.NetworkStream = _others.by_library(self.dialer, below, host, port, *args, **kwds)
                return stream
            sock = _with(self.dialer, *args, **kwds).dial((host, port))
            return SyncStream(_prepared(sock, *args, **kwds))


class _AsyncBackend(TakesDialer, AnyIOBackend):
    """httpcore's own backend, except for TCP. anyio's Unix sockets and sleep work under trio too."""

    def __init__(self, **kwds: Any) -> None:
        if not hasattr(SocketStream, "from_socket"):
            raise ImportError("safedial.adapters.httpx needs anyio 4.10 or later: pip install -U anyio", name="anyio")
        super().__init__(**kwds)

    @override
    async def connect_tcp(self, host: str, port: int, timeout: float | None = None, *args: Any, **kwds: Any) -> Any:
        if not _in_asyncio():
            own: Any = httpcore.TrioBackend()  # untyped if trio is not installed
            with inside():
                return await own.connect_tcp(host, port, timeout, *args, **kwds)
        below = super().connect_tcp
        if _left(self.dialer, below, anyio.connect_tcp, "anyio", host, port):
            with _httpcore_errors():
                return await _others.by_library(self.dialer, below, host, port, timeout, *args, **kwds)
        dialer = _with(self.dialer, timeout, *args, **kwds)
        own_counts = timeout not in _NOT_GIVEN or self.dialer.timeout is DEFAULT
        if own_counts and dialer.total_timeout is None:
            dialer = replace(dialer, total_timeout=timeout)
        with _httpcore_errors(UnicodeError):  # anyio raises this for an invalid host
            sock = _prepared(await dialer.dial_async((host, port)), timeout, *args, **kwds)
            try:
                return AnyIOStream(await SocketStream.from_socket(sock))
            except ValueError as error:  # anyio raises this for a reset connection
                sock.close()
                raise ConnectionResetError(str(error)) from error


def _left(dialer: Dialer, below: Any, dial: Any, package: str, host: str, port: int) -> bool:
    """Return whether a connection is left to *below*, httpcore's own, which dials by means of *dial*."""
    replaced = is_theirs(below, "httpcore") or is_theirs(dial, package)
    return replaced or not _others.can_dial(dialer, (host, port))


def _with(
    dialer: Dialer, timeout: float | None = None, local_address: str | None = None, socket_options: Any = None
) -> Dialer:
    """Return *dialer* with the arguments that httpcore gives to ``connect_tcp()``."""
    source = None if local_address is None else (local_address, 0)
    # A Dialer takes bytes in place of httpcore's bytearray.
    own = [
        (*option[:2], option[2] if isinstance(option[2], int) else bytes(option[2]))
        for option in _plain(socket_options)
    ]
    given = timeout not in _NOT_GIVEN
    return merged(dialer, timeout, given=given, source=source, options=own, defaults=[_NODELAY])


def _plain(options: Any) -> list[Any]:
    return [option for option in options or () if len(option) == 3]


def _prepared(sock: socket.socket, *_: Any, socket_options: Any = None, **__: Any) -> socket.socket:
    """Set the *socket_options* that a Dialer does not take, (level, option, None, length), as httpcore does."""
    try:
        for option in socket_options or ():
            if len(option) != 3:
                sock.setsockopt(*option)
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _httpcore_errors(also: type[Exception] = OSError) -> Generator[None]:
    """Raise httpcore's errors: only these are retried, and mapped to httpx's."""
    try:
        yield
    except TimeoutError as error:
        raise httpcore.ConnectTimeout(error) from error
    except (OSError, also) as error:
        raise httpcore.ConnectError(error) from error


# Private: AutoBackend, the one that asynchronous clients have.
_BACKENDS = (httpcore.SyncBackend, AutoBackend, AnyIOBackend, httpcore.TrioBackend, _Backend, _AsyncBackend)


def _in_asyncio() -> bool:
    try:
        return asyncio.current_task() is not None  # None if trio is a guest of an asyncio loop
    except RuntimeError:
        return False
