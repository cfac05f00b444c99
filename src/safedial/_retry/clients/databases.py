"""The databases' rows of the table."""

import errno
import re
from collections.abc import Mapping
from typing import Any

from safedial._retry.clients.row import Client, each
from safedial._retry.kinds import (
    BROKEN_PIPE,
    CERTIFICATE,
    CLOSED,
    DENIED,
    FULL,
    MISCONFIGURED,
    NO_DATABASE,
    NO_NAME,
    NO_NAME_NOW,
    REFUSED,
    RESET,
    TIMED_OUT,
    UNAVAILABLE,
)

# PostgreSQL, appendix A of its manual.
_SQLSTATES = (
    each(
        UNAVAILABLE, "57P01", "57P02", "57P03", "57P05"
    )  # shut down by an administrator, by a crash; can't connect now
    | each(FULL, "53300")
    | each(CLOSED, "08")
    | each(DENIED, "28")
    | each(NO_DATABASE, "3D", "57P04")
    | {"08P01": None}  # PgBouncer's for everything
)
# Its messages, for libpq, which gives no SQLSTATE for a failed connection; and PgBouncer's, whose code is always 08P01.
_POSTGRES_WORDS = (
    each(
        UNAVAILABLE,
        "the database system is starting up",
        "the database system is shutting down",
        "the database system is in recovery mode",
        "the database system is not yet accepting connections",
        "the database system is not accepting connections",
        "terminating connection due to administrator command",
        "terminating connection because of crash of another server process",
        "server_login_retry",
        "client_login_timeout",
        "cannot connect to server",
        "query_wait_timeout",
    )
    | each(
        FULL,
        "too many clients",
        "too many connections for",  # a role, a database
        "remaining connection slots are reserved",
        "number of requested standby connections exceeds",
        "no more connections allowed",
    )
    | each(
        DENIED,
        "authentication failed",
        "no password supplied",
        "no pg_hba.conf entry",
        "pg_hba.conf rejects",
        "is not permitted to log in",
        "permission denied for database",
        "no such user",
        'FATAL:  role "',  # does not exist
    )
    | each(NO_DATABASE, '" does not exist', "is not currently accepting connections", "no such database")
)
_LIBPQ = (
    # What target_session_attrs asks for is not there while a failover goes on.
    each(UNAVAILABLE, "session is read-only", "session is not read-only")
    | each(UNAVAILABLE, "server is in hot standby mode", "server is not in hot standby mode")
    | each(CERTIFICATE, "certificate verify failed", "server certificate for")
    | each(MISCONFIGURED, "server does not support SSL", "root certificate file", "invalid port number")
    | each(
        CLOSED,
        "server closed the connection unexpectedly",
        "SSL SYSCALL error: EOF detected",
        "SSL connection has been closed unexpectedly",
        "unexpected eof while reading",
        "the connection is lost",
        "connection already closed",
    )
    | each(RESET, "could not receive data from server", "could not send data to server")
    | each(BROKEN_PIPE, "could not send startup packet", "could not send SSL negotiation packet")
    | each(TIMED_OUT, "timeout expired")
    | each(REFUSED, "Is the server running locally")  # no Unix socket is there
    | each(NO_NAME_NOW, "Temporary failure in name resolution")
    | each(NO_NAME, "could not translate host name")
)
_SQLSTATE = re.compile(r"\w{5}")
_POSTGRES_IN_C: dict[str, Any] = {
    "codes": _SQLSTATES,
    "words": _POSTGRES_WORDS | _LIBPQ,
    "in_c": True,
    # The server's severity is followed by two spaces: "… failed: FATAL:  the database system is starting up".
    "answered": _SQLSTATE,
    "answers": re.compile(r"(?:\A|failed: )\S+:  (.*)"),
}


def _mysql_code(error: Any) -> object:
    return error.errno if hasattr(error, "errno") else error.args[0]


# MySQL's and MariaDB's, from mysqld_error.h and errmsg.h.
_MYSQL: dict[str, Any] = {
    "code": _mysql_code,
    "answered": re.compile(r"[13-9]\d{3}"),  # those that begin with 2 are the client's
    "codes": each(FULL, "1040", "1203")  # of the server, of a user
    | each(UNAVAILABLE, "1053", "1077", "1079", "1927", "3168", "4031")  # stopping; the connection was killed
    | each(CLOSED, "1158", "1159", "1160", "1161", "1184")
    # Host blocked or not allowed, account locked, password expired, TLS demanded, an unknown authentication plugin.
    | each(DENIED, "1044", "1045", "1129", "1130", "1251", "1698", "1820", "1862", "3118", "3159", "4151")
    | each(DENIED, "2054", "2059", "2061")
    | each(NO_DATABASE, "1049")
    | {"1047": None, "1226": None, "9001": None},  # their words decide
    "words": each(CERTIFICATE, "certificate verify failed", "self-signed certificate", "self signed certificate")
    | each(UNAVAILABLE, "is starting", "WSREP has not yet prepared node")  # Galera's, while a node joins
    | each(FULL, "'max_user_connections' resource")  # 1226, which is a limit for each hour too
    | each(CLOSED, "SSL connection error: unexpected eof", "SSL connection error: Connection reset")
    # The C library's number of the kernel's error.
    | each(RESET, f"({errno.ECONNRESET})", f"system error: {errno.ECONNRESET}")
    | each(TIMED_OUT, f"({errno.ETIMEDOUT})", f"system error: {errno.ETIMEDOUT}"),
    # Of the client, which adds the cause if it has one.
    "defaults": each(REFUSED, "2002", "2003") | each(CLOSED, "2006", "2013", "2055") | each(NO_NAME, "2005"),
}

# Redis's answers are classes; from a server or version that has none for them, words.
_REDIS = Client(
    classes=each(UNAVAILABLE, "BusyLoadingError", "MasterDownError", "ClusterDownError", "MasterNotFoundError")
    | each(UNAVAILABLE, "SlaveNotFoundError")
    | each(DENIED, "AuthenticationError", "AuthorizationError", "NoPermissionError", "ExternalAuthProviderError")
    | each(DENIED, "AuthenticationWrongNumberOfArgsError"),
    words=each(FULL, "max number of clients reached", "max number of clients + cluster")
    | each(UNAVAILABLE, "is loading the dataset in memory", "MASTERDOWN Link with MASTER", "CLUSTERDOWN The cluster")
    | each(DENIED, "NOAUTH", "WRONGPASS", "DENIED", "invalid password", "Authentication required")
    | each(CLOSED, "Connection closed by server", "Connection closed", "SERVER_CLOSED"),
    defaults=each(TIMED_OUT, "TimeoutError"),
)

DATABASES: Mapping[str, Client] = {
    "psycopg": Client(
        code=lambda error: error.sqlstate, classes=each(TIMED_OUT, "ConnectionTimeout"), **_POSTGRES_IN_C
    ),
    "psycopg2": Client(code=lambda error: error.pgcode, **_POSTGRES_IN_C),
    "asyncpg": Client(
        code=lambda error: error.sqlstate,
        codes=_SQLSTATES,
        answered=_SQLSTATE,
        classes=each(UNAVAILABLE, "TargetServerAttributeNotMatched"),  # while a failover goes on
        words=_POSTGRES_WORDS,
    ),
    "pg8000": Client(
        code=lambda error: error.args[0]["C"],
        codes=_SQLSTATES,
        answered=_SQLSTATE,
        words=_POSTGRES_WORDS | each(CLOSED, "network error"),
    ),
    "pymysql": Client(**_MYSQL),
    "MySQLdb": Client(**_MYSQL),
    "asyncmy": Client(**_MYSQL),
    "mysql": Client(**_MYSQL),
    "_mysql_connector": Client(**_MYSQL),
    "sqlalchemy": Client(links=("orig",)),
    "pymongo": Client(
        code=lambda error: error.code,
        codes=each(DENIED, "13", "18") | each(UNAVAILABLE, "91", "189", "10107", "11600", "11602", "13435", "13436"),
        classes=each(MISCONFIGURED, "ConfigurationError", "InvalidURI"),
        words=each(DENIED, "Authentication failed"),
        defaults=each(TIMED_OUT, "ServerSelectionTimeoutError", "NetworkTimeout") | each(CLOSED, "AutoReconnect"),
    ),
    "redis": _REDIS,
    "valkey": _REDIS,
    "pymemcache": Client(
        classes=each(CLOSED, "MemcacheUnexpectedCloseError"),
        # It keeps the command's name alone: a command that memcached knows is an error if it has too many connections.
        defaults=each(FULL, "MemcacheUnknownCommandError"),
    ),
}
