"""The class of the sockets: a program may put another one in `socket.socket`'s place. Pure."""

from functools import lru_cache
from typing import Any

# The modules of the classes whose connect() keeps to non-blocking mode: the stdlib's and gevent's. `patch` replaces the
# method of the stdlib's class, which stays that class's method.
_KNOWN = frozenset({"_socket", "socket", "gevent"})
_METHODS = ("connect", "setblocking", "settimeout")


@lru_cache(maxsize=16)  # spares each asyncio dial a microsecond
def can_be_nonblocking(kind: Any) -> bool:
    """Return whether sockets of the class *kind* connect without waiting if they are told to.

    Of a class with such methods of its own, that is not known. PySocks shakes hands with the proxy in connect(), and
    waits in non-blocking mode for as long as the proxy does; a limit that ``settimeout()`` sets is kept to.
    """
    return all(_module_of(kind, method) in _KNOWN for method in _METHODS)


def _module_of(kind: type, method: str) -> str:
    """Return the top module of the class from which *kind* has *method*."""
    return next((each.__module__.partition(".")[0] for each in kind.__mro__ if method in vars(each)), "")
