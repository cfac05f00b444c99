"""Addresses that only a file has: libpq's service file, and the option files of MySQL's and MariaDB's C libraries.

Read as far as hosts and ports are concerned. What is wrong with a file is the driver's to report.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

# https://dev.mysql.com/doc/refman/8.4/en/option-files.html
_OPTION_FILES = ("/etc/my.cnf", "/etc/mysql/my.cnf", "~/.my.cnf")
# What mysql_options() reads in them (MariaDB's has more than MySQL's).
_GROUPS = ("client", "client-server", "client-mariadb")


def service(params: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters of the service that *params* or PGSERVICE names (PostgreSQL's manual, section 34.17)."""
    name = params.get("service") or os.environ.get("PGSERVICE")
    if not name:
        return {}
    own = os.environ.get("PGSERVICEFILE") or "~/.pg_service.conf"
    system = os.environ.get("PGSYSCONFDIR") or "/etc/postgresql-common"  # Debian's
    for path in (own, f"{system}/pg_service.conf"):
        if found := _read(path, (name,)):
            return found
    return {}


def mysql_options(file: str | None, group: str | None) -> dict[str, str]:
    """Return the options that a client reads for ``read_default_file`` and ``read_default_group``."""
    options: dict[str, str] = {}
    for path in [file] if file else _OPTION_FILES if group else ():
        options |= _read(path, (*_GROUPS, group))
    return options


def _read(path: str, sections: Iterable[str | None]) -> dict[str, str]:
    """Return the values of *sections*, without spaces and quotes around them."""
    values: dict[str, str] = {}
    section = None
    with contextlib.suppress(OSError), open(os.path.expanduser(path), encoding="utf-8", errors="replace") as file:
        for line in map(str.strip, file):
            if line.startswith("["):
                section = line.strip("[]")
            elif section in sections and "=" in line and not line.startswith(("#", ";")):
                name, _, value = line.partition("=")
                values[name.strip()] = value.strip().strip("\"'")
    return values
