"""The settings of a dial, checked before any packet leaves."""

import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias, TypedDict

from safedial._address import AddrInfo, check_host, check_port, describe, pair, seconds, shown
from safedial._retry.argument import DEFAULT, Default, PolicyArgument, check_policy
from safedial._tcp.steering import IP_LOCAL_PORT_RANGE
from safedial.events import OnEvent, check_hook

# The stdlib's own mark for "no timeout given". http.client and others pass it on.
_STDLIB_DEFAULT_TIMEOUT: Final[object] = getattr(socket, "_GLOBAL_DEFAULT_TIMEOUT", DEFAULT)

SocketOption: TypeAlias = tuple[int, int, int | bytes]
# Called like socket.getaddrinfo and loop.getaddrinfo: (host, port, *, family, type, proto, flags).
BlockingResolver: TypeAlias = Callable[..., Iterable[AddrInfo]]
Resolver: TypeAlias = BlockingResolver | Callable[..., Awaitable[Iterable[AddrInfo]]]
Timeout: TypeAlias = float | Literal[Default.DEFAULT] | None


class DialOptions(TypedDict, total=False):
    """The keyword options of every dialing function. `Dialer` documents them."""

    total_timeout: float | None
    socket_options: Iterable[SocketOption] | None
    happy_eyeballs_delay: float | None
    policy: PolicyArgument
    on_event: OnEvent | None
    steer: bool


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """The settings that dials share. `safedial.Dialer` documents each field."""

    timeout: Timeout = DEFAULT
    total_timeout: float | None = None
    source_address: tuple[str, int] | None = None
    family: int = 0
    socket_options: Iterable[SocketOption] | None = ()
    happy_eyeballs_delay: float | None = 0.25
    resolver: Resolver | None = None
    policy: PolicyArgument = DEFAULT
    on_event: OnEvent | None = None
    steer: bool = True
    # Whether the dial sets SO_REUSEADDR: not if *socket_options* does.
    lets_servers_bind: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.__dict__.update(Settings.of("Dialer", {name: getattr(self, name) for name in _CHECKS}).__dict__)

    def __repr__(self) -> str:
        """Show what differs from the defaults, without what may be a secret; see `shown`."""
        given = {name: getattr(self, name) for name in _CHECKS if getattr(self, name) != getattr(Settings, name)}
        if source := given.get("source_address"):
            given["source_address"] = describe(*source[:2])
        if "family" in given:
            given["family"] = socket.AddressFamily(self.family).name
        words = {name: value if isinstance(value, str) else shown(value) for name, value in given.items()}
        return f"{type(self).__name__}({', '.join(f'{name}={word}' for name, word in words.items())})"

    @classmethod
    def of(cls, function: str, options: Mapping[str, Any]) -> Self:
        """Return the settings of one call of *function*: its *options*, checked, and the defaults.

        Faster than calling the class, which sets and checks every field. The defaults are class attributes.
        """
        settings = object.__new__(cls)
        given = settings.__dict__
        for name, value in options.items():
            if name not in _CHECKS:
                raise TypeError(unexpected(function, name, _CHECKS))
            given[name] = _CHECKS[name](value)
        for option in given.get("socket_options", ()):
            if option[:2] == (socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE):
                given["steer"] = False  # the caller narrows the range
            elif option[:2] == (socket.SOL_SOCKET, socket.SO_REUSEADDR):
                given["lets_servers_bind"] = False
        return settings


def unexpected(function: str, name: str, known: Iterable[str]) -> str:
    """Return the message of the TypeError for a keyword argument *name* that *function* does not take."""
    if name == "dialer":
        return f"{function}() takes no dialer: use its methods, dialer.dial(address) or dialer.dial_async(address)"
    return f"{function}() got an unexpected keyword argument {name!r}; it takes {', '.join(sorted(known))}"


def checked_timeout(timeout: Any) -> Timeout:
    """Return *timeout*, or raise TypeError or ValueError if it is not a time."""
    if timeout is None or timeout is DEFAULT:
        return timeout
    return DEFAULT if timeout is _STDLIB_DEFAULT_TIMEOUT else seconds("timeout", timeout)


def check_source(source: Any) -> Any:
    """Return *source*, or raise TypeError or ValueError if ``bind()`` would not take it."""
    if not source:
        return source  # the stdlib takes any false value for "not given"
    if not issubclass(source.__class__, tuple):
        raise TypeError(f"source_address must be a (host, port) tuple, not {shown(source)}")
    # bind() takes the flow label and scope of an IPv6 source too.
    host, port = pair(source[:2], "source_address")
    if host is None or not isinstance(port, int):
        raise TypeError(f"source_address must be a (host, port) tuple with an int as its port, not {shown(source)}")
    check_host(host, "source_address")
    check_port(port, "source_address")
    return source


def check_family(family: Any) -> Any:
    """Return *family*, or raise TypeError or ValueError if it is not an IP family or 0."""
    if isinstance(family, bool) or not isinstance(family, int):
        raise TypeError(f"family must be AF_INET, AF_INET6 or 0, not {shown(family)}")
    if family not in (socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6):
        raise ValueError(f"family must be AF_INET, AF_INET6 or 0, not {shown(family)}")
    return family


def _check(name: str, wanted: str, valid: Callable[[Any], bool], value: Any) -> Any:
    if not valid(value):
        raise TypeError(f"{name} must be {wanted}, not {shown(value)}")
    return value


def _checked_seconds(name: str, value: Any) -> float | None:
    return None if value is None else seconds(name, value)


def _checked_socket_options(options: Any) -> tuple[SocketOption, ...]:
    if options is None:
        return ()  # urllib3's default
    if isinstance(options, str | bytes) or not hasattr(options, "__iter__"):
        raise TypeError(f"socket_options must be an iterable of (level, option, value), not {shown(options)}")
    found: list[SocketOption] = []
    for option in options:
        match option:
            case [int() as level, int() as number, (int() | bytes()) as value]:
                found.append((level, number, value))
            case _:
                raise TypeError(
                    f"socket_options: each must be (level, option, value): ints, or bytes as value; not {shown(option)}"
                )
        if isinstance(value, int) and not -(2**31) <= value < 2**31:
            raise ValueError(f"socket_options: {value} does not fit in a C int; give it as bytes")
    return tuple(found)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "timeout": checked_timeout,
    "total_timeout": partial(_checked_seconds, "total_timeout"),
    "source_address": check_source,
    "family": check_family,
    "socket_options": _checked_socket_options,
    "happy_eyeballs_delay": partial(_checked_seconds, "happy_eyeballs_delay"),
    "resolver": partial(_check, "resolver", "callable or None", lambda value: value is None or callable(value)),
    "policy": check_policy,
    "on_event": check_hook,
    "steer": partial(_check, "steer", "True or False", lambda value: isinstance(value, bool)),
}
