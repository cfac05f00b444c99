"""HOST:PORT and [IPv6]:PORT: taken apart, checked and put together. Pure functions; errors are ValueErrors in words."""

import re
import socket

from safedial._address import family_of

_NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?")
_SCOPED = re.compile(r"[^%]+(%[\w.-]+)?")
_NO_HOST = "it has no valid host name"


def split(text: str) -> tuple[str, str]:
    """Return host and port of *text*, unchecked, each empty if it has none."""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")) or ":" not in host:
            raise ValueError("an IPv6 address and a port are written [::1]:80")
        return host, port[1:]
    host, _, port = text.partition(":")
    if ":" in port:
        raise ValueError("an IPv6 address needs brackets: write [::1]:80")
    return host, port


def joined(host: str, port: int) -> str:
    """Return both as `split` takes them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def checked_host(host: str) -> str:
    """Return *host*, if it can be a name or an address."""
    if ":" in host:
        if family_of(host) != socket.AF_INET6 or not _SCOPED.fullmatch(host):
            raise ValueError("it has no valid IPv6 address")
        return host
    try:
        host.encode("idna")  # as the resolver will
    except UnicodeError:
        raise ValueError(_NO_HOST) from None
    if not _NAME.fullmatch(host):
        raise ValueError(_NO_HOST)
    if host.isascii() and host.replace(".", "").isdigit():
        try:
            socket.inet_aton(host)  # 127.1 is one, 10.0.0.256 is none, and no name either
        except OSError:
            raise ValueError("it has no valid IPv4 address") from None
    return host


def checked_port(port: str) -> int:
    """Return the number of *port*.

    The names of services are in /etc/services, which container images lack: what works here would not work there.
    """
    if not (port.isascii() and port.isdigit()):
        raise ValueError("the port must be a number")
    number = int(port) if len(port) <= 5 else 0
    if not 1 <= number <= 65535:
        raise ValueError("the port must be from 1 to 65535")
    return number
