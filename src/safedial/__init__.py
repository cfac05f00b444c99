"""Dial TCP safely: never connected to yourself, not stopped by a passing EADDRNOTAVAIL.

`safe_connect` is a superset of `socket.create_connection`, `open_connection` of
`asyncio.open_connection`. What is imported here loads neither asyncio, ssl nor tenacity; those
come when they are first needed.
"""

from typing import TYPE_CHECKING, Any

from safedial.dialer import Dialer, safe_connect
from safedial.errors import PortsExhaustedError, PortUsage, SelfConnectError
from safedial.events import DialEvent
from safedial.selfconnect import is_self_connected

if TYPE_CHECKING:
    from safedial.policy import reconnect, redial, retry_if_spurious, retry_if_transient
    from safedial.streams import create_connection, open_connection

__version__ = "0.1.0"

__all__ = [
    "DialEvent",
    "Dialer",
    "PortUsage",
    "PortsExhaustedError",
    "SelfConnectError",
    "create_connection",
    "is_self_connected",
    "open_connection",
    "reconnect",
    "redial",
    "retry_if_spurious",
    "retry_if_transient",
    "safe_connect",
]

_LATE = {
    "create_connection": "streams",
    "open_connection": "streams",
    "reconnect": "policy",
    "redial": "policy",
    "retry_if_spurious": "policy",
    "retry_if_transient": "policy",
}


def __getattr__(name: str) -> Any:
    """Load what needs asyncio or tenacity on first use (PEP 562)."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
