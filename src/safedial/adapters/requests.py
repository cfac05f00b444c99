"""requests that dials with a Dialer: `protect` makes a session safe, by a `SafeHTTPAdapter`."""

from typing import Any, TypeVar, cast

from typing_extensions import override

from safedial._clients.marks import note_protected
from safedial._dial.dialer import Dialer
from safedial.adapters import TakesDialer, needs, takes_dialer
from safedial.adapters._mistakes import mistaken

with needs("requests"):
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import ProxyManager

    from safedial.adapters.urllib3 import protect as protect_manager

S = TypeVar("S", bound=requests.Session)

_POOL_SETTINGS = ("pool_connections", "pool_maxsize", "pool_block")


@takes_dialer
def protect(session: S, *, dialer: Dialer | None = None, **kwds: Any) -> S:
    """Make *session* safe: mount a `SafeHTTPAdapter` with these arguments for http and https, and return the session.

    It takes over the settings of the `HTTPAdapter` that it replaces. Adapters that are mounted for longer prefixes
    (``https://api.example.com/``) stay. An adapter that is mounted later takes its place: mount a `SafeHTTPAdapter`.

    Raises:
        TypeError: an adapter of an unknown class is mounted for http or https.

    Example::

        session = protect(requests.Session(), max_retries=3)
    """
    if not isinstance(session, requests.Session):
        instead = "protect(requests.Session())"
        raise mistaken("session", "a requests.Session", session, instead, "requests")
    # One adapter for each prefix, as in a new session: they share no pools.
    for prefix in ("https://", "http://"):
        settings = {}
        if (replaced := session.adapters.get(prefix)) is not None:
            if type(replaced) not in (HTTPAdapter, SafeHTTPAdapter):
                kind = type(replaced).__name__
                raise TypeError(f"session: safedial does not know how {kind} dials; derive it from SafeHTTPAdapter")
            # Private: the attributes that HTTPAdapter pickles.
            settings = {name: getattr(replaced, f"_{name}") for name in _POOL_SETTINGS}
            settings["max_retries"] = cast("Any", replaced).max_retries
        session.mount(prefix, SafeHTTPAdapter(dialer=dialer, **(settings | kwds)))
    note_protected(session)
    return session


class SafeHTTPAdapter(TakesDialer, HTTPAdapter):
    """An `HTTPAdapter` whose connections, also those to HTTP proxies, *dialer* dials.

    Errors are requests' own: a refused dial and a self-connect are a `requests.ConnectionError`. *max_retries* and the
    Dialer's policy multiply. PySocks dials SOCKS proxies: see `safedial.guard`. An adapter is pickled with its Dialer.
    """

    __attrs__ = [*HTTPAdapter.__attrs__, "dialer"]  # noqa: RUF012  # as its base has it

    @override
    def init_poolmanager(self, *args: Any, **kwds: Any) -> None:
        super().init_poolmanager(*args, **kwds)
        protect_manager(self.poolmanager, dialer=self.dialer)

    @override
    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        is_new = proxy not in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if is_new and isinstance(manager, ProxyManager):  # the manager for SOCKS is not a ProxyManager
            protect_manager(manager, dialer=self.dialer)
        return manager
