"""Dial TCP safely: never connected to yourself, not stopped by a passing EADDRNOTAVAIL.

`safe_connect` is a superset of `socket.create_connection`, `open_connection` of `asyncio.open_connection`.

Each public name is loaded when it is first used (PEP 562), and with it all that its dials need: an import in a thread
that dials would hang a child that is forked meanwhile. Only what is heavy and seldom needed comes later: asyncio, ssl
and tenacity.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

from safedial._forks import loading as _loading

if TYPE_CHECKING:
    from safedial import adapters as adapters
    from safedial import errors as errors
    from safedial import events as events
    from safedial._clients.guard import guard, is_guarded
    from safedial._clients.hold import hold
    from safedial._clients.install import install, uninstall
    from safedial._clients.wrap import wrap
    from safedial._connections import connections
    from safedial._dial.dialer import Dialer, safe_connect
    from safedial._dial.streams import open_connection
    from safedial._retry.policies import reconnect, redial, retry_if_spurious, retry_if_transient
    from safedial._tcp.selfconnect import is_self_connected
    from safedial.errors import PortsExhaustedError, PortUsage, SelfConnectError
    from safedial.events import DialEvent

__version__ = "0.1.0"

__all__ = [
    "DialEvent",
    "Dialer",
    "PortUsage",
    "PortsExhaustedError",
    "SelfConnectError",
    "connections",
    "guard",
    "hold",
    "install",
    "is_guarded",
    "is_self_connected",
    "open_connection",
    "reconnect",
    "redial",
    "retry_if_spurious",
    "retry_if_transient",
    "safe_connect",
    "uninstall",
    "wrap",
]

# By the module that they are in.
_NAMES = {
    "_clients.guard": ("guard", "is_guarded"),
    "_clients.hold": ("hold",),
    "_clients.install": ("install", "uninstall"),
    "_clients.wrap": ("wrap",),
    "_connections": ("connections",),
    "_dial.dialer": ("Dialer", "safe_connect"),
    "_dial.streams": ("open_connection",),
    "_retry.policies": ("reconnect", "redial", "retry_if_spurious", "retry_if_transient"),
    "_tcp.selfconnect": ("is_self_connected",),
    "errors": ("PortUsage", "PortsExhaustedError", "SelfConnectError"),
    "events": ("DialEvent",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load *name* when it is first used."""
    if name == "adapters":  # not inside of _loading, which its own import takes
        return _import_module(f"{__name__}.adapters")
    if name in ("errors", "events"):
        with _loading:
            return _import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _loading:
        try:
            value = globals()[name] = getattr(_import_module(f"{__name__}.{_HOMES[name]}"), name)
        except AttributeError as error:  # which `from safedial import ...` and hasattr() would hide
            raise ImportError(f"safedial.{name} can't be loaded: {error}") from error
    return value


# freezegun gets each attribute that dir() lists, of every module. So the submodules come when they are loaded: the
# adapters would load all their libraries. The public names stay, because help() and completion would lack them. They
# cost the first freeze 0.2 s.
def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
