"""Addresses: checked arguments, numeric hosts, equal endpoints; and values in words, without secrets and control
characters. Pure functions. Imports nothing of safedial.
"""

import contextlib
import itertools
import math
import operator
import socket
import threading
import types
from collections.abc import Container, Sequence
from functools import lru_cache
from typing import Any, SupportsIndex, TypeAlias, cast

Host: TypeAlias = str | bytes | None
Port: TypeAlias = int | str | None
Address: TypeAlias = tuple[Host, Port]
SockAddr: TypeAlias = tuple[Any, ...]
AddrInfo: TypeAlias = tuple[int, int, int, str, SockAddr]

INET = (socket.AF_INET, socket.AF_INET6)
V4_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 section 2.5.5.2
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)
# The longest timeout that Python's clocks take, in seconds: 292 years, on Windows 49 days.
MAX_SECONDS = threading.TIMEOUT_MAX


def printable(text: str) -> str:
    """Return *text* with each character escaped that could forge or hide a line of a log or terminal.

    Such as line breaks, ESC, the C1 controls, bidirectional overrides and lone surrogates (`str.isprintable`).
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def shown(value: object) -> str:
    """Show *value* in an error message: small numbers as they are, anything else by its kind.

    A string may be a URL with a password, and so may what is in a container or a `functools.partial`.
    """
    kind = type(value)
    if value is None or kind in (bool, float) or (isinstance(value, int) and kind is int and abs(value) < 2**64):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    if isinstance(value, _FUNCTIONS):
        return f"the function {value.__qualname__}"
    article = "an" if kind.__name__[0] in "aeiouAEIOU" else "a"
    size = f" of {len(cast('tuple[Any, ...]', value))}" if isinstance(value, tuple | list) else ""
    return f"{article} {kind.__name__}{size}"


def pair(address: Any, name: str = "address") -> tuple[Any, Any]:
    """Return *address* as (host, port), or raise TypeError or ValueError naming *name*."""
    try:
        if isinstance(address, (str, bytes)):  # faster than str | bytes, which is built at each call
            raise TypeError
        host, port = address
    except (TypeError, ValueError) as error:
        raise type(error)(f'{name} must be a pair, such as ("127.0.0.1", 6379), not {shown(address)}') from None
    return host, port


def check_host(host: Any, name: str = "host") -> None:
    """Raise TypeError or ValueError naming *name* if *host* can't be a host."""
    if not isinstance(host, str | bytes | None):
        raise TypeError(f"{name}: the host must be str, bytes or None, not {shown(host)}")
    if host and ("\0" in host if isinstance(host, str) else 0 in host):
        raise ValueError(f"{name}: the host must not contain a null character")


def check_port(port: Any, name: str = "port") -> None:
    """Raise TypeError or ValueError naming *name* if *port* can't be a port or a service name."""
    if port is None:
        return
    if isinstance(port, bool) or not isinstance(port, int | str | bytes):
        raise TypeError(f"{name}: the port must be an int, a service name or None, not {shown(port)}")
    if isinstance(port, str | bytes):
        if not (port.isascii() and port.isdigit()):
            return  # the resolver judges service names
        port = int(port)
    if not 0 <= port <= 65535:
        raise ValueError(f"{name}: the port must be from 0 to 65535, not {shown(port)}")


def seconds(name: str, value: Any) -> float:
    """Return *value*, a time in seconds, or raise TypeError or ValueError naming *name*."""
    # The plain types come first: isinstance(value, SupportsIndex) costs a third of a dial.
    if type(value) is not int and type(value) is not float:
        # socket.settimeout() takes any object with __index__() too, but not Decimal.
        if isinstance(value, type | bool) or not isinstance(value, float | SupportsIndex):
            wanted = "a number of seconds" if name in ("within", "stable_after") else "a number of seconds or None"
            hint = "; give its total_seconds()" if hasattr(value, "total_seconds") else ""
            raise TypeError(f"{name} must be {wanted}, not {shown(value)}{hint}")
        value = value if isinstance(value, float) else operator.index(value)
    if 0 <= value <= MAX_SECONDS:  # false for NaN
        number: float = value
        return number
    hint = "; use None to wait without limit" if value == math.inf and "timeout" in name else ""
    raise ValueError(f"{name} must be from 0 to {MAX_SECONDS:.0f} seconds, not {shown(value)}{hint}")


# Each dial calls this first. typed=True, or the port 80.0 would be taken for the cached port 80.
@lru_cache(maxsize=1024, typed=True)
def numeric(host: Host, port: Port, family: int) -> tuple[AddrInfo, ...]:
    """Check *host* and *port*; return getaddrinfo's answer if both are numbers, else ().

    Short IPv4 (``127.1``), scoped IPv6 (``fe80::1%eth0``) and a host of another *family* are left to the resolver.
    """
    check_host(host)
    check_port(port)
    if not isinstance(host, str) or not isinstance(port, int):
        return ()
    guess = socket.AF_INET6 if ":" in host else socket.AF_INET
    if family not in (0, guess) or "%" in host:
        return ()
    try:
        socket.inet_pton(guess, host)
    except (OSError, ValueError):
        return ()
    sockaddr = (host, port) if guess == socket.AF_INET else (host, port, 0, 0)
    return ((guess, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", sockaddr),)


def checked(address: Any, family: int) -> tuple[Host, Port, tuple[AddrInfo, ...]]:
    """Return the checked host and port of *address*, and the answer of `numeric` for them."""
    plain = address.__class__ is tuple and len(address) == 2  # spares most dials a call
    host, port = address if plain else pair(address)
    try:
        return host, port, numeric(host, port, family)
    except (TypeError, ValueError):
        check_host(host, "address")
        check_port(port, "address")
        raise


def of_families(infos: Sequence[AddrInfo], families: Container[int]) -> Sequence[AddrInfo]:
    """Return the *infos* whose family is in *families*."""
    return [info for info in infos if info[0] in families]


def as_text(host: str | bytes | bytearray) -> str:
    """Return *host* as text: the socket module takes bytes and a bytearray, too."""
    return host if isinstance(host, str) else host.decode(errors="replace")


def family_of(host: str | bytes | bytearray) -> int:
    """Return the address family of a numeric *host*, 0 for a name."""
    text = as_text(host)
    for family in INET:
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, text.partition("%")[0])
            return family
    return 0


def same_endpoint(local: SockAddr, peer: SockAddr) -> bool:
    """Return whether two socket addresses have the same port, address (IPv4-mapped or not) and scope.

    Scopes are compared only if both have one: link-local addresses of two interfaces are different endpoints.
    """
    if local[1] != peer[1] or _packed(local[0]) != _packed(peer[0]):
        return False
    scopes = {each[3] for each in (local, peer) if len(each) > 3 and each[3]}
    return len(scopes) < 2


def _packed(host: str) -> bytes:
    address = host.partition("%")[0]  # the kernel adds %interface to link-local addresses
    if ":" not in address:
        return socket.inet_pton(socket.AF_INET, address)
    packed = socket.inet_pton(socket.AF_INET6, address)
    return packed[12:] if packed.startswith(V4_MAPPED) else packed


def interleave(infos: Sequence[AddrInfo], first_family_count: int) -> Sequence[AddrInfo]:
    """Let families alternate (RFC 8305 section 4) after *first_family_count* addresses of one. 0 keeps the order."""
    if not first_family_count:
        return infos
    families: dict[int, list[AddrInfo]] = {}
    for info in infos:
        families.setdefault(info[0], []).append(info)
    first, *others = families.values() or [[]]
    lead = first[: first_family_count - 1]
    turns = itertools.zip_longest(first[len(lead) :], *others)
    return lead + [info for turn in turns for info in turn if info is not None]


def describe(host: object, port: object) -> str:
    """Return *host* and *port* in words: ``127.0.0.1 port 5432``."""
    if host.__class__ is str and port.__class__ is int:
        plain = f"{host} port {port}"
        if host and "@" not in plain and plain.isprintable():  # as it nearly always is; a refused dial asks twice
            return plain
    return f"{worded(host)} port {_text(port)}"


def worded(host: object) -> str:
    """Return *host* in words, as it may stand in a log. Of what was meant to be a URL, the password is left out."""
    if host is None:
        return "localhost"
    secret, at, rest = _text(host).rpartition("@")
    return f"…@{rest}" if secret and at else rest or "''"


def _text(value: object) -> str:
    return printable(as_text(value) if isinstance(value, bytes | bytearray) else str(value))
