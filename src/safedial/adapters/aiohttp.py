"""aiohttp under the guard: `protect` makes a session safe, `SafeTCPConnector` is a safe connector.

aiohttp dials and shakes hands in one call, so the guard is put around that call. Resolver and cache, Happy Eyeballs,
pool, limits, timeouts, proxies, TLS and socket options stay aiohttp's own.
"""

import functools
from typing import Any, TypeVar, cast

from typing_extensions import override

from safedial._clients.drivers import no_addresses
from safedial._clients.marks import note_protected
from safedial._clients.wrap import wrapped
from safedial._retry.argument import DEFAULT, PolicyArgument, check_policy
from safedial.adapters import needs, takes_policy
from safedial.adapters._mistakes import mistaken
from safedial.events import OnEvent, check_hook

with needs("aiohttp"):
    import aiohttp
    from aiohttp.client_proto import ResponseHandler

S = TypeVar("S", bound=aiohttp.ClientSession | aiohttp.TCPConnector)


@takes_policy
def protect(session: S, *, policy: PolicyArgument = DEFAULT, on_event: OnEvent | None = None) -> S:
    """Make *session* safe, with its connections to proxies, and return it.

    A self-connect is reported as a refused connection: `aiohttp.ClientConnectorError`, or
    `ClientProxyConnectionError` for a proxy, with a `safedial.SelfConnectError` as its ``os_error``. Connections that
    are open stay as they are. A second call replaces the *policy* and *on_event* of the first.

    Args:
        session: an open `aiohttp.ClientSession`, or an `aiohttp.TCPConnector`.
        policy: a `tenacity.Retrying` or `tenacity.AsyncRetrying` that decides on another dial: aiohttp never retries a
            new connection. Name, addresses and proxy are looked up again; no request was sent yet. aiohttp's
            ``sock_connect`` limits each dial, ``connect`` and ``total`` limit all dials together. They take one place
            in the pool. Default: `redial()`. None: one dial.
        on_event: called with each `safedial.DialEvent` of its dials, as by `safedial.wrap`. Default: None.

    Example::

        async with protect(aiohttp.ClientSession(), policy=safedial.reconnect()) as session:
            ...
    """
    connector: Any = session.connector if isinstance(session, aiohttp.ClientSession) else session
    if not isinstance(connector, aiohttp.TCPConnector):
        wanted = "an open ClientSession or an aiohttp.TCPConnector (no other one)"
        given = session if connector is None else connector
        raise mistaken("session", wanted, given, "protect(aiohttp.ClientSession())", "aiohttp")
    check_policy(policy)
    check_hook(on_event)
    if isinstance(connector, SafeTCPConnector):  # or the two policies would multiply
        connector.dial_policy, connector.on_event = policy, on_event
        return session

    # Private: the method that BaseConnector leaves to its subclasses. Name, dial, proxy and TLS are all in it. It is
    # looked up at each dial, because somebody may replace it.
    own = cast("Any", connector)
    kind = own.__class__

    @functools.wraps(kind._create_connection)
    async def create(*args: Any, **kwds: Any) -> ResponseHandler:
        made: ResponseHandler = await kind._create_connection(own, *args, **kwds)
        return made

    own._create_connection = wrapped(create, no_addresses, policy, on_event)
    note_protected(connector)
    return session


class SafeTCPConnector(aiohttp.TCPConnector):
    """An `aiohttp.TCPConnector` that is safe as by `protect`. It takes aiohttp's arguments, *policy* and *on_event*."""

    @takes_policy
    def __init__(self, *, policy: PolicyArgument = DEFAULT, on_event: OnEvent | None = None, **kwds: Any) -> None:
        self.dial_policy = check_policy(policy)
        self.on_event = check_hook(on_event)
        super().__init__(**kwds)  # pyright: ignore[reportUnknownMemberType]  # a tuple[Unknown] in socket_factory

    @override
    async def _create_connection(self, *args: Any, **kwds: Any) -> ResponseHandler:
        create = wrapped(super()._create_connection, no_addresses, self.dial_policy, self.on_event)
        made: ResponseHandler = await create(*args, **kwds)
        return made
