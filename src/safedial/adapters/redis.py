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

import asyncio
import functools
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from safedial.adapters import Needs
from safedial.dialer import Dialer

with Needs("redis"):
    import redis
    import redis.asyncio

T = TypeVar("T")


class _Safe:
    """What the connections of both worlds have in common: a Dialer, and their own settings for it."""

    # A class attribute too, as RedisCluster hands no keyword of ours to its connections.
    dialer = Dialer()

    def __init__(self, *args: Any, dialer: Dialer | None = None, **kwargs: Any) -> None:
        if dialer is not None:
            _check(dialer)
            self.dialer = dialer
        super().__init__(*args, **kwargs)

    def _settings(self) -> Dialer:
        """Return the Dialer for a dial now: redis changes its timeouts, and Sentinel the host, meanwhile."""
        own: Any = self
        options: list[tuple[int, int, int | bytes]] = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        if own.socket_keepalive:
            options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
            options += [(socket.IPPROTO_TCP, name, value) for name, value in own.socket_keepalive_options.items()]
        options += self.dialer.socket_options or ()
        return replace(self.dialer, timeout=own.socket_connect_timeout, socket_options=options)


class SafeConnection(_Safe, redis.Connection):
    """A `redis.Connection` that never connects to itself.

    It takes what redis's takes, and *dialer*, a `safedial.Dialer`, of which the timeout is the
    connection's own and the socket options come after the connection's own. Subclasses may set it as a
    class attribute. A self-connect is `redis.ConnectionError`, as is any refused dial.

    Example::

        pool = redis.ConnectionPool.from_url(url, connection_class=SafeConnection, dialer=Dialer(steer=False))
        client = redis.Redis(connection_pool=pool)
    """

    # Private: _connect, where redis dials; it returns the connected socket, and TLS comes on top of it.
    def _connect(self) -> socket.socket:
        dialer = self._settings()
        if self.socket_type:  # which redis hands to getaddrinfo() as the family
            dialer = replace(dialer, family=self.socket_type)
        sock = dialer.dial((self.host, self.port))
        sock.settimeout(self.socket_timeout)
        return sock


class SafeSSLConnection(redis.SSLConnection, SafeConnection):
    """A `redis.SSLConnection` like `SafeConnection`: TLS begins when it is known whom it is to."""


class SafeAsyncConnection(_Safe, redis.asyncio.Connection):
    """A `redis.asyncio.Connection` like `SafeConnection`."""

    # Private: _connect as above; in asyncio it leaves the streams in _reader and _writer. And
    # _connection_arguments, which tells the TLS context beside host and port.
    async def _connect(self) -> None:
        own: Any = self  # parts of redis have no types
        tls = dict(own._connection_arguments())
        host, port = tls.pop("host"), tls.pop("port")
        if "ssl" in tls:
            tls["server_hostname"] = host
        async with asyncio.timeout(self.socket_connect_timeout):
            sock = await self._settings().dial_async((host, port))
            try:
                self._reader, self._writer = await asyncio.open_connection(sock=sock, **tls)
            except BaseException:
                sock.close()
                raise


class SafeAsyncSSLConnection(redis.asyncio.SSLConnection, SafeAsyncConnection):
    """A `redis.asyncio.SSLConnection` like `SafeConnection`."""


class SafeConnectionPool(redis.ConnectionPool):
    """A `redis.ConnectionPool` of safe connections, which Cluster needs: it dials as soon as it is made.

    It takes what redis's takes, and *dialer*.

    Example::

        cluster = redis.RedisCluster.from_url(url, connection_pool_class=SafeConnectionPool)
    """

    def __init__(self, connection_class: Any = SafeConnection, **kwargs: Any) -> None:
        # Parts of redis have no types.
        super().__init__(_safe(connection_class), **kwargs)  # pyright: ignore[reportUnknownMemberType]


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
    if dialer is not None:
        _check(dialer)
    thing: Any = client
    if isinstance(thing, redis.Sentinel | redis.asyncio.Sentinel):
        for each in thing.sentinels:
            make_safe(each, dialer)
        for name in ("master_for", "slave_for"):
            setattr(thing, name, _then_safe(getattr(thing, name), dialer))
    elif isinstance(thing, redis.asyncio.RedisCluster):
        # The nodes that it begins with; those that it finds are made of connection_kwargs.
        for node in thing.nodes_manager.startup_nodes.values():
            _replace(node, dialer)
        thing.connection_kwargs["connection_class"] = _safe(thing.connection_kwargs["connection_class"])
        if dialer is not None:
            thing.connection_kwargs["dialer"] = dialer
    elif isinstance(thing, redis.RedisCluster):
        raise TypeError(
            "a blocking RedisCluster can't be made safe: it has dialed already. "
            "Use RedisCluster.from_url(url, connection_pool_class=SafeConnectionPool)"
        )
    else:
        pool = getattr(thing, "connection_pool", thing)
        if not isinstance(pool, redis.ConnectionPool | redis.asyncio.ConnectionPool):
            raise TypeError(f"client must be a client, pool, Sentinel or asyncio cluster of redis, not {client!r}")
        _replace(pool, dialer)
    return client


def _then_safe(make: Callable[..., Any], dialer: Dialer | None) -> Callable[..., Any]:
    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        return make_safe(make(*args, **kwargs), dialer)

    return made


def _replace(pool: Any, dialer: Dialer | None) -> None:
    """Let *pool*, or what a cluster has for one, make connections of a safe class."""
    safe = _safe(pool.connection_class)
    if safe is pool.connection_class and dialer is None:
        return
    # Private: where the pools of each version keep their connections; one that is there stays what it is.
    places = ("_created_connections", "_connections", "_available_connections", "_in_use_connections")
    if any(getattr(pool, place, None) for place in places):
        raise ValueError("client has connections already, which would stay unsafe: call make_safe() before it is used")
    pool.connection_class = safe
    if dialer is not None and issubclass(safe, _Safe):
        pool.connection_kwargs["dialer"] = dialer


@functools.cache
def _safe(connection_class: Any) -> Any:
    """Return *connection_class*, which may be Sentinel's or a user's own, with a safe dial under it."""
    for plain, safe in ((redis.Connection, SafeConnection), (redis.asyncio.Connection, SafeAsyncConnection)):
        if connection_class is plain:
            return safe
        if issubclass(connection_class, plain) and not issubclass(connection_class, safe):
            return type(f"Safe{connection_class.__name__}", (connection_class, safe), {})
    return connection_class


def _check(dialer: object) -> None:
    if not isinstance(dialer, Dialer):
        raise TypeError(f"dialer must be a safedial.Dialer, not {dialer!r}")
