"""requests that dials with a Dialer: `mount` makes a session safe, `SafeAdapter` is what it mounts."""

from typing import Any, TypeVar

from safedial._address import shown
from safedial._dial.dialer import Dialer
from safedial.adapters import Needs, checked_dialer

with Needs("requests"):
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import ProxyManager

    from safedial.adapters.urllib3 import pool_classes

__all__ = ["SafeAdapter", "mount"]

S = TypeVar("S", bound=requests.Session)


class SafeAdapter(HTTPAdapter):
    """An `HTTPAdapter` whose connections, those to HTTP proxies too, *dialer* dials.

    What fails raises requests' own errors: refused, and a self-connect, is
    `requests.ConnectionError`. SOCKS proxies are dialed by PySocks as before: see `safedial.guard`.
    Pickled with its dialer, so the hooks of that one must be picklable then.

    Args:
        *args: the arguments of HTTPAdapter.
        dialer: dials; a timeout that a request gives comes before the Dialer's. Default: None,
            ``Dialer()``.
        **kwds: the arguments of HTTPAdapter. *max_retries* and the Dialer's policy multiply.

    Raises:
        TypeError: *dialer* is no Dialer.

    Example::

        session.mount("https://api.example.com/", SafeAdapter(max_retries=3))
    """

    __attrs__ = [*HTTPAdapter.__attrs__, "dialer"]  # noqa: RUF012  # as its base has it

    dialer: Dialer

    def __init__(self, *args: Any, dialer: Dialer | None = None, **kwds: Any) -> None:
        self.dialer = checked_dialer(dialer)  # before the managers are made, in there
        super().__init__(*args, **kwds)

    def init_poolmanager(self, *args: Any, **kwds: Any) -> None:
        """Make the manager of pools; called by HTTPAdapter, and when unpickled."""
        super().init_poolmanager(*args, **kwds)
        self.poolmanager.pool_classes_by_scheme = pool_classes(self.dialer)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """Return the manager of the pools of *proxy*; called by HTTPAdapter."""
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if isinstance(manager, ProxyManager):  # which the one for SOCKS is not
            manager.pool_classes_by_scheme = pool_classes(self.dialer)
        return manager


def mount(session: S, *, dialer: Dialer | None = None, **kwds: Any) -> S:
    """Make *session* safe: mount a `SafeAdapter` for http and https, and return the session.

    Adapters that are mounted for longer prefixes (``https://api.example.com/``) stay.

    Args:
        session: a `requests.Session`.
        dialer: dials. Default: None, ``Dialer()``.
        **kwds: the arguments of `requests.adapters.HTTPAdapter`, such as *max_retries*.

    Raises:
        TypeError: an argument is of no use; the message names it.

    Example::

        session = mount(requests.Session())
    """
    if not isinstance(session, requests.Session):
        raise TypeError(f"session must be a requests.Session, not {shown(session)}")
    # One each, as a new session has: they share no pools.
    adapters = {prefix: SafeAdapter(dialer=dialer, **kwds) for prefix in ("https://", "http://")}
    for prefix, adapter in adapters.items():
        session.mount(prefix, adapter)
    return session
