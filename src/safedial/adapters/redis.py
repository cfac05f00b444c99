"""Redis: every connection of a client, a pool, Sentinel or Cluster is dialed by a Dialer, blocking and asyncio.

One line makes a client safe. The client, its pool and its own retries stay as they are::

    client = protect(redis.Redis(host, port))                            # blocking or asyncio, rediss:// too
    pool = redis.ConnectionPool.from_url(url, connection_class=SafeConnection, dialer=Dialer(steer=False))
    master = protect(redis.Sentinel(addresses)).master_for("mymaster", retry=Retry(ExponentialBackoff(), 10))
    cluster = protect(redis.asyncio.RedisCluster(host, port))            # blocking: see SafeConnectionPool

**Who waits for a server that is away**: either the client's own `redis.retry.Retry` or the Dialer's policy, which works
inside each dial. They multiply: ``Retry(backoff, 10)`` around ``reconnect(within=60)`` waits 11 times 60 seconds. The
default policy, `safedial.redial`, does not wait for a server. But it waits for a free local port, which multiplies too:
while all ports are in use, a command of redis 8 fails after 25 s, and without the adapter after 4 s.
``Dialer(policy=None)`` leaves all waiting to the client.

- *One server*: a client of redis 8 has a Retry that dials again 10 times, and `protect` keeps it. A pool that you make
  yourself has none, unless you give it ``retry=``. redis 5.1 retries only after time-outs, and if a connection was
  there before. If the Dialer is to wait, give ``Dialer(policy=reconnect())`` and ``retry=Retry(NoBackoff(), 0)``.
- *Sentinel and Cluster*: always the Retry, which asks for the master again before each dial; ``master_for()`` has none
  unless you give it. A Dialer would wait for the old master, and what is written there is lost. So a Dialer that waits
  raises ValueError. Its *timeout* and *total_timeout* may be set. redis 8 by itself repeats a command whose connection
  broke without asking Sentinel; the classes here ask.
- *MultiDBClient* of redis 8: `protect` the pools that you give it. Let their Dialers not wait, or they hold up its
  turn to the next database.

In asyncio *socket_connect_timeout*, 5 seconds in redis 8, limits the whole dial with all its rounds, unless the Dialer
has a timeout.
"""

import socket
from typing import Any, TypeVar

from typing_extensions import override

from safedial._dial.dialer import Dialer
from safedial.adapters import needs, takes_dialer
from safedial.adapters._resp import Library, SafeDial

with needs("redis"):
    import redis
    import redis.asyncio

C = TypeVar(
    "C",
    bound=redis.Redis
    | redis.ConnectionPool
    | redis.Sentinel
    | redis.asyncio.Redis
    | redis.asyncio.ConnectionPool
    | redis.asyncio.Sentinel
    | redis.asyncio.RedisCluster,
)


class SafeConnection(SafeDial, redis.Connection):
    """A `redis.Connection` that also takes *dialer*. Subclasses may set it as a class attribute.

    A self-connect is a `redis.ConnectionError`, as any refused dial is. The connection's *socket_connect_timeout*,
    *socket_keepalive* and *socket_keepalive_options* come before the Dialer's *timeout* and *socket_options*.
    """

    @override
    def _connect(self) -> socket.socket:
        return self.dial(super()._connect)

    # redis 8 repeats a command whose connection broke on the same server, without asking Sentinel. What the old master
    # answers, if it comes back, is lost.
    @override
    def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        if self.of_sentinel:
            self.ask_sentinel()
        below: Any = super()  # untyped
        below.send_packed_command(*args, **kwargs)


class SafeSSLConnection(redis.SSLConnection, SafeConnection):
    """A `redis.SSLConnection` like `SafeConnection`. TLS begins after the check."""


class SafeAsyncConnection(SafeDial, redis.asyncio.Connection):
    """A `redis.asyncio.Connection` like `SafeConnection`."""

    @override
    async def _connect(self) -> None:
        await self.dial_async(super()._connect)

    @override
    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        if self.of_sentinel:
            await self.ask_sentinel()
        await super().send_packed_command(*args, **kwargs)


class SafeAsyncSSLConnection(redis.asyncio.SSLConnection, SafeAsyncConnection):
    """A `redis.asyncio.SSLConnection` like `SafeConnection`."""


class SafeConnectionPool(redis.ConnectionPool):
    """A `redis.ConnectionPool` of safe connections. The blocking Cluster needs it: it dials while it is made.

    Cluster makes pools of this class only in ``from_url()``, and drops keywords that it does not know. So give it a
    Dialer with ``functools.partial(SafeConnectionPool, dialer=Dialer(steer=False))``. If this one waits, Cluster raises
    its RedisClusterException, caused by the ValueError.

    Example::

        cluster = redis.RedisCluster.from_url(url, connection_pool_class=SafeConnectionPool)
    """

    def __init__(self, connection_class: Any = SafeConnection, **kwargs: Any) -> None:
        super().__init__(_LIBRARY.safe(connection_class), **kwargs)  # pyright: ignore[reportUnknownMemberType]  # it has no types


_LIBRARY = Library(redis, SafeSSLConnection, SafeConnection, SafeAsyncSSLConnection, SafeAsyncConnection)


@takes_dialer
def protect(client: C, *, dialer: Dialer | None = None) -> C:
    """Make *client* dial safely from its first connection on, and return it.

    *client* is a client or connection pool of redis, blocking or asyncio, a Sentinel (with all clients that it will
    make), or an asyncio cluster. A client of a Unix socket is left as it is. All clients of a protected pool are safe;
    one that gets another ``connection_pool`` later is not. A second call before the first connection replaces the
    Dialer of the first.

    Under Sentinel and Cluster *dialer* must not wait for a server, since another one may take its place: its policy
    is the default, `redial` or None. Waiting is up to the client's ``retry=``, which asks for the server again.

    Raises:
        TypeError: *client* or *dialer* has the wrong type. A blocking cluster dials while it is made: use
            `SafeConnectionPool`.
        ValueError: *client* has connections already, or *dialer* would wait under Sentinel or Cluster.
    """
    made: C = _LIBRARY.protect(client, dialer)
    return made
