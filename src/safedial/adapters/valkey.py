"""Valkey: every connection of a client, a pool, Sentinel or Cluster dialed by a Dialer, sync and async.

One line makes a client safe; it, its pool and its own retries stay what they are::

    client = make_safe(valkey.Valkey(host, port))                            # sync or asyncio, valkeys:// too
    pool = valkey.ConnectionPool.from_url(url, connection_class=SafeConnection)
    master = make_safe(valkey.Sentinel(addresses)).master_for("mymaster")
    cluster = make_safe(valkey.asyncio.ValkeyCluster(host, port))            # the sync one: SafeConnectionPool

**Two retries.** valkey has its own, `valkey.retry.Retry`, as redis 5 has: none by default; a client with one
dials again for connections that it had, and after time-outs. A Dialer's policy works inside each of those
dials. The default one, `safedial.redial`, only dials again what a self-connect or a lack of ports made
fail. A `safedial.reconnect` multiplies: ``Retry(backoff, 10)`` around ``reconnect(within=60)`` is 11 times
60 seconds until the program hears that the server is down. So give the waiting to one of them: to valkey's
Retry, or to ``Dialer(policy=reconnect())`` without any. In asyncio a dial with all its rounds has to end
within *socket_connect_timeout*.

Tested on valkey 6.1.0 and 6.2.0.
"""

from typing import Any, TypeVar

from safedial._dial.dialer import Dialer
from safedial.adapters import Needs
from safedial.adapters._resp import Library, SafeAsyncDial, SafeDial

with Needs("valkey"):
    import valkey
    import valkey.asyncio

T = TypeVar("T")


class SafeConnection(SafeDial, valkey.Connection):
    """A `valkey.Connection` that never connects to itself.

    It takes what valkey's takes, and *dialer*, a `safedial.Dialer`, of which the timeout is the
    connection's own and the socket options come after the connection's own. Subclasses may set it as a
    class attribute. A self-connect is `valkey.ConnectionError`, as is any refused dial.

    Example::

        pool = valkey.ConnectionPool.from_url(url, connection_class=SafeConnection, dialer=Dialer(steer=False))
        client = valkey.Valkey(connection_pool=pool)
    """


class SafeSSLConnection(valkey.SSLConnection, SafeConnection):
    """A `valkey.SSLConnection` like `SafeConnection`: TLS begins when it is known whom it is to."""


class SafeAsyncConnection(SafeAsyncDial, valkey.asyncio.Connection):
    """A `valkey.asyncio.Connection` like `SafeConnection`."""


class SafeAsyncSSLConnection(valkey.asyncio.SSLConnection, SafeAsyncConnection):
    """A `valkey.asyncio.SSLConnection` like `SafeConnection`."""


class SafeConnectionPool(valkey.ConnectionPool):
    """A `valkey.ConnectionPool` of safe connections, which Cluster needs: it dials as soon as it is made.

    It takes what valkey's takes, and *dialer*. Cluster makes pools of this class in ``from_url()`` alone,
    and drops keywords that it does not know, so there a Dialer goes into the class:
    ``functools.partial(SafeConnectionPool, dialer=Dialer(steer=False))``.

    Example::

        cluster = valkey.ValkeyCluster.from_url(url, connection_pool_class=SafeConnectionPool)
    """

    def __init__(self, connection_class: Any = SafeConnection, **kwargs: Any) -> None:
        super().__init__(_LIBRARY.safe(connection_class), **kwargs)  # pyright: ignore[reportUnknownMemberType]  # it has no types


def make_safe(client: T, dialer: Dialer | None = None) -> T:
    """Make *client* dial safely from its first connection on, and return it.

    Args:
        client: a client or connection pool of valkey or valkey.asyncio, a Sentinel (and all clients it
            gives from now on), or an asyncio ValkeyCluster. One over a Unix socket is left as it is.
        dialer: how to dial, as `SafeConnection` explains. Default: ``Dialer()``.

    Raises:
        TypeError: *client* is none of these, or *dialer* no Dialer. A blocking ValkeyCluster has dialed
            already when it can be had: use `SafeConnectionPool`.
        ValueError: *client* has connections already.

    Example::

        client = make_safe(valkey.Valkey(host, port, ssl=True))
        client.ping()
    """
    _LIBRARY.make_safe(client, dialer)
    return client


_LIBRARY = Library(
    name="valkey",
    pools=(valkey.ConnectionPool, valkey.asyncio.ConnectionPool),
    sentinels=(valkey.Sentinel, valkey.asyncio.Sentinel),
    cluster=valkey.ValkeyCluster,
    async_cluster=valkey.asyncio.ValkeyCluster,
    connections=((valkey.Connection, SafeConnection), (valkey.asyncio.Connection, SafeAsyncConnection)),
)
