"""The settings of a dial: what a Dialer holds, checked before any packet leaves.

A frozen record without state of its own, so that threads, tasks and forked children share it.
"""

import inspect
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypedDict, cast

from safedial._address import AddrInfo, check_host, check_port, pair, seconds
from safedial._retry.argument import DEFAULT, Default, check_policy
from safedial._tcp.steering import IP_LOCAL_PORT_RANGE
from safedial.events import OnEvent

# The stdlib's own mark for "no timeout given", which http.client and friends hand on.
_STDLIB_DEFAULT_TIMEOUT: Final[object] = getattr(socket, "_GLOBAL_DEFAULT_TIMEOUT", DEFAULT)

if TYPE_CHECKING:
    from safedial._retry.argument import Policy

SocketOption: TypeAlias = tuple[int, int, int | bytes]
# Called as socket.getaddrinfo and loop.getaddrinfo are: (host, port, *, family, type, proto, flags).
BlockingResolver: TypeAlias = Callable[..., Iterable[AddrInfo]]
Resolver: TypeAlias = BlockingResolver | Callable[..., Awaitable[Iterable[AddrInfo]]]
Timeout: TypeAlias = float | Literal[Default.DEFAULT] | None


class DialOptions(TypedDict, total=False):
    """The keyword options that every face of safedial takes; `Dialer` explains them."""

    total_timeout: float | None
    socket_options: Iterable[SocketOption] | None
    policy: "Policy | Literal[Default.DEFAULT] | None"
    on_event: OnEvent | None
    steer: bool


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What stays the same from dial to dial; `safedial.Dialer` documents each field."""

    timeout: Timeout = DEFAULT
    total_timeout: float | None = None
    source_address: tuple[str, int] | None = None
    family: int = 0
    socket_options: Iterable[SocketOption] | None = ()
    happy_eyeballs_delay: float | None = 0.25
    resolver: Resolver | None = None
    policy: "Policy | Literal[Default.DEFAULT] | None" = DEFAULT
    on_event: OnEvent | None = None
    steer: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "timeout", checked_timeout(self.timeout))
        for name in ("total_timeout", "happy_eyeballs_delay"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, seconds(name, value))
        check_source(self.source_address)
        check_family(self.family)
        options = _checked_options(self.socket_options)
        object.__setattr__(self, "socket_options", options)
        if self.resolver is not None and not callable(self.resolver):
            raise TypeError(f"resolver must be callable or None, not {self.resolver!r}")
        check_policy(self.policy)
        check_on_event(self.on_event)
        if not isinstance(self.steer, bool):
            raise TypeError(f"steer must be True or False, not {self.steer!r}")
        if any(option[:2] == (socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE) for option in options):
            object.__setattr__(self, "steer", False)  # the caller narrowed the range himself


def check_options(face: str, options: Mapping[str, object], known: Mapping[str, object]) -> None:
    """Raise TypeError where *options* has one that *face* does not take."""
    for name in options:
        if name not in known:
            others = ", ".join(sorted(known))
            raise TypeError(f"{face}() got an unexpected keyword argument {name!r}; it also takes {others}")


def checked_timeout(timeout: Any) -> Timeout:
    """Return *timeout*, or raise TypeError or ValueError where it is no time."""
    if timeout is DEFAULT or timeout is _STDLIB_DEFAULT_TIMEOUT:
        return DEFAULT
    return None if timeout is None else seconds("timeout", timeout)


def check_source(source: Any) -> None:
    """Raise TypeError or ValueError where *source* is nothing that ``bind()`` takes."""
    if not source:
        return  # the stdlib takes any false value for "not given"
    if not issubclass(source.__class__, tuple):
        raise TypeError(f"source_address must be a (host, port) tuple, not {source!r}")
    # An IPv6 source may have its flow label and scope too, as bind() takes them.
    host, port = pair(source[:2], "source_address")
    if host is None or not isinstance(port, int):
        raise TypeError(f"source_address must be a host and an int, not {source!r}")
    check_host(host, "source_address")
    check_port(port, "source_address")


def check_family(family: Any) -> None:
    """Raise TypeError or ValueError where *family* is not an IP family or 0."""
    if isinstance(family, bool) or not isinstance(family, int):
        raise TypeError(f"family must be AF_INET, AF_INET6 or 0, not {family!r}")
    if family not in (socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6):
        raise ValueError(f"family must be AF_INET, AF_INET6 or 0, not {family!r}")


def check_on_event(on_event: Any) -> None:
    """Raise TypeError where *on_event* can't be called, or would have to be awaited."""
    if on_event is not None and not callable(on_event):
        raise TypeError(f"on_event must be callable or None, not {on_event!r}")
    if inspect.iscoroutinefunction(on_event):
        raise TypeError(f"on_event is called, not awaited: {on_event!r} is a coroutine function")


def _checked_options(options: Any) -> tuple[SocketOption, ...]:
    if options is None:
        return ()  # urllib3's word for none
    if isinstance(options, str | bytes) or not isinstance(options, Iterable):
        raise TypeError(f"socket_options must be an iterable of (level, option, value), not {options!r}")
    found: list[SocketOption] = []
    for option in cast("list[Any]", options):
        if not isinstance(option, tuple | list) or len(cast("Sequence[Any]", option)) != 3:
            raise TypeError(f"socket_options: each must be (level, option, value), not {option!r}")
        level, number, value = cast("Sequence[Any]", option)
        if not (isinstance(level, int) and isinstance(number, int) and isinstance(value, int | bytes)):
            raise TypeError(f"socket_options: the arguments of setsockopt() are int, int, int or bytes, not {option!r}")
        if isinstance(value, int) and not -(2**31) <= value < 2**31:
            raise ValueError(f"socket_options: {value} is no C int; give it as bytes, struct.pack('=I', {value})")
        found.append((level, number, value))
    return tuple(found)
