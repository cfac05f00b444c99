"""Clients that `install` does not reach, by name, and a warning that names the line that helps."""

from safedial import events

# By the module that is imported. They dial in C, C++ or Rust, most in threads of their own. (asyncpg and asyncmy dial
# by asyncio's loop, oracledb by Python's sockets unless in thick mode; psycopg's and uvloop's ports are held.)
UNREACHED = frozenset(
    (
        *("adbc_driver_flightsql", "adbc_driver_postgresql", "aerospike", "confluent_kafka", "connectorx", "couchbase"),
        *("curl_cffi", "cx_Oracle", "glide", "glide_sync", "grpc", "ibm_db", "ldap", "mariadb", "psqlpy", "pulsar"),
        *("pyarrow.flight", "pycurl", "pylibmc", "pymqi", "pymssql", "pynng", "pyodbc", "turbodbc", "zmq"),
    )
)
_warned: set[str] = set()


def warn(name: str) -> None:
    """Warn, once in a process, that the module *name* is not reached."""
    if name not in _warned:
        _warned.add(name)
        line = "if it dials this host, hold the ports: safedial.install(hold=[(host, port)])"
        events.warn("install() does not reach %s, which dials in C: %s", name, line)
