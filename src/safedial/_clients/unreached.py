"""Clients that `install` does not reach, by name, and the line that helps each."""

from types import ModuleType

from safedial.events import logger

_HOLD = "hold what it dials: safedial.install(hold=[(host, port)])"

# By the module that is imported. They dial in C, C++ or Rust, most in threads of their own. (asyncpg and asyncmy dial
# by asyncio's loop, oracledb by Python's sockets, unless in thick mode.)
UNREACHED: dict[str, str] = {
    "uvloop": "make the loop by safedial.adapters.asyncio.new_event_loop(uvloop.Loop)",
    **dict.fromkeys(
        (
            *("adbc_driver_flightsql", "adbc_driver_postgresql", "aerospike", "confluent_kafka", "couchbase"),
            *("curl_cffi", "cx_Oracle", "glide", "glide_sync", "grpc", "ibm_db", "ldap", "mariadb", "pulsar"),
            *("pyarrow.flight", "pycurl", "pylibmc", "pymqi", "pymssql", "pynng", "pyodbc", "psqlpy", "zmq"),
        ),
        _HOLD,
    ),
}
_warned: set[str] = set()


def warn(module: ModuleType, *, holds: bool) -> None:
    """Warn, once, that *module* is not reached. An application that *holds* ports knows, and is only told of others."""
    name = module.__name__
    line = UNREACHED[name]
    if name in _warned or (holds and line is _HOLD):
        return
    _warned.add(name)
    logger.warning("install() does not reach %s, which dials in C: %s", name, line)
