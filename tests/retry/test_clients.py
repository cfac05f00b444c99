"""The table of the clients: its rows against the installed libraries, and answers that no server here gives."""

import importlib.util
import itertools

import pytest

from safedial._retry.clients.table import BY_PACKAGE
from safedial._retry.kinds import Verdict
from safedial._retry.transient import error_type, is_transient, verdict

TRANSIENT, ABSENT, PERMANENT, UNKNOWN = Verdict.TRANSIENT, Verdict.ABSENT, Verdict.PERMANENT, Verdict.UNKNOWN

# The modules that define a package's exceptions, if importing the package is not enough.
MODULES = {
    "_mysql_connector": [],  # it needs OpenSSL 3.2 in newer versions
    "aiokafka": ["aiokafka.errors"],
    "aiormq": ["aiormq.exceptions"],
    "http": ["http.client"],
    "kafka": ["kafka.errors"],
    "ldap3": ["ldap3.core.exceptions"],
    "mysql": ["mysql.connector.errors"],
    "pika": ["pika.exceptions", "pika.adapters.utils.connection_workflow"],
    "psycopg": ["psycopg.errors"],
    "pymemcache": ["pymemcache.exceptions"],
    "pymongo": ["pymongo.errors"],
    "redis": ["redis.exceptions", "redis.sentinel"],
    "tornado": ["tornado.iostream"],
    "urllib3": ["urllib3.exceptions"],
    "valkey": ["valkey.exceptions", "valkey.sentinel"],
    "websockets": ["websockets.exceptions"],
}
# Only in other versions, or in one of two libraries that share a row.
ELSEWHERE = {
    "aiokafka": {"NodeNotReadyError", "SaslAuthenticationFailedError", "UnsupportedSaslMechanismError"},
    "kafka": {
        "AuthenticationFailedError",
        "AuthenticationMethodNotSupported",
        "KafkaUnavailableError",
        "NoBrokersAvailable",
        "SaslAuthenticationFailed",
    },
    "redis": {"ExternalAuthProviderError"},  # newer than the lowest version
    "valkey": {"ExternalAuthProviderError"},
    "httpcore": {"CloseError"},
}


def all_classes(kind=BaseException):
    return [kind, *itertools.chain(*map(all_classes, kind.__subclasses__()))]


# mysqlclient and asyncmy have to be compiled, others are not in the group "clients".
HERE = [package for package in BY_PACKAGE if importlib.util.find_spec(package)]


def test_most_clients_of_the_table_are_installed():
    assert len(HERE) > len(BY_PACKAGE) - 7


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the clients
@pytest.mark.parametrize("package", HERE)
def test_classes_of_a_row_exist(package):
    row = BY_PACKAGE[package]
    for name in MODULES.get(package, [package]):
        importlib.import_module(name)
    there = {kind.__name__ for kind in all_classes() if kind.__module__.partition(".")[0] == package}
    named = {name for name in [*row.classes, *row.defaults] if not name.isdigit() and not name.isupper()}
    there |= {name for name in named if hasattr(importlib.import_module(package), name)}  # anyio loads them late
    assert named - there - ELSEWHERE.get(package, set()) == set()


def made(package, name, *args, **attributes):
    """Return an error as the library *package* makes it; for those that can't be installed or provoked here."""
    error = type(name, (Exception,), {"__module__": f"{package}.errors"})(*args)
    error.__dict__.update(attributes)
    return error


CONNECTION = 'connection to server at "127.0.0.1", port 5432 failed: '
REFUSED = CONNECTION + "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?\n"


@pytest.mark.parametrize("package", ["psycopg", "psycopg2"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (REFUSED, TRANSIENT),
        (CONNECTION + "FATAL:  the database system is in recovery mode", TRANSIENT),
        (
            CONNECTION + "FATAL:  the database system is not yet accepting connections\n"
            "DETAIL:  Consistent recovery state has not been yet reached.",
            TRANSIENT,
        ),
        (CONNECTION + "FATAL:  remaining connection slots are reserved for roles with …", TRANSIENT),
        (CONNECTION + "FATAL:  terminating connection due to administrator command\nSSL SYSCALL error: …", TRANSIENT),
        ("FATAL:  sorry, too many clients already", TRANSIENT),  # libpq before 14
        (CONNECTION + "session is read-only", TRANSIENT),
        (CONNECTION + "FATAL:  server login has been failing, cached error: … (server_login_retry)", TRANSIENT),
        (CONNECTION + "No route to host", TRANSIENT),
        ('connection to server on socket "/run/.s.PGSQL.5432" failed: No such file or directory\n'
         "\tIs the server running locally and accepting connections on that socket?", TRANSIENT),
        ('could not translate host name "db" to address: Temporary failure in name resolution', TRANSIENT),
        ('could not translate host name "db" to address: No address associated with hostname', ABSENT),
        (REFUSED + CONNECTION + 'FATAL:  password authentication failed for user "app"', PERMANENT),
        (CONNECTION + 'FATAL:  no pg_hba.conf entry for host "::1", user "app", no encryption', PERMANENT),
        (CONNECTION + 'FATAL:  database "starting up" does not exist', PERMANENT),
        (CONNECTION + 'FATAL:  database "app" is not currently accepting connections', PERMANENT),
        ('connection … failed: server certificate for "a" does not match host name "b"', PERMANENT),
        ('root certificate file "/home/app/.postgresql/root.crt" does not exist', PERMANENT),
        ("server does not support SSL, but SSL was required", PERMANENT),
        # In the server's language: it may be a failed login, so the first address must not have it tried again.
        (CONNECTION + "FATAL:  Passwort-Authentifizierung für Benutzer »app« fehlgeschlagen", UNKNOWN),
        (REFUSED + CONNECTION + "FATAL:  Passwort-Authentifizierung für Benutzer »app« fehlgeschlagen", UNKNOWN),
        (REFUSED + CONNECTION + "ВАЖНО:  пользователь не прошёл проверку подлинности", UNKNOWN),
        ("received invalid response to SSL negotiation: G", UNKNOWN),
    ],
)  # fmt: skip
def test_libpqs_words(package, text, expected):
    assert verdict(made(package, "OperationalError", text, sqlstate=None, pgcode=None)) is expected


@pytest.mark.parametrize(
    ("package", "attribute"), [("psycopg", "sqlstate"), ("psycopg2", "pgcode"), ("asyncpg", "sqlstate")]
)
@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        ("57P01", "Verbindung wird abgebrochen", TRANSIENT),
        ("57P02", "", TRANSIENT),
        ("57P03", "das Datenbanksystem startet", TRANSIENT),
        ("53300", "tut mir leid, schon zu viele Verbindungen", TRANSIENT),
        ("08006", "", TRANSIENT),
        ("08001", "", TRANSIENT),
        ("28P01", "", PERMANENT),
        ("28000", "", PERMANENT),
        ("3D000", "", PERMANENT),
        ("08P01", "no such database: app", PERMANENT),  # PgBouncer
        ("08P01", "no more connections allowed (max_client_conn)", TRANSIENT),
        ("08P01", "unsupported startup parameter", UNKNOWN),
        ("53200", "out of memory", UNKNOWN),
        ("42P01", 'relation "a" of 1 row', UNKNOWN),
    ],
)
def test_sqlstates(package, attribute, code, text, expected):
    error = made(package, "Error", text, **{attribute: code})
    assert verdict(error) is expected
    # The server has answered: what was being handled does not matter.
    error.__context__ = ConnectionResetError()
    assert verdict(error) is expected


@pytest.mark.parametrize("package", ["MySQLdb", "asyncmy", "pymysql"])
@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (2002, "Can't connect to server on '127.0.0.1' (115)", TRANSIENT),
        (2003, "Can't connect to MySQL server on '127.0.0.1:1' (111)", TRANSIENT),
        (2006, "Server has gone away", TRANSIENT),
        (2013, "Lost connection to server at 'handshake'", TRANSIENT),
        (2005, "Unknown server host 'db' (-2)", ABSENT),
        (1040, "Too many connections", TRANSIENT),
        (1053, "Server shutdown in progress", TRANSIENT),
        (1226, "User 'a' has exceeded the 'max_user_connections' resource (current value: 1)", TRANSIENT),
        (1226, "User 'a' has exceeded the 'max_connections_per_hour' resource", UNKNOWN),
        (9001, "TiDB server is starting", TRANSIENT),
        (1045, "Access denied", PERMANENT),
        (1044, "Access denied", PERMANENT),
        (1049, "Unknown database", PERMANENT),
        (1129, "Host is blocked because of many connection errors", PERMANENT),
        (2026, "TLS/SSL error: certificate verify failed", PERMANENT),
        (2026, "SSL connection error: protocol version mismatch", UNKNOWN),
        (1064, "You have an error in your SQL syntax", UNKNOWN),
    ],
)
def test_mysqls_codes(package, code, text, expected):
    error = made(package, "OperationalError", code, text)
    assert verdict(error) is expected
    if code < 2000:
        error.__context__ = ConnectionResetError()
        assert verdict(error) is expected


def test_code_of_a_dial_leaves_it_to_the_cause():
    error = made("pymysql", "OperationalError", 2003, "Can't connect")
    error.__context__ = made("redis", "AuthenticationError", "no")
    assert verdict(error) is PERMANENT


def test_login_that_fails_while_a_lost_connection_is_handled():
    error = made("psycopg", "OperationalError", CONNECTION + 'FATAL:  role "app" is not permitted to log in')
    error.__context__ = ConnectionResetError(104, "reset")
    assert (verdict(error), error_type(error)) == (PERMANENT, "authentication_error")


def test_users_own_class_counts_as_its_base():
    base = type("ConnectionError", (Exception,), {"__module__": "redis.exceptions"})
    busy = type("BusyLoadingError", (base,), {"__module__": "redis.exceptions"})
    mine = type("MyLoading", (busy,), {"__module__": "__main__"})
    assert verdict(mine("wait")) is TRANSIENT
    assert verdict(base("max number of clients reached")) is TRANSIENT
    assert verdict(base("no idea")) is UNKNOWN


def test_nearest_class_decides():
    transient = type("BusyLoadingError", (Exception,), {"__module__": "redis.exceptions"})
    assert verdict(type("AuthenticationError", (transient,), {"__module__": "redis.exceptions"})()) is PERMANENT


def test_package_with_a_similar_name_is_another():
    assert verdict(made("redistribute", "AuthenticationError")) is UNKNOWN
    assert not is_transient(made("redistribute", "BusyLoadingError"))


def test_rows_are_complete():
    for row in BY_PACKAGE.values():
        kinds = [*row.codes.values(), *row.classes.values(), *row.words.values(), *row.defaults.values()]
        assert all(kind is None or kind.verdict in Verdict for kind in kinds)
        assert kinds or row.links
