"""Redis: every connection of a client, a pool, Sentinel or Cluster dialed by a Dialer, sync and async.

One line makes a client safe; it, its pool and its own retries stay what they are::

    client = make_safe(redis.Redis(host, port))                            # sync or asyncio, rediss:// too
    pool = redis.ConnectionPool.from_url(url, connection_class=SafeConnection)
    master = make_safe(redis.Sentinel(addresses)).master_for("mymaster")
    cluster = make_safe(redis.asyncio.RedisCluster(host, port))            # the sync one: SafeConnectionPool

**Two retries.** redis has its own, `redis.retry.Retry`. A client of redis 8 dials a server that refuses
10 times more; a pool that you make yourself does not, unless it is given ``retry=``: `make_safe` keeps the
client's Retry, ``redis.Redis(connection_pool=...)`` drops it. redis 5.1 does so only for connections that
it had, and for time-outs. A Dialer's policy works inside each of those dials. The default one,
`safedial.redial`, only dials again what a self-connect or a lack of ports made fail. A
`safedial.reconnect` multiplies: ``Retry(backoff, 10)`` around ``reconnect(within=60)`` is 11 times 60
seconds until the program hears that the server is down. So give the waiting to one of them: to redis's
Retry, or to ``Dialer(policy=reconnect())`` beside ``retry=Retry(NoBackoff(), 0)``. In asyncio a dial with
all its rounds has to end within *socket_connect_timeout*, 5 seconds in redis 8.

Tested on redis 5.1.0 and 8.1.0.
"""

from typing import Any, TypeVar

from safedial._dial.dialer import Dialer
from safedial.adapters import Needs
from safedial.adapters._resp import Library, SafeAsyncDial, SafeDial

with Needs("redis"):
    import redis
    import redis.asyncio

T = TypeVar("T")


class SafeConnection(SafeDial, redis.Connection):
    """A `redis.Connection` that never connects to itself.

    It takes what redis's takes, and *dialer*, a `safedial.Dialer`, of which the timeout is the
    connection's own and the socket options come after the connection's own. Subclasses may set it as a
    class attribute. A self-connect is `redis.ConnectionError`, as is any refused dial.

    Example::

        pool = redis.ConnectionPool.from_url(url, connection_class=SafeConnection, dialer=Dialer(steer=False))
        client = redis.Redis(connection_pool=pool)
    """


class SafeSSLConnection(redis.SSLConnection, SafeConnection):
    """A `redis.SSLConnection` like `SafeConnection`: TLS begins when it is known whom it is to."""


class SafeAsyncConnection(SafeAsyncDial, redis.asyncio.Connection):
    """A `redis.asyncio.Connection` like `SafeConnection`."""


class SafeAsyncSSLConnection(redis.asyncio.SSLConnection, SafeAsyncConnection):
    """A `redis.asyncio.SSLConnection` like `SafeConnection`."""


class SafeConnectionPool(redis.ConnectionPool):
    """A `redis.ConnectionPool` of safe connections, which Cluster needs: it dials as soon as it is made.

    It takes what redis's takes, and *dialer*. Cluster makes pools of this class in ``from_url()`` alone,
    and drops keywords that it does not know, so there a Dialer goes into the class:
    ``functools.partial(SafeConnectionPool, dialer=Dialer(steer=False))``.

    Example::

        cluster = redis.RedisCluster.from_url(url, connection_pool_class=SafeConnectionPool)
    """

    def __init__(self, connection_class: Any = SafeConnection, **kwargs: Any) -> None:
        super().__init__(_LIBRARY.safe(connection_class), **kwargs)  # pyright: ignore[reportUnknownMemberType]  # it has no types


def make_safe(client: T, dialer: Dialer | None = None) -> T:
    """Make *client* dial safely from its first connection on, and return it.

    Args:
        client: a client or connection pool of redis or redis.asyncio, a Sentinel (and all clients it
            gives from now on), or an asyncio RedisCluster. One over a Unix socket is left as it is.
        dialer: how to dial, as `SafeConnection` explains. Default: ``Dialer()``.

    Raises:
        TypeError: *client* is none of these, or *dialer* no Dialer. A blocking RedisCluster has dialed
            already when it can be had: use `SafeConnectionPool`.
        ValueError: *client* has connections already.

    Example::

        client = make_safe(redis.Redis(host, port, ssl=True))
        client.ping()
    """
    _LIBRARY.make_safe(client, dialer)
    return client


_LIBRARY = Library(
    name="redis",
    pools=(redis.ConnectionPool, redis.asyncio.ConnectionPool),
    sentinels=(redis.Sentinel, redis.asyncio.Sentinel),
    cluster=redis.RedisCluster,
    async_cluster=redis.asyncio.RedisCluster,
    connections=((redis.Connection, SafeConnection), (redis.asyncio.Connection, SafeAsyncConnection)),
)
