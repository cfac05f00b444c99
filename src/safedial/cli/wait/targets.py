"""What to wait for: HOST:PORT, [::1]:80, unix:/path, a URL, or the variable that has one of these."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One server. Either *path* is given (AF_UNIX), or *host* and *port*."""

    name: str  # as the user gave it, without user, password and query: for the report
    host: str = ""
    port: int = 0
    path: str = ""
    # What the scheme of a URL asks for, beyond an accepted connection.
    tls: bool = False
    http: str | None = None  # the path and query of a GET
