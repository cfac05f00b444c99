"""Database drivers: the addresses that they dial, found in their arguments and in PGHOST and the like."""

import functools
import importlib
import itertools
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast
from urllib.parse import parse_qs, unquote

from safedial._address import Address
from safedial._clients.factories import Finder, packages_of
from safedial._clients.option_files import service


def finder_for(factory: Any) -> Finder | None:
    """Return the finder for the arguments of *factory*, None for an unknown driver."""
    if isinstance(factory, functools.partial):
        find = finder_for(factory.func)
        return find and functools.partial(find, *factory.args, **factory.keywords)
    return next((FINDERS[package] for package in packages_of(factory) if package in FINDERS), None)


def no_addresses(*_: Any, **__: Any) -> Iterable[Address]:
    """Find nothing: the guard is enough for a client that dials in Python."""
    return ()


def _mysql(*args: Any, **kwds: Any) -> Iterable[Address]:
    # mysql-connector may have more servers to fall back on.
    for server in (kwds, *(kwds.get("failover") or ())):
        if not server.get("unix_socket"):
            yield server.get("host") or (args[0] if args else "localhost"), server.get("port") or 3306


def _psycopg(conninfo: str = "", *_: Any, **kwds: Any) -> Iterable[Address]:
    from psycopg.conninfo import conninfo_to_dict

    return _libpq(conninfo_to_dict(conninfo, **kwds))


def _psycopg2(dsn: str | None = None, *_: Any, **kwds: Any) -> Iterable[Address]:
    extensions: Any = importlib.import_module("psycopg2.extensions")  # its types are in a package of their own
    return _libpq(extensions.parse_dsn(dsn or "") | {name: value for name, value in kwds.items() if value is not None})


# The authority and the query of RFC 3986, appendix B. urlsplit() of newer Pythons takes no list of hosts that has an
# IPv6 address in it.
_URL = re.compile(r"(?:[^:/?#]+:)?(?://([^/?#]*))?[^?#]*(?:\?([^#]*))?")


def _asyncpg(dsn: str | None = None, *_: Any, host: Any = None, port: Any = None, **__: Any) -> Iterable[Address]:
    netloc, query_string = _URL.match(dsn or "").groups("")  # type: ignore[union-attr]  # it matches any text
    query = {name: values[-1] for name, values in parse_qs(query_string).items()}
    hosts: list[str] = []
    ports: list[str] = []
    for spec in filter(None, netloc.rpartition("@")[2].split(",")):
        one_host, colon, one_port = spec.rpartition(":")
        if not colon or one_port.endswith("]"):  # an IPv6 address without a port
            one_host, one_port = spec, ""
        hosts.append(unquote(one_host).strip("[]"))
        ports.append(one_port or query.get("port") or os.environ.get("PGPORT") or "5432")
    host = host or ",".join(hosts) or query.get("host")
    return _libpq({"host": host, "port": port or ",".join(ports) or query.get("port")})


def _libpq(params: Mapping[str, Any]) -> Iterable[Address]:
    """Pair hosts and ports as libpq does: lists with commas, or one port for all hosts."""
    params = {**service(params), **params}
    hosts, numeric, ports = (_listed(params, name) for name in ("host", "hostaddr", "port"))
    for i, (host, number) in enumerate(itertools.zip_longest(hosts, numeric, fillvalue="")):
        target = number or host
        if target and not target.startswith(("/", "@")):  # AF_UNIX
            port = ports[i if len(ports) > 1 and i < len(ports) else 0]
            yield target, port or 5432


def _listed(params: Mapping[str, Any], name: str) -> list[str]:
    value = params.get(name) or os.environ.get(f"PG{name.upper()}") or ""
    parts = cast("list[Any]", value) if isinstance(value, list | tuple) else str(value).split(",")
    return [str(part) for part in parts]


# By the driver's top module, and by SQLAlchemy's name for it.
FINDERS: dict[str, Finder] = {
    **dict.fromkeys(("aiomysql", "asyncmy", "mysql", "mysqlconnector", "mysqldb"), _mysql),
    **dict.fromkeys(("psycopg", "psycopg_async"), _psycopg),
    **dict.fromkeys(("pg8000", "pymysql"), no_addresses),
    "asyncpg": _asyncpg,
    "psycopg2": _psycopg2,
}

# Drivers whose connect() is a plain function, called in an event loop, that returns an object to await or enter.
DIAL_LATER = frozenset({"aiomysql", "asyncmy"})
