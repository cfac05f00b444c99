"""urllib3 that dials with a Dialer: never connected to itself, and with Happy Eyeballs.

Drop-ins for the classes of the same names. What urllib3 does with a connection stays its own: pools,
proxies, TLS (after the check), `urllib3.Retry`, which repeats a request three times by default. It and the
Dialer's policy multiply: with one that waits for a server, such as `safedial.reconnect`, give
``retries=urllib3.Retry(connect=0)``.
"""

import functools
import socket
import sys
from dataclasses import replace
from typing import Any, cast

from safedial._dial.dialer import Dialer
from safedial._dial.settings import Timeout
from safedial._retry.argument import DEFAULT
from safedial.adapters import Needs, checked_dialer

with Needs("urllib3"):
    import urllib3
    from urllib3 import connection
    from urllib3.exceptions import ConnectTimeoutError, LocationParseError, NameResolutionError, NewConnectionError
    from urllib3.util import connection as util_connection

__all__ = [
    "HTTPConnection",
    "HTTPConnectionPool",
    "HTTPSConnection",
    "HTTPSConnectionPool",
    "PoolManager",
    "ProxyManager",
    "pool_classes",
]


class HTTPConnection(connection.HTTPConnection):
    """A connection that *dialer* dials; also a mix-in, for connection classes of your own.

    Timeout, source address and socket options are the connection's; the Dialer's count where it has
    none, its socket options besides. Not for SOCKS, whose connections dial the proxy by PySocks.

    Args:
        *args: urllib3's arguments.
        dialer: dials. Default: None, ``Dialer()``.
        **kwds: urllib3's arguments.

    Raises:
        TypeError: *dialer* is no Dialer.

    Example::

        class MyConnection(safedial.adapters.urllib3.HTTPSConnection, TheirHTTPSConnection):
            pass
    """

    def __init__(self, *args: Any, dialer: Dialer | None = None, **kwds: Any) -> None:
        self.dialer = checked_dialer(dialer)
        super().__init__(*args, **kwds)

    # Private: the only place where a connection dials; urllib3's own SOCKS classes override it too.
    def _new_conn(self) -> socket.socket:
        timeout = self._connect_timeout()
        dialer = replace(
            self.dialer,
            timeout=timeout,
            source_address=self.source_address or self.dialer.source_address,
            socket_options=(*(self.dialer.socket_options or ()), *(self.socket_options or ())),
            # Programs that want IPv4 alone replace this function.
            family=self.dialer.family or util_connection.allowed_gai_family(),
        )
        # Private: the name with the dot at its end, which `host` lacks and a resolver needs.
        host = self._dns_host
        try:
            sock = dialer.dial((host.strip("[]"), self.port))
        except UnicodeError as error:
            raise LocationParseError(f"'{host}', label empty or too long") from error
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            message = f"Connection to {self.host} timed out. (connect timeout={timeout})"
            raise ConnectTimeoutError(self, message) from error
        except OSError as error:
            # Raised here, as it is a dial that failed: urllib3 repeats a POST only after such a one.
            raise NewConnectionError(self, f"Failed to establish a new connection: {error}") from error
        sys.audit("http.client.connect", self, self.host, self.port)
        return sock

    def _connect_timeout(self) -> Timeout:
        # None is urllib3's for "no limit", and once its mark for "not given" is resolved, for that too.
        timeout = urllib3.Timeout.resolve_default_timeout(self.timeout)
        if timeout is None and self.dialer.timeout is not DEFAULT:
            return self.dialer.timeout
        return timeout


class HTTPSConnection(HTTPConnection, connection.HTTPSConnection):
    """The same with TLS, which begins after the check."""


class HTTPConnectionPool(urllib3.HTTPConnectionPool):
    """A pool of such connections; takes *dialer* too, by keyword."""

    ConnectionCls = HTTPConnection  # pyright: ignore[reportAssignmentType]  # nor does it take urllib3's own


class HTTPSConnectionPool(urllib3.HTTPSConnectionPool):
    """A pool of such connections with TLS; takes *dialer* too, by keyword."""

    ConnectionCls = HTTPSConnection  # pyright: ignore[reportAssignmentType]  # nor does it take urllib3's own


def pool_classes(dialer: Dialer | None = None) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    """Return what makes the pools of *dialer*, for the ``pool_classes_by_scheme`` of any manager.

    Args:
        dialer: dials. Default: None, ``Dialer()``.

    Raises:
        TypeError: *dialer* is no Dialer.

    Example::

        client.http.pool_classes_by_scheme = pool_classes()  # whose manager another library made
    """
    dialer = checked_dialer(dialer)
    pools = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}
    # No classes, but managers do nothing with them but call them; what else is given goes to the connection.
    made = {scheme: functools.partial(pool, dialer=dialer) for scheme, pool in pools.items()}
    return cast("dict[str, type[urllib3.HTTPConnectionPool]]", made)


class PoolManager(urllib3.PoolManager):
    """A `urllib3.PoolManager` whose connections *dialer* dials.

    Args:
        *args: urllib3's arguments.
        dialer: dials. Default: None, ``Dialer()``.
        **kwds: urllib3's arguments.

    Raises:
        TypeError: *dialer* is no Dialer.

    Example::

        with PoolManager(dialer=Dialer(total_timeout=10)) as http:
            http.request("GET", "https://example.com/")
    """

    def __init__(self, *args: Any, dialer: Dialer | None = None, **kwds: Any) -> None:
        pools = pool_classes(dialer)
        super().__init__(*args, **kwds)
        # A new dict: the one that was there is shared by the whole process.
        self.pool_classes_by_scheme = pools


class ProxyManager(PoolManager, urllib3.ProxyManager):
    """A `urllib3.ProxyManager` whose connections to the proxy *dialer* dials."""
