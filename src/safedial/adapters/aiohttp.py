"""aiohttp, guarded: `SafeConnector` never connects to itself, with TLS or without.

aiohttp dials and shakes hands in one call, so the guard sits under that call, on uvloop too. Everything else
is aiohttp's own: the resolver and its cache, Happy Eyeballs, pools, limits, timeouts, proxies, TLS.
"""

from typing import TYPE_CHECKING, Any, Literal

from safedial._clients.wrap import wrap
from safedial._retry.argument import DEFAULT, Default, check_policy
from safedial.adapters import Needs

if TYPE_CHECKING:
    from safedial._retry.argument import Policy

with Needs("aiohttp"):
    import aiohttp
    from aiohttp.client_proto import ResponseHandler

__all__ = ["SafeConnector"]


class SafeConnector(aiohttp.TCPConnector):
    """A `aiohttp.TCPConnector` whose connections, those to a proxy too, are guarded.

    A self-connect is what any refusal is: `aiohttp.ClientConnectorError` (`ClientProxyConnectionError` for
    a proxy), with a `safedial.SelfConnectError` as its ``os_error``.

    Args:
        policy: a `tenacity.Retrying` or `tenacity.AsyncRetrying` that decides on another dial, since aiohttp
            has no retry of its own for a new connection. Name, addresses and proxy are asked anew; no
            request was sent yet. Each dial has aiohttp's ``sock_connect`` timeout, all of them its
            ``connect`` and ``total``, and a single place in the pool. Default: `redial()`. None: one dial.
        **kwds: the arguments of TCPConnector, such as *local_addr*, *limit* and *happy_eyeballs_delay*.

    Raises:
        TypeError: *policy* is no policy.

    Example::

        async with aiohttp.ClientSession(connector=SafeConnector(policy=safedial.reconnect())) as session:
            ...
    """

    def __init__(self, *, policy: "Policy | Literal[Default.DEFAULT] | None" = DEFAULT, **kwds: Any) -> None:
        check_policy(policy)
        self._dial_policy = policy
        super().__init__(**kwds)  # pyright: ignore[reportUnknownMemberType]  # a tuple[Unknown] in socket_factory

    # Private: the method that BaseConnector leaves to its subclasses: name, dial, proxy and TLS are all in it.
    async def _create_connection(self, *args: Any, **kwds: Any) -> ResponseHandler:
        return await wrap(super()._create_connection, policy=self._dial_policy)(*args, **kwds)
