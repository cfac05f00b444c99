"""What the adapters of redis and valkey share: Valkey is a fork of Redis, and dials in the same places."""

import asyncio
import functools
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from safedial._dial.dialer import Dialer


class _Safe:
    """What the connections of both worlds have in common: a Dialer, and their own settings for it."""

    # A class attribute too, as clusters hand no keyword of ours to their connections.
    dialer = Dialer()

    def __init__(self, *args: Any, dialer: Dialer | None = None, **kwargs: Any) -> None:
        if dialer is not None:
            check(dialer)
            self.dialer = dialer
        super().__init__(*args, **kwargs)

    def _settings(self) -> Dialer:
        """Return the Dialer for a dial now: timeouts change meanwhile, and with Sentinel the host."""
        own: Any = self
        options: list[tuple[int, int, int | bytes]] = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        if own.socket_keepalive:
            options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
            options += [(socket.IPPROTO_TCP, name, value) for name, value in own.socket_keepalive_options.items()]
        options += self.dialer.socket_options or ()
        return replace(self.dialer, timeout=own.socket_connect_timeout, socket_options=options)


class SafeDial(_Safe):
    """The dial of a blocking connection."""

    # Private: _connect, where the library dials; it returns the connected socket, and TLS comes on top of it.
    def _connect(self) -> socket.socket:
        own: Any = self
        dialer = self._settings()
        if own.socket_type:  # which the library hands to getaddrinfo() as the family
            dialer = replace(dialer, family=own.socket_type)
        sock = dialer.dial((own.host, own.port))
        sock.settimeout(own.socket_timeout)
        return sock


class SafeAsyncDial(_Safe):
    """The dial of an asyncio connection."""

    # Private: _connect as above; in asyncio it leaves the streams in _reader and _writer. And
    # _connection_arguments, which tells the TLS context beside host and port.
    async def _connect(self) -> None:
        own: Any = self
        tls = dict(own._connection_arguments())
        host, port = tls.pop("host"), tls.pop("port")
        if "ssl" in tls:
            tls["server_hostname"] = host
        async with asyncio.timeout(own.socket_connect_timeout):
            sock = await self._settings().dial_async((host, port))
            try:
                own._reader, own._writer = await asyncio.open_connection(sock=sock, **tls)
            except BaseException:
                sock.close()
                raise


@dataclass(frozen=True)
class Library:
    """One of the two libraries: its name, its classes, and what stands in for its connections."""

    name: str
    pools: tuple[type, ...]
    sentinels: tuple[type, ...]
    cluster: type
    async_cluster: type
    # Plain class and safe one, of either world.
    connections: tuple[tuple[type, type], ...]

    def make_safe(self, client: Any, dialer: Dialer | None) -> None:
        """Make *client* dial safely; the adapter's own function tells the rest."""
        if dialer is not None:
            check(dialer)
        if isinstance(client, self.sentinels):
            self._make_sentinel_safe(client, dialer)
        elif isinstance(client, self.async_cluster):
            self._make_cluster_safe(client, dialer)
        elif isinstance(client, self.cluster):
            kind = self.cluster.__name__
            raise TypeError(
                f"a blocking {kind} can't be made safe: it has dialed already. "
                f"Use {kind}.from_url(url, connection_pool_class=SafeConnectionPool)"
            )
        else:
            pool = getattr(client, "connection_pool", client)
            if not isinstance(pool, self.pools):
                raise TypeError(
                    # Not what it is: a URL has a password in it.
                    f"client must be a client, pool, Sentinel or asyncio cluster of {self.name}, "
                    f"not a {type(client).__name__}"
                )
            self._replace(pool, dialer)

    def _make_sentinel_safe(self, sentinel: Any, dialer: Dialer | None) -> None:
        for each in sentinel.sentinels:
            self.make_safe(each, dialer)
        for name in ("master_for", "slave_for"):
            setattr(sentinel, name, self._then_safe(getattr(sentinel, name), dialer))

    def _then_safe(self, make: Callable[..., Any], dialer: Dialer | None) -> Callable[..., Any]:
        @functools.wraps(make)
        def made(*args: Any, **kwargs: Any) -> Any:
            client = make(*args, **kwargs)
            self.make_safe(client, dialer)
            return client

        return made

    def _make_cluster_safe(self, cluster: Any, dialer: Dialer | None) -> None:
        # The nodes that it begins with; those that it finds are made of connection_kwargs.
        for node in cluster.nodes_manager.startup_nodes.values():
            self._replace(node, dialer)
        options: dict[str, Any] = cluster.connection_kwargs
        options["connection_class"] = self.safe(options["connection_class"])
        if dialer is not None:
            options["dialer"] = dialer

    def _replace(self, pool: Any, dialer: Dialer | None) -> None:
        """Let *pool*, or what a cluster has for one, make connections of a safe class."""
        safe = self.safe(pool.connection_class)
        if safe is pool.connection_class and dialer is None:
            return
        # Private: where the pools of each version keep their connections; one that is there stays what it is.
        places = ("_created_connections", "_connections", "_available_connections", "_in_use_connections")
        if any(getattr(pool, place, None) for place in places):
            raise ValueError(
                "client has connections already, which would stay unsafe: call make_safe() before it is used; "
                "one with single_connection_client dials when it is made, and needs a pool of SafeConnection"
            )
        pool.connection_class = safe
        if dialer is not None and issubclass(safe, _Safe):
            pool.connection_kwargs["dialer"] = dialer

    def safe(self, connection_class: Any) -> Any:
        """Return *connection_class*, which may be Sentinel's or a user's own, with a safe dial under it."""
        for plain, safe in self.connections:
            if connection_class is plain:
                return safe
            if issubclass(connection_class, plain) and not issubclass(connection_class, safe):
                return _over(connection_class, safe)
        return connection_class


@functools.cache
def _over(connection_class: Any, safe: Any) -> Any:
    return type(f"Safe{connection_class.__name__}", (connection_class, safe), {})


def check(dialer: object) -> None:
    """Raise TypeError where *dialer* is no Dialer."""
    if not isinstance(dialer, Dialer):
        raise TypeError(f"dialer must be a safedial.Dialer, not {dialer!r}")
