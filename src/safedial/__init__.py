"""Dial TCP safely: never connected to yourself, not stopped by a passing EADDRNOTAVAIL.

`safe_connect` is a superset of `socket.create_connection`, `open_connection` of `asyncio.open_connection`.

What a dial needs is loaded here: an import in a thread that dials would hang a child that is forked meanwhile. asyncio,
ssl and tenacity are heavy, so the names that need them are loaded when they are first used (PEP 562).
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

from safedial._clients.guard import guard, is_guarded
from safedial._clients.hold import hold
from safedial._clients.install import install, uninstall
from safedial._clients.wrap import wrap
from safedial._dial.dialer import Dialer, safe_connect
from safedial._forks import loading as _loading
from safedial._tcp.selfconnect import is_self_connected
from safedial.errors import PortsExhaustedError, PortUsage, SelfConnectError
from safedial.events import DialEvent

if TYPE_CHECKING:
    from safedial import adapters as adapters
    from safedial._connections import connections
    from safedial._dial.streams import open_connection
    from safedial._retry.policies import reconnect, redial, retry_if_spurious, retry_if_transient

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

_LATE = {
    "connections": "_connections",
    "open_connection": "_dial.streams",
    "reconnect": "_retry.policies",
    "redial": "_retry.policies",
    "retry_if_spurious": "_retry.policies",
    "retry_if_transient": "_retry.policies",
}


def __getattr__(name: str) -> Any:
    """Load *name* when it is first used."""
    if name == "adapters":  # not inside of _loading, which its own import may take
        return _import_module(f"{__name__}.adapters")
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _loading:
        value = globals()[name] = getattr(_import_module(f"{__name__}.{_LATE[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
