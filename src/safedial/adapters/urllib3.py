"""urllib3 that dials with a Dialer: `protect` makes a manager or a pool safe, and the classes here are safe.

Pools, proxies, TLS (after the check) and `urllib3.Retry` stay urllib3's own. By default urllib3 repeats a request three
times. Its Retry and the Dialer's policy multiply: with a policy that waits for a server, such as `safedial.reconnect`,
give ``retries=urllib3.Retry(connect=0)``.
"""

import functools
import socket
import sys
from dataclasses import replace
from typing import Any, TypeVar

from typing_extensions import override

from safedial._address import shown
from safedial._dial.dialer import Dialer
from safedial.adapters import TakesDialer, checked_dialer, merged, needs, takes_dialer

with needs("urllib3"):
    import urllib3
    from urllib3 import connection
    from urllib3.exceptions import ConnectTimeoutError, LocationParseError, NameResolutionError, NewConnectionError
    from urllib3.util import connection as util_connection

P = TypeVar("P", bound=urllib3.PoolManager | urllib3.HTTPConnectionPool)


class SafeHTTPConnection(TakesDialer, connection.HTTPConnection):
    """A connection that *dialer* dials; also a mix-in for your own connection classes.

    A timeout of None, or of `socket.getdefaulttimeout()`, counts as not given: pools pass these on as their default.
    """

    # Private: the only place where a connection dials; urllib3's own SOCKS classes override it too.
    @override
    def _new_conn(self) -> socket.socket:
        dialer = self._settings()
        # Private: the name with the dot at its end. `host` lacks the dot, and a resolver needs it.
        host = self._dns_host
        try:
            sock = dialer.dial((host.strip("[]"), self.port))
        except UnicodeError as error:
            raise LocationParseError(f"'{host}', label empty or too long") from error
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


class SafeHTTPSConnection(SafeHTTPConnection, connection.HTTPSConnection):
    """The same with TLS, which begins after the check."""


class SafeHTTPConnectionPool(urllib3.HTTPConnectionPool):
    """A pool of safe connections. It takes *dialer* too."""

    ConnectionCls = SafeHTTPConnection  # pyright: ignore[reportAssignmentType]  # typeshed rejects urllib3's own class here too


class SafeHTTPSConnectionPool(urllib3.HTTPSConnectionPool):
    """A pool of safe connections with TLS. It takes *dialer* too."""

    ConnectionCls = SafeHTTPSConnection  # pyright: ignore[reportAssignmentType]  # typeshed rejects urllib3's own class here too


_SAFE: dict[Any, Any] = {connection.HTTPConnection: SafeHTTPConnection, connection.HTTPSConnection: SafeHTTPSConnection}


@takes_dialer
def protect(pool: P, *, dialer: Dialer | None = None) -> P:
    """Make *pool*, a manager or an HTTP(S)ConnectionPool, dial safely from now on, and return it.

    A PoolManager or ProxyManager drops the pools that it has made.

    Raises:
        TypeError: *pool* makes connections of an unknown class. For SOCKS see `safedial.guard`.
        ValueError: a connection pool has made connections already.
    """
    dialer = checked_dialer(dialer)
    made: Any = pool
    if isinstance(pool, urllib3.PoolManager):
        # The class is an argument of the partial if the manager was protected before.
        pools = {scheme: getattr(kind, "args", [kind])[0] for scheme, kind in made.pool_classes_by_scheme.items()}
        for kind in pools.values():
            _safe_class(kind.ConnectionCls)
        made.clear()
        # A new dict, because the whole process shares the old one.
        made.pool_classes_by_scheme = {scheme: functools.partial(_make, kind, dialer) for scheme, kind in pools.items()}
    elif isinstance(pool, urllib3.HTTPConnectionPool):
        if pool.num_connections:
            raise ValueError("pool has connections already, and they would stay unsafe: protect() it before it is used")
        made.ConnectionCls = _safe_class(pool.ConnectionCls)
        made.conn_kw["dialer"] = dialer
    else:
        raise TypeError(f"pool must be a PoolManager or an HTTPConnectionPool of urllib3, not {shown(pool)}")
    return pool


def _make(kind: Any, dialer: Dialer, *args: Any, **kwds: Any) -> Any:
    return protect(kind(*args, **kwds), dialer=dialer)


def _safe_class(kind: Any) -> Any:
    if kind not in _SAFE and not issubclass(kind, SafeHTTPConnection):
        raise TypeError(
            f"pool: safedial does not know how {kind.__name__} dials; derive it from SafeHTTPConnection, or use guard()"
        )
    return _SAFE.get(kind, kind)


class SafePoolManager(urllib3.PoolManager):
    """A `urllib3.PoolManager` whose connections *dialer* dials."""

    @takes_dialer
    def __init__(self, *args: Any, dialer: Dialer | None = None, **kwds: Any) -> None:
        super().__init__(*args, **kwds)
        protect(self, dialer=dialer)


class SafeProxyManager(SafePoolManager, urllib3.ProxyManager):
    """A `urllib3.ProxyManager` whose connections to the proxy *dialer* dials."""
