"""What a database driver dials, found in the arguments of its connect(), and in PGHOST and the like."""

import importlib
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast
from urllib.parse import parse_qs, unquote, urlsplit

from safedial._clients.hold import Address

# Finds the addresses in a call's arguments.
Finder: TypeAlias = Callable[[Sequence[Any], Mapping[str, Any]], Iterable[Address]]


def guarded_alone(*arguments: object) -> Iterable[Address]:  # noqa: ARG001  # Python's sockets need no holding
    return ()


def _mysql(args: Sequence[Any], kwds: Mapping[str, Any]) -> Iterable[Address]:
    # mysql-connector may have more servers to fall back on.
    for server in (kwds, *(kwds.get("failover") or ())):
        if not server.get("unix_socket"):
            yield server.get("host") or (args[0] if args else "localhost"), server.get("port") or 3306


def _psycopg(args: Sequence[Any], kwds: Mapping[str, Any]) -> Iterable[Address]:
    from psycopg.conninfo import conninfo_to_dict

    return _libpq(conninfo_to_dict(*args[:1], **kwds))


def _psycopg2(args: Sequence[Any], kwds: Mapping[str, Any]) -> Iterable[Address]:
    extensions: Any = importlib.import_module("psycopg2.extensions")  # types for it are another package's

    dsn = args[0] if args else kwds.get("dsn")
    return _libpq(extensions.parse_dsn(dsn or "") | {name: value for name, value in kwds.items() if value is not None})


def _asyncpg(args: Sequence[Any], kwds: Mapping[str, Any]) -> Iterable[Address]:
    dsn = urlsplit((args[0] if args else kwds.get("dsn")) or "")
    query = {name: values[-1] for name, values in parse_qs(dsn.query).items()}
    hosts: list[str] = []
    ports: list[str] = []
    for spec in filter(None, dsn.netloc.rpartition("@")[2].split(",")):
        host, colon, port = spec.rpartition(":")
        if not colon or port.endswith("]"):  # an IPv6 address, whose colons are its own
            host, port = spec, ""
        hosts.append(unquote(host).strip("[]"))
        ports.append(port or query.get("port") or os.environ.get("PGPORT") or "5432")
    return _libpq(
        {
            "host": kwds.get("host") or ",".join(hosts) or query.get("host"),
            "port": kwds.get("port") or ",".join(ports) or query.get("port"),
        }
    )


def _libpq(params: Mapping[str, Any]) -> Iterable[Address]:
    """Pair hosts and ports as libpq does: lists with commas, or one port for all hosts."""
    hosts, numeric, ports = (_listed(params, name) for name in ("host", "hostaddr", "port"))
    for i, (host, number) in enumerate(itertools.zip_longest(hosts, numeric, fillvalue="")):
        target = number or host
        if target and not target.startswith(("/", "@")):  # which are AF_UNIX
            port = ports[i if len(ports) > 1 and i < len(ports) else 0]
            yield target, port or 5432


def _listed(params: Mapping[str, Any], name: str) -> list[str]:
    value = params.get(name) or os.environ.get(f"PG{name.upper()}") or ""
    return (
        [str(each) for each in cast("list[Any]", value)] if isinstance(value, list | tuple) else str(value).split(",")
    )


# By the driver's top module, and by SQLAlchemy's name for it.
FINDERS: dict[str, Finder] = {
    "aiomysql": _mysql,
    "asyncmy": _mysql,
    "asyncpg": _asyncpg,
    "mysql": _mysql,
    "mysqlconnector": _mysql,
    "mysqldb": _mysql,
    "pg8000": guarded_alone,
    "psycopg": _psycopg,
    "psycopg2": _psycopg2,
    "psycopg_async": _psycopg,
    "pymysql": guarded_alone,
}
