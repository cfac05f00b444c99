"""Clients that `install` does not reach, by name, and a line of the log that names what helps."""

import logging

from safedial.events import is_first, log

# By the module that is imported. They dial in C, C++ or Rust, most in threads of their own. (asyncpg and asyncmy dial
# by asyncio's loop, oracledb by Python's sockets unless in thick mode; psycopg's and uvloop's ports are held.)
UNREACHED = frozenset(
    (
        *("adbc_driver_flightsql", "adbc_driver_postgresql", "aerospike", "confluent_kafka", "connectorx", "couchbase"),
        *("curl_cffi", "cx_Oracle", "glide", "glide_sync", "grpc", "ibm_db", "ldap", "mariadb", "psqlpy", "pulsar"),
        *("pyarrow.flight", "pycurl", "pylibmc", "pymqi", "pymssql", "pynng", "pyodbc", "turbodbc", "zmq"),
    )
)
_told: dict[str, object] = {}


def tell(name: str, *, holds: bool) -> None:
    """Log, once in a process, that the module *name* is not reached: at INFO if the program *holds* ports."""
    if is_first(_told, name):
        level, line = logging.WARNING, "if it dials this host, hold the ports: safedial.install(hold=[(host, port)])"
        if holds:
            level, line = logging.INFO, "only the ports in hold= are safe"
        log(level, "install() does not reach %s, which dials in C: %s", name, line)
