"""What to wait for: HOST:PORT, [::1]:80, unix:/path, a URL, or the variable that has one of these.

Of a URL only the address counts, and of http:// the path. User, password and query are dropped before anything else is
looked at: neither a name nor an error can show them.
"""

import re
import socket
import string
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

from safedial._address import printable
from safedial.cli.wait.host_port import checked_host, checked_port, joined, split
from safedial.cli.wait.schemes import HTTP, PORTS, POSTGRES, SERVERLESS, TLS

# What the query of a URL may say about the address: libpq's names, and the MySQL drivers' for a Unix socket.
_ASKED = frozenset({"host", "hostaddr", "port", "unix_socket"})

_LIST = "it has several hosts: give each host as a target of its own, with --any if one of them is enough"
# Scheme, host and port, path, query, fragment with its "#" (RFC 3986, appendix B). urlsplit() would quote passwords in
# its errors.
_URL = re.compile(r"(?:jdbc:)?([\w${}+.-]+)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))", re.ASCII)
# What an error may show of a target that is no URL.
_HARMLESS = re.compile(r"[\w.:\[\]%${}-]+")


@dataclass(frozen=True)
class Target:
    """One server. Either *path* is given (AF_UNIX), or *host* and *port*; *host* is empty for every address here."""

    name: str  # as the user gave it, without user, password and query: for the report
    host: str = ""
    port: int = 0
    path: str = ""
    # What the scheme of a URL asks for, beyond an accepted connection.
    tls: bool = False
    http: str | None = None  # the path and query of a GET


def parse(text: str, environ: Mapping[str, str], *, here: str = "localhost") -> Target:
    """Return the target that *text* means. ``$NAME`` and ``${NAME}`` are read from *environ*.

    *here* is the host of a port alone; empty for every address of this host.

    A program that starts without a shell, such as the ENTRYPOINT of a container image, gets them unexpanded.

    Raises:
        ValueError: it means none. The message shows no password, and no value of a variable.
    """
    text = text.strip()
    try:
        # Once before the variables are read, because a password may have a "$", and once for what they have.
        expanded = _without_login(_expanded(_without_login(text), environ).strip())
        if not expanded.isprintable():
            raise ValueError("it has a line break or another control character")
        if expanded[:1] in ('"', "'"):  # as docker's --env-file has it
            raise ValueError("it has quotes around it, which no shell has taken away: leave them out")
        if expanded.startswith("unix:") and not expanded.startswith("unix://"):
            return _unix(expanded.removeprefix("unix:").partition("?")[0])
        if (url := _URL.fullmatch(expanded)) is not None:
            return _of_url(url, environ)
        return _plain(expanded, here)
    except ValueError as error:
        raise ValueError(f"{_label(text)}: {error}") from None


def _label(text: str) -> str:
    """Return as much of *text* as may be shown, before its variables are read."""
    if (match := _URL.match(text)) is not None:
        return f"{printable(match[1])}://..."
    return text if _HARMLESS.fullmatch(text) else "a target"


def _expanded(text: str, environ: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if found := environ.get(name):
            return found
        before = text[: match.start()]
        is_piece = before[-1:].isalnum() or "?" in before or "@" in text  # it may be one of a password or a token
        which = "a variable" if is_piece else f"the variable {name}"
        raise ValueError(f"{which} is {'empty' if name in environ else 'not set'}")

    if "$$" in text.partition("?")[0]:
        raise ValueError("write one $ before the name: only a compose file makes one of two")
    left = _VARIABLE.sub("", text.partition("?")[0])
    if "${" in left or "$(" in left:  # Kubernetes leaves $(NAME) as it is if it knows no NAME
        raise ValueError("only $NAME and ${NAME} are read from the environment")
    return _VARIABLE.sub(value, text)


def _without_login(text: str) -> str:
    """Return *text*, if it is a URL, without user and password, and with no more of its query than may be looked at."""
    match = _URL.fullmatch(text)
    if match is None:
        return text
    scheme, place, path, query, fragment = match[1], match[2], match[3], match[4] or "", match[5] or ""
    _, at, place = place.rpartition("@")
    is_http = scheme.lower().partition("+")[0] in HTTP
    # A password with a "/" in it would end the host there. Only a path or a query of HTTP may have an "@" of its own.
    if is_http and not at:
        stray = path.replace("/@", "") + ("" if path else query) + fragment
    else:
        stray = path + query + fragment
    if place.endswith(":") and path.startswith("//"):
        raise ValueError(_LIST)  # such as http://a,http://b
    if scheme.lower() == "sqlserver" and ";" in text:
        raise ValueError('what follows a ";" is not read: write HOST:PORT')
    if "@" in stray:
        raise ValueError(
            "it has an @ behind its host. In a user or password, write @ as %40, / as %2F, ? as %3F and # as %23"
        )
    if not is_http:
        query = "&".join(part for part in query.split("&") if part.partition("=")[0] in _ASKED)
    return f"{scheme}://{place}{path}" + (f"?{query}" if query else "")


def _of_url(url: re.Match[str], environ: Mapping[str, str]) -> Target:
    scheme, _, driver = url[1].lower().partition("+")
    place, path, query = url[2], url[3], url[4] or ""
    if scheme in SERVERLESS:
        raise ValueError(SERVERLESS[scheme])
    if driver == "srv":
        raise ValueError("its hosts are in the DNS (SRV): give each host as a target of its own")
    asked = {name: unquote(value) for name, _, value in (part.partition("=") for part in query.split("&")) if value}
    if "," in place:
        raise ValueError(_LIST)
    if scheme == "unix" or driver in ("unix", "socket"):  # redis-py's, kombu's, and requests-unixsocket's
        if scheme in HTTP:
            if not unquote(place).startswith("/"):
                raise ValueError(f"the path of a Unix socket comes first, and is quoted: {scheme}://%2Fpath")
            return _unix(unquote(place), request(path, query))
        if place:
            raise ValueError(f"the path of a Unix socket begins with a slash: write {scheme}:///path")
        return _unix(unquote(path))
    if scheme in ("mysql", "mariadb") and "unix_socket" in asked:
        return _unix(asked["unix_socket"])
    host, port = split(place)
    host = unquote(host)
    number = PORTS.get(scheme, 0)
    if scheme in POSTGRES:  # https://www.postgresql.org/docs/current/libpq-connect.html
        host = asked.get("hostaddr") or asked.get("host") or host or environ.get("PGHOST", "")
        port = asked.get("port") or port or environ.get("PGPORT", "")
        if not host:
            raise ValueError("it has no host, and libpq would try several Unix sockets: write localhost, or ?host=")
        if "," in host or "," in port:
            raise ValueError(_LIST)
        if host.startswith(("/", "@")):
            return _unix(f"{host}/.s.PGSQL.{checked_port(port) if port else number}")
    if not port and not number:
        raise ValueError("it has no port, and safedial knows none for such a URL")
    number = checked_port(port) if port else number
    host = checked_host(host or "localhost")
    http = request(path, query) if scheme in HTTP else None
    name = f"{scheme}://{joined(host, number)}" + (http or "").partition("?")[0]
    return Target(printable(name), host, number, tls=scheme in TLS, http=http)


def request(path: str, query: str = "") -> str:
    """Return *path* and *query* as a request has them: printable ASCII, without spaces."""
    text = (path or "/") + (f"?{query}" if query else "")
    return quote(text, safe=string.punctuation, errors="surrogateescape")  # an argument may be no UTF-8


def _plain(text: str, here: str) -> Target:
    if "," in text:
        raise ValueError(_LIST)
    if "@" in text:
        raise ValueError("a user is only in a URL, such as redis://user@host:6379")
    if text.startswith("/"):
        raise ValueError("a Unix socket is written unix:/path")
    if text.isdigit():
        return _tcp(here, text)
    host, port = split(text)
    if not host and not port:
        raise ValueError("it has no host and no port: is a variable of the shell not set?")
    if not port:
        raise ValueError("it has no port: write HOST:PORT, such as db:5432")
    return _tcp(host or here, port)


def _tcp(host: str, port: str) -> Target:
    host, number = checked_host(host) if host else "", checked_port(port)
    return Target(joined(host, number), host, number)


def _unix(path: str, http: str | None = None) -> Target:
    if not hasattr(socket, "AF_UNIX"):
        raise ValueError("Python has no Unix sockets on this system")
    if path.startswith("@"):
        raise ValueError("an abstract Unix socket can't be waited for")
    if not path or not path.isprintable():
        raise ValueError("a Unix socket is written unix:/path, in printable characters")
    return Target(f"unix:{path}", path=path, http=http)
