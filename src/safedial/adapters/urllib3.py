"""urllib3 that dials with a Dialer: `protect` makes a manager or a pool safe, and the classes here are safe.

Pools, proxies, TLS (after the check) and `urllib3.Retry` stay urllib3's own. By default urllib3 repeats a request three
times. Its Retry and the Dialer's policy multiply: with a policy that waits for a server, such as `safedial.reconnect`,
give ``retries=urllib3.Retry(connect=0)``.

Who replaced urllib3's ``ConnectionCls`` or ``create_connection()`` is asked, as `safedial.adapters` says. A safe class
that a program makes by itself, without a pool, raises RuntimeError if `urllib3.connection` has another class now.
"""

import functools
import socket
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from typing_extensions import override

from safedial._clients.guard import inside
from safedial._clients.marks import note_protected
from safedial._dial.dialer import Dialer
from safedial._dial.replaced import is_theirs
from safedial.adapters import TakesDialer, _others, checked_dialer, merged, needs, takes_dialer
from safedial.adapters._mistakes import mistaken

with needs("urllib3"):
    import urllib3
    from urllib3 import connection
    from urllib3.exceptions import ConnectTimeoutError, LocationParseError, NameResolutionError, NewConnectionError
    from urllib3.util import connection as util_connection

P = TypeVar("P", bound=urllib3.PoolManager | urllib3.HTTPConnectionPool)

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection as _Plain
    from urllib3.connection import HTTPSConnection as _PlainTLS
else:
    # This module may be loaded while a cassette is in force.
    _Plain = _others.own_class(connection, "HTTPConnection")
    _PlainTLS = _others.own_class(connection, "HTTPSConnection")


class SafeHTTPConnection(TakesDialer, _Plain):
    """A connection that *dialer* dials; also a mix-in for your own connection classes.

    A timeout of None, or of `socket.getdefaulttimeout()`, counts as not given: pools pass these on as their default.
    """

    # Private: the only place where a connection dials; urllib3's own SOCKS classes override it too.
    @override
    def _new_conn(self) -> socket.socket:
        _others.refuse_bypass(type(self).__name__, connection, HTTPConnection=_Plain, HTTPSConnection=_PlainTLS)
        below: Any = super()._new_conn
        if is_theirs(below, "urllib3"):
            sock: socket.socket = _others.by_library(self.dialer, below)
            return sock
        dialer = self._settings()
        # Private: the name with the dot at its end. `host` lacks the dot, and a resolver needs it.
        host = self._dns_host
        try:
            host.encode("idna")  # as urllib3 does, whatever the resolver says to such a name
            sock = _others.connected(
                dialer,
                util_connection,
                (host.strip("[]"), self.port),
                dialer.timeout,
                socket_options=list(dialer.socket_options or ()),
            )
        except UnicodeError:
            raise LocationParseError(f"'{host}', label empty or too long") from None
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            message = f"Connection to {self.host} timed out. (connect timeout={dialer.timeout})"
            raise ConnectTimeoutError(self, message) from error
        except OSError as error:
            # urllib3 repeats a POST only after this error.
            raise NewConnectionError(self, f"Failed to establish a new connection: {error}") from error
        sys.audit("http.client.connect", self, self.host, self.port)
        return sock

    def _settings(self) -> Dialer:
        timeout = urllib3.Timeout.resolve_default_timeout(self.timeout)
        given = timeout != socket.getdefaulttimeout()
        own: Any = self.socket_options
        kind = "defaults" if own is self.default_socket_options else "options"
        dialer = merged(self.dialer, timeout, given=given, source=self.source_address, **{kind: own or ()})
        # Programs that want IPv4 only replace this function.
        return replace(dialer, family=dialer.family or util_connection.allowed_gai_family())


class SafeHTTPSConnection(SafeHTTPConnection, _PlainTLS):
    """The same with TLS, which begins after the check."""


_SAFE: dict[Any, Any] = {_Plain: SafeHTTPConnection, _PlainTLS: SafeHTTPSConnection}


class _ConnectionClass:
    """``ConnectionCls`` of a safe pool: the safe class, or the class that somebody put in the place of urllib3's."""

    def __set_name__(self, owner: Any, name: str) -> None:
        self._owner = owner

    def __get__(self, pool: Any, kind: Any) -> Any:
        found = cast("Any", super(self._owner, kind)).ConnectionCls
        return _SAFE.get(found, found)


class _SafePool(TakesDialer):
    """A mix-in that comes before a class of pools."""

    ConnectionCls: Any = _ConnectionClass()

    # Private: the method that makes a connection. A class that somebody else put there takes no *dialer*.
    def _new_conn(self) -> Any:
        below: Any = super()
        made = below._new_conn()
        if isinstance(made, SafeHTTPConnection) and self.dialer is not TakesDialer.dialer:
            made.dialer = self.dialer
        return made

    def urlopen(self, *args: Any, **kwds: Any) -> Any:
        below: Any = super()
        if issubclass(self.ConnectionCls, SafeHTTPConnection):
            return below.urlopen(*args, **kwds)
        with inside():
            return below.urlopen(*args, **kwds)


class SafeHTTPConnectionPool(_SafePool, urllib3.HTTPConnectionPool):
    """A pool of safe connections. It takes *dialer* too."""


class SafeHTTPSConnectionPool(_SafePool, urllib3.HTTPSConnectionPool):
    """A pool of safe connections with TLS. It takes *dialer* too."""


@takes_dialer
def protect(pool: P, *, dialer: Dialer | None = None) -> P:
    """Make *pool*, a manager or an HTTP(S)ConnectionPool, dial safely from now on, and return it.

    A PoolManager or ProxyManager drops the pools that it has made. A second call replaces the Dialer of the first.

    Raises:
        TypeError: *pool* makes connections of an unknown class. For SOCKS see `safedial.guard`.
        ValueError: a connection pool has made connections already.
    """
    checked_dialer(dialer)
    made: Any = pool
    if isinstance(pool, urllib3.PoolManager):
        kinds = {scheme: _partial(kind, dialer) for scheme, kind in made.pool_classes_by_scheme.items()}
        made.clear()
        # A new dict, because the whole process shares the old one.
        made.pool_classes_by_scheme = kinds
    elif isinstance(pool, urllib3.HTTPConnectionPool):
        if pool.num_connections:
            raise ValueError("pool has connections already, and they would stay unsafe: protect() it before it is used")
        own = made.__dict__.get("ConnectionCls")
        if own is not None:
            made.ConnectionCls = _checked(_SAFE.get(own, own))
        made.__class__ = _safe_pool(made.__class__)
        made.__dict__.pop("dialer", None)
        if dialer is not None:
            made.dialer = dialer
    else:
        wanted = "a PoolManager or an HTTPConnectionPool of urllib3"
        raise mistaken("pool", wanted, pool, "protect(urllib3.PoolManager())", "urllib3")
    note_protected(pool)
    return pool


def _partial(kind: Any, dialer: Dialer | None) -> Any:
    """Return *kind*, a pool's class or a partial of it, made safe."""
    if isinstance(kind, functools.partial):
        return functools.partial(_safe_pool(kind.func), *kind.args, **{**kind.keywords, "dialer": dialer})
    return functools.partial(_safe_pool(kind), dialer=dialer)


@functools.cache
def _safe_pool(kind: Any) -> Any:
    """Return the safe subclass of *kind*, a class of pools."""
    if issubclass(kind, _SafePool):
        return kind
    # Somebody may have replaced the attribute of urllib3's own class: he is asked.
    owner = next(base for base in kind.__mro__ if "ConnectionCls" in vars(base))
    if owner not in (urllib3.HTTPConnectionPool, urllib3.HTTPSConnectionPool):
        _checked(_SAFE.get(kind.ConnectionCls, kind.ConnectionCls))
    return type(kind.__name__, (_SafePool, kind), {"__module__": __name__})  # pools show their name in messages


def _checked(kind: Any) -> Any:
    if not issubclass(kind, SafeHTTPConnection):
        raise TypeError(
            f"pool: safedial does not know how {kind.__name__} dials; derive it from SafeHTTPConnection, or use guard()"
        )
    return kind


class SafePoolManager(urllib3.PoolManager):
    """A `urllib3.PoolManager` whose connections *dialer* dials."""

    @takes_dialer
    def __init__(self, *args: Any, dialer: Dialer | None = None, **kwds: Any) -> None:
        super().__init__(*args, **kwds)
        protect(self, dialer=dialer)


class SafeProxyManager(SafePoolManager, urllib3.ProxyManager):
    """A `urllib3.ProxyManager` whose connections to the proxy *dialer* dials."""
