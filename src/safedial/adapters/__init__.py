"""Adapters: how a Dialer, or the guard, gets under the connections of other libraries.

Each module serves one library and is loaded when it is first touched: ``import safedial``, then
``safedial.adapters.requests.protect(session)``. `protect` makes a session, client or pool safe and returns it. A class
is named ``Safe`` and the library's name for it. Both take *dialer*, a `safedial.Dialer` that makes the connections.
Default: None, ``Dialer()``. If the library dials and shakes hands in one call, they take *policy* and *on_event*
instead. TypeError is raised for the wrong one of the two, as for any wrong argument.

**Precedence.** The client's own explicit setting counts first, then the Dialer's, then the library's default. Socket
options are compared one by one. If a library does not tell a given value from its default, a value equal to the
default counts as not given. Exception: asyncio and http.client switch TCP_NODELAY on after the dial, whatever was set.

**Waiting.** A policy works inside each dial of a client, so it multiplies with the client's own retries. If the client
has other servers to turn to, a dial must not wait for one of them. So redis and valkey refuse a Dialer that waits under
Sentinel and Cluster.

**Other people's guards.** Cassettes (vcrpy), mocks (responses, Mocket), DNS pinning and guards against SSRF replace the
function, method or class by which a library dials. Whoever did so is asked, before and after `protect`: what he put
there makes the connection, under `safedial.guard`. Of the Dialer, *policy* and *on_event* then count, and *timeout* and
*source_address* if the function takes them; for a class that somebody put there, none of them. What can't be asked
raises RuntimeError instead of bypassing him: a safe class of `http.client` or urllib3 that a program makes by itself
while another class is in the library's place, and a Dialer with a *resolver* of its own.

**Errors.** An address that a Dialer refuses, such as a port of 123456, is given to the library's own dial, guarded, so
that its own error is raised. Unless the Dialer has a *resolver*: then its ValueError or TypeError.

**How to write an adapter.** Find the method that returns the library's connected socket, and let a Dialer make that
socket::

    import logging.handlers

    from typing_extensions import override

    from safedial.adapters import TakesDialer, merged

    class SafeSocketHandler(TakesDialer, logging.handlers.SocketHandler):
        @override  # type checkers tell when the library's method goes away
        def makeSocket(self, timeout=1):
            # logging gives no timeout, so the Dialer's comes before this default of a second.
            return merged(self.dialer, timeout, given=False).dial((self.host, self.port))

If there is no such method, or TLS and greetings are in it, put `safedial.wrap` around the library's own dial::

    import ftplib

    import safedial
    from safedial.adapters import DEFAULT, takes_policy

    @takes_policy
    def protect(client, *, policy=DEFAULT):
        if not isinstance(client, ftplib.FTP):
            raise TypeError(f"client must be an ftplib.FTP, not a {type(client).__name__}")
        # A plain dial, then the greeting: a retry begins with a new socket.
        client.connect = safedial.wrap(type(client).connect.__get__(client), policy=policy)
        return client

Mark each private name of the library with a comment that begins with "Private:", and list it in docs/clients.md.
Adapters may import everything but `testing`, `cli` and the plugin.
"""

import contextlib
import functools
from collections.abc import Callable, Generator
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, cast

from safedial._forks import loading

# What a dial needs (see `_forks`), with `wrap`, which some adapters import. No dial needs what else they import.
with loading:
    from safedial._address import shown
    from safedial._clients import wrap as wrap
    from safedial._dial.dialer import Dialer
    from safedial._dial.settings import Timeout
    from safedial._retry.argument import DEFAULT

if TYPE_CHECKING:
    from safedial.adapters import aiohttp, asyncio, http, httpx, redis, requests, socket, sqlalchemy, urllib3, valkey

    __all__ = ["aiohttp", "asyncio", "http", "httpx", "redis", "requests", "socket", "sqlalchemy", "urllib3", "valkey"]

F = TypeVar("F", bound=Callable[..., Any])


def __getattr__(name: str) -> Any:
    """Load an adapter when it is first touched (PEP 562)."""
    module = f"{__name__}.{name}"
    if not name.startswith("_"):
        # Not find_spec() first: it looks twice, and raises KeyError if another thread's import ends meanwhile.
        try:
            return import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# No __dir__: freezegun gets each attribute that dir() lists, of every module, and would load all the libraries. help()
# finds the adapters among the files of the package.


def checked_dialer(dialer: Any) -> Dialer:
    """Return *dialer*, or the default Dialer for None. Raise TypeError for anything else."""
    if dialer is None:
        return TakesDialer.dialer
    if not isinstance(dialer, Dialer):
        hint = "; for a policy give safedial.Dialer(policy=...)" if hasattr(dialer, "wraps") else ""
        raise TypeError(f"dialer must be a safedial.Dialer or None, not {shown(dialer)}{hint}")
    return dialer


def merged(
    dialer: Dialer, timeout: Timeout, *, given: bool, source: Any = None, options: Any = (), defaults: Any = ()
) -> Dialer:
    """Return *dialer* with a client's settings, by the precedence above.

    *timeout* was *given*, or is the library's default. *source* and *options* were given, *defaults* are the library's.
    """
    return replace(
        dialer,
        timeout=timeout if given or dialer.timeout is DEFAULT else dialer.timeout,
        source_address=source or dialer.source_address,
        # The last one that is set wins.
        socket_options=[*defaults, *(dialer.socket_options or ()), *options],
    )


def _takes(right: str, wrong: str, why: str = "") -> Callable[[F], F]:
    def decorate(function: F) -> F:
        @functools.wraps(function)
        def checked(*args: Any, **kwds: Any) -> Any:
            if function.__name__ == "protect" and args[1:]:
                raise TypeError(f"protect() takes one client, and {right} by name")
            if wrong in kwds and (kwds.pop(wrong) is not None or wrong == "policy"):  # policy=None is one round
                name = type(args[0]).__name__ if function.__name__ == "__init__" else function.__name__
                raise TypeError(f"{name}() takes {right}, not {wrong}={why}")
            return function(*args, **kwds)

        return cast("F", checked)

    return decorate


takes_dialer = _takes("dialer=safedial.Dialer(policy=...)", "policy")
takes_policy = _takes("policy=", "dialer", ": the client dials and shakes hands in one call")


class TakesDialer:
    """A mix-in with the argument *dialer*. It comes first among the bases, because some dial in ``__init__``."""

    dialer = Dialer()  # subclasses may set another

    @takes_dialer
    def __init__(self, *args: Any, dialer: Dialer | None = None, **kwds: Any) -> None:
        if dialer is not None:
            self.dialer = checked_dialer(dialer)
        super().__init__(*args, **kwds)


@contextlib.contextmanager
def needs(extra: str) -> Generator[None]:
    """Turn a failed import inside the block into an ImportError that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"safedial.adapters.{extra} needs {error.name}: pip install 'safedial[{extra}]'"
        raise ImportError(message, name=error.name) from error
