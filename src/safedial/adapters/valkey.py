"""Valkey: every connection of a client, a pool, Sentinel or Cluster is dialed by a Dialer, blocking and asyncio.

The names and rules are those of `safedial.adapters.redis`, also that no Dialer waits under Sentinel and Cluster. By
default valkey's clients have no Retry; one that you give retries as in redis 5.1. One line makes a client safe::

    client = protect(valkey.Valkey(host, port))                          # blocking or asyncio, valkeys:// too
    pool = valkey.ConnectionPool.from_url(url, connection_class=SafeConnection)
    master = protect(valkey.Sentinel(addresses)).master_for("mymaster", retry=Retry(ExponentialBackoff(), 10))
    cluster = protect(valkey.asyncio.ValkeyCluster(host, port))          # blocking: see SafeConnectionPool
"""

import socket
from typing import Any, TypeVar

from typing_extensions import override

from safedial._dial.dialer import Dialer
from safedial.adapters import needs, takes_dialer
from safedial.adapters._resp import Library, SafeDial

with needs("valkey"):
    import valkey
    import valkey.asyncio

C = TypeVar(
    "C",
    bound=valkey.Valkey
    | valkey.ConnectionPool
    | valkey.Sentinel
    | valkey.asyncio.Valkey
    | valkey.asyncio.ConnectionPool
    | valkey.asyncio.Sentinel
    | valkey.asyncio.ValkeyCluster,
)


class SafeConnection(SafeDial, valkey.Connection):
    """Like `safedial.adapters.redis.SafeConnection`. A self-connect is a `valkey.ConnectionError`."""

    @override
    def _connect(self) -> socket.socket:
        return self.dial(super()._connect)


class SafeSSLConnection(valkey.SSLConnection, SafeConnection):
    """A `valkey.SSLConnection` like `SafeConnection`. TLS begins after the check."""


class SafeAsyncConnection(SafeDial, valkey.asyncio.Connection):
    """A `valkey.asyncio.Connection` like `SafeConnection`."""

    @override
    async def _connect(self) -> None:
        await self.dial_async(super()._connect)


class SafeAsyncSSLConnection(valkey.asyncio.SSLConnection, SafeAsyncConnection):
    """A `valkey.asyncio.SSLConnection` like `SafeConnection`."""


class SafeConnectionPool(valkey.ConnectionPool):
    """A `valkey.ConnectionPool` of safe connections, as `safedial.adapters.redis.SafeConnectionPool` explains.

    Example::

        cluster = valkey.ValkeyCluster.from_url(url, connection_pool_class=SafeConnectionPool)
    """

    def __init__(self, connection_class: Any = SafeConnection, **kwargs: Any) -> None:
        super().__init__(_LIBRARY.safe(connection_class), **kwargs)  # pyright: ignore[reportUnknownMemberType]  # it has no types


_LIBRARY = Library(valkey, SafeSSLConnection, SafeConnection, SafeAsyncSSLConnection, SafeAsyncConnection)


@takes_dialer
def protect(client: C, *, dialer: Dialer | None = None) -> C:
    """Make *client*, of valkey, dial safely. See `safedial.adapters.redis.protect`."""
    made: C = _LIBRARY.protect(client, dialer)
    return made
