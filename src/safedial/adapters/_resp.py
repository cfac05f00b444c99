"""The part that redis and valkey share. Valkey is a fork of Redis, with the same names and dials."""

import asyncio
import functools
import inspect
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from safedial._clients.marks import note_protected
from safedial._dial.dialer import Dialer
from safedial._dial.replaced import is_theirs
from safedial._forks import loading
from safedial._retry.argument import DEFAULT
from safedial.adapters import TakesDialer, _others, checked_dialer, merged
from safedial.adapters._mistakes import mistaken


class SafeDial(TakesDialer):
    """A mix-in for connections: a Dialer, and the dial with it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Clients pass on their defaults as if they had been given. False and {} stand for None in older versions.
        kind: Any = type(self)
        defaults = _defaults(kind).items()
        self._given = {name for name, default in defaults if (kwargs.get(name, default) or None) != (default or None)}
        who = _asks(kind, kwargs)
        self.of_sentinel = who == "Sentinel"
        super().__init__(*args, **kwargs)
        _refuse_waiting(self.dialer, who)

    def _settings(self) -> Dialer:
        """Return the Dialer for the next dial. The library may change timeouts and host between two dials."""
        own: Any = self
        keepalive = bool(own.socket_keepalive)
        options = {False: [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)], True: []}
        options["socket_keepalive" in self._given].append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(keepalive)))
        for name, value in own.socket_keepalive_options.items() if keepalive else ():
            options["socket_keepalive_options" in self._given].append((socket.IPPROTO_TCP, name, value))
        given, timeout = "socket_connect_timeout" in self._given, own.socket_connect_timeout
        return merged(self.dialer, timeout, given=given, options=options[True], defaults=options[False])

    def _left(self, below: Any) -> bool:
        """Return whether the dial is left to *below*: somebody put it there, or its error is wanted."""
        own: Any = self
        return is_theirs(below, "redis", "valkey") or not _others.can_dial(self.dialer, (own.host, own.port))

    # Private: _connect, which the safe classes override to call this with the one below. TLS begins on the socket that
    # it returns.
    def dial(self, below: Callable[[], Any]) -> socket.socket:
        """Return a connected socket, for blocking connections."""
        own: Any = self
        if self._left(below):
            left: socket.socket = _others.by_library(self.dialer, below)
            return left
        dialer = self._settings()
        if own.socket_type:  # the library gives it to getaddrinfo() as the family
            dialer = replace(dialer, family=own.socket_type)
        sock = dialer.dial((own.host, own.port))
        sock.settimeout(own.socket_timeout)
        return sock

    # Private: _connect as above, which leaves the streams in _reader and _writer; _connection_arguments, which has
    # host, port and the TLS context.
    async def dial_async(self, below: Callable[[], Any]) -> None:
        """Connect, for asyncio connections."""
        own: Any = self
        if self._left(below):
            await _others.by_library(self.dialer, below)
            return
        limit = own.socket_connect_timeout
        tls = dict(own._connection_arguments())
        address = tls.pop("host"), tls.pop("port")
        if "ssl" in tls:
            tls |= {"server_hostname": address[0], "ssl_handshake_timeout": limit}
        # The library's limit is for the dial and TLS together. A Dialer's timeout, if it counts, is for each attempt.
        own_counts = "socket_connect_timeout" in self._given or self.dialer.timeout is DEFAULT
        async with asyncio.timeout(limit if own_counts else None):
            sock = await self._settings().dial_async(address)
            try:
                own._reader, own._writer = await asyncio.open_connection(sock=sock, **tls)
            except BaseException:
                sock.close()
                raise

    # Private: _connect_retry, which each of Sentinel's own classes has.
    def ask_sentinel(self) -> Any:
        """If there is no connection, dial once the server that Sentinel names now. For asyncio, return an awaitable."""
        own: Any = self
        return own._connect_retry()


def _asks(connection_class: Any, arguments: dict[str, Any]) -> str | None:
    """Return who names the server of a connection: "Sentinel", "Cluster", or None if it is always the same server."""
    if hasattr(connection_class, "connect_to"):  # Sentinel's method, for the address that it named
        return "Sentinel"
    # A blocking Cluster gives this method of its own to all connections.
    greet = arguments.get("redis_connect_func") or arguments.get("valkey_connect_func")
    return "Cluster" if hasattr(getattr(greet, "__self__", None), "keyslot") else None


def _refuse_waiting(dialer: Dialer | None, who: str | None) -> None:
    """Raise ValueError if *dialer* would wait for a server while *who* names another one."""
    if who is None or dialer is None or dialer.policy is DEFAULT or dialer.policy is None:
        return
    with loading:
        from safedial._retry.policies import waits_for_server  # late, because it loads tenacity

    if waits_for_server(dialer.policy):
        raise ValueError(
            f"dialer must not wait under {who}: it would wait for the old master, and a write that this one answers "
            f"is lost. Leave its policy to the default, and give the client retry=Retry(...), which asks {who} again"
        )


@functools.cache
def _defaults(connection_class: Any) -> dict[str, Any]:
    """Return the library's defaults for the settings that a Dialer has too."""
    parameters: dict[str, inspect.Parameter] = {}
    for base in reversed(connection_class.__mro__):
        parameters |= inspect.signature(base.__init__).parameters
    names = {"socket_connect_timeout", "socket_keepalive", "socket_keepalive_options"}
    return {name: parameters[name].default for name in names & parameters.keys()}


class Library:
    """One of the two libraries, with the safe classes for its connections, subclasses first."""

    def __init__(self, library: Any, *safe_classes: type) -> None:
        self._library = library
        self._safe_classes = safe_classes

    def protect(self, client: Any, dialer: Dialer | None) -> Any:
        """Make *client* safe, as `safedial.adapters.redis.protect` says, and return it."""
        checked_dialer(dialer)
        blocking, asynchronous = self._library, self._library.asyncio
        if isinstance(client, (blocking.Sentinel, asynchronous.Sentinel)):
            self._protect_sentinel(client, dialer)
        elif isinstance(client, asynchronous.RedisCluster):  # valkey has this name too
            self._protect_cluster(client, dialer)
        elif isinstance(client, blocking.RedisCluster):
            kind = blocking.RedisCluster.__name__
            raise TypeError(
                f"a blocking {kind} can't be made safe: it has dialed already. "
                f"Use {blocking.__name__}.{kind}.from_url(url, "
                f"connection_pool_class=safedial.adapters.{blocking.__name__}.SafeConnectionPool)"
            )
        else:
            pool = getattr(client, "connection_pool", client)
            if not isinstance(pool, (blocking.ConnectionPool, asynchronous.ConnectionPool)):
                name = blocking.__name__
                wanted = f"a client, pool, Sentinel or asyncio cluster of {name}"
                instead = f"protect({name}.{name.capitalize()}.from_url(url))"
                raise mistaken("client", wanted, client, instead, name)
            self._replace_class(pool, dialer)
            if (sentinel := getattr(pool, "sentinel_manager", None)) is not None:
                self._protect_sentinels_clients(sentinel, None)
        note_protected(client)
        return client

    def _protect_sentinel(self, sentinel: Any, dialer: Dialer | None) -> None:
        # Nor must it wait for one Sentinel while another one would answer.
        _refuse_waiting(dialer, "Sentinel")
        self._protect_sentinels_clients(sentinel, dialer)
        for name in ("master_for", "slave_for"):
            setattr(sentinel, name, functools.partial(self._make, getattr(sentinel, name), dialer))

    def _protect_sentinels_clients(self, sentinel: Any, dialer: Dialer | None) -> None:
        for each in sentinel.sentinels:
            self._replace_class(each.connection_pool, dialer, "Sentinel")

    def _make(self, make: Callable[..., Any], default: Dialer | None, /, *args: Any, **kwargs: Any) -> Any:
        dialer = kwargs.pop("dialer", None) or default
        return self.protect(make(*args, **kwargs), dialer)

    def _protect_cluster(self, cluster: Any, dialer: Dialer | None) -> None:
        _refuse_waiting(dialer, "Cluster")
        # The startup nodes are there already; nodes that are found later are made of connection_kwargs.
        for node in cluster.nodes_manager.startup_nodes.values():
            self._replace_class(node, dialer, "Cluster")
        options: dict[str, Any] = cluster.connection_kwargs
        options["connection_class"] = self.safe(options["connection_class"])
        if dialer is not None:
            options["dialer"] = dialer

    def _replace_class(self, pool: Any, dialer: Dialer | None, who: str | None = None) -> None:
        """Let *pool*, or a node of a cluster, make connections of a safe class. *who* names its server."""
        safe = self.safe(pool.connection_class)
        dials = dialer or pool.connection_kwargs.get("dialer") or getattr(safe, "dialer", None)
        _refuse_waiting(dials, who or _asks(safe, pool.connection_kwargs))
        if safe is pool.connection_class and dialer is None:
            return
        # Private: where pools keep their connections, in each version. Existing connections keep their class.
        places = ("_created_connections", "_connections", "_available_connections", "_in_use_connections")
        if any(getattr(pool, place, None) for place in places):
            raise ValueError(
                "client has connections already, and they would stay unsafe: call protect() before it is used. "
                "With single_connection_client the connection is made at once: use a pool of SafeConnection"
            )
        pool.connection_class = safe
        if dialer is not None and issubclass(safe, SafeDial):
            pool.connection_kwargs["dialer"] = dialer

    def safe(self, connection_class: Any) -> Any:
        """Return the safe subclass of *connection_class*, which may be Sentinel's or a user's own."""
        for safe in self._safe_classes:
            plain = next(base for base in safe.__mro__ if base.__module__.startswith(self._library.__name__))
            if connection_class is plain:
                return safe
            if issubclass(connection_class, plain) and not issubclass(connection_class, SafeDial):
                return _combined(connection_class, safe)
        return connection_class


@functools.cache
def _combined(connection_class: Any, safe: Any) -> Any:
    return type(f"Safe{connection_class.__name__}", (connection_class, safe), {})
