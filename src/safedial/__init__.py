"""Dial TCP safely: never connected to yourself, not stopped by a passing EADDRNOTAVAIL.

`safe_connect` is a superset of `socket.create_connection`, `open_connection` of `asyncio.open_connection`. Each name is
loaded when it is first needed (PEP 562), so that a program loads asyncio, ssl and tenacity only if it uses them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safedial import adapters as adapters
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

_HOMES = {
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


def __getattr__(name: str) -> Any:
    """Load *name* when it is first used."""
    from importlib import import_module

    if name == "adapters":
        return import_module(f"{__name__}.adapters")
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
