"""Redis: every connection of a client, a pool, Sentinel or Cluster is dialed by a Dialer, blocking and asyncio.

One line makes a client safe. The client, its pool and its own retries stay as they are::

    client = protect(redis.Redis(host, port))                            # blocking or asyncio, rediss:// too
    pool = redis.ConnectionPool.from_url(url, connection_class=SafeConnection, dialer=Dialer(steer=False))
    master = protect(redis.Sentinel(addresses)).master_for("mymaster")
    cluster = protect(redis.asyncio.RedisCluster(host, port))            # blocking: see SafeConnectionPool

**Two retries.** A client of redis 8 has a `redis.retry.Retry`, and dials again 10 times if the server refuses. A pool
that you make yourself has none, unless you give it ``retry=``. `protect` keeps the client's Retry,
``redis.Redis(connection_pool=...)`` drops it. redis 5.1 retries only after time-outs, and if a connection was there
before. The Dialer's policy works inside each of these dials. The default, `redial()`, starts another round only
after a self-connect or exhausted ports. `safedial.reconnect` multiplies: ``Retry(backoff, 10)`` around
``reconnect(within=60)`` waits 11 times 60 seconds. So let only one of them wait: redis's Retry, or
``Dialer(policy=reconnect())`` with ``retry=Retry(NoBackoff(), 0)``. In asyncio *socket_connect_timeout*, 5 seconds in
redis 8, limits the whole dial with all its rounds, unless the Dialer has a timeout.
"""

import socket
from typing import Any

from typing_extensions import override

from safedial.adapters import needs
from safedial.adapters._resp import Library, SafeDial

with needs("redis"):
    import redis
    import redis.asyncio


class SafeConnection(SafeDial, redis.Connection):
    """A `redis.Connection` that also takes *dialer*. Subclasses may set it as a class attribute.

    A self-connect is a `redis.ConnectionError`, as any refused dial is. The connection's *socket_connect_timeout*,
    *socket_keepalive* and *socket_keepalive_options* come before the Dialer's *timeout* and *socket_options*.
    """

    @override
    def _connect(self) -> socket.socket:
        return self.dial()


class SafeSSLConnection(redis.SSLConnection, SafeConnection):
    """A `redis.SSLConnection` like `SafeConnection`. TLS begins after the check."""


class SafeAsyncConnection(SafeDial, redis.asyncio.Connection):
    """A `redis.asyncio.Connection` like `SafeConnection`."""

    @override
    async def _connect(self) -> None:
        self._reader, self._writer = await self.dial_async()


class SafeAsyncSSLConnection(redis.asyncio.SSLConnection, SafeAsyncConnection):
    """A `redis.asyncio.SSLConnection` like `SafeConnection`."""


class SafeConnectionPool(redis.ConnectionPool):
    """A `redis.ConnectionPool` of safe connections. The blocking Cluster needs it: it dials while it is made.

    Cluster makes pools of this class only in ``from_url()``, and drops keywords that it does not know. So give it a
    Dialer with ``functools.partial(SafeConnectionPool, dialer=Dialer(steer=False))``.

    Example::

        cluster = redis.RedisCluster.from_url(url, connection_pool_class=SafeConnectionPool)
    """

    def __init__(self, connection_class: Any = SafeConnection, **kwargs: Any) -> None:
        super().__init__(_LIBRARY.safe(connection_class), **kwargs)  # pyright: ignore[reportUnknownMemberType]  # it has no types


_LIBRARY = Library(redis, SafeSSLConnection, SafeConnection, SafeAsyncSSLConnection, SafeAsyncConnection)
protect = _LIBRARY.protect
