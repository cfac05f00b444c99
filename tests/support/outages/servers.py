"""The real servers. Each has an `Outage` on a stable port, a port with TLS, and counts the records in it."""

import contextlib
import functools
import os
import signal
import sys
import time
from pathlib import Path
from typing import ClassVar

import psycopg
import pymemcache
import pymysql
import redis

from safedial.testing import Outage, dead_port
from tests.support import databases, redis_server, web
from tests.support.databases import HOST, USER

# Seconds that a server has to start, on a busy machine too.
WITHIN = 20
# A user who needs a password, and the password. A wrong password has "wrong" in it.
LOCKED, PASSWORD = "locked", "secret"
_NOT_LET_IN = {"wrong password": {"user": LOCKED, "password": "wrong"}, "unknown database": {"database": "nowhere"}}
# Microseconds that redis takes to load a key: 2,000 keys take 40 s, if nobody tells it to hurry.
_KEY_LOAD_DELAY, _KEYS = 20_000, 2_000


class Server:
    """One server, of one test.

    Attributes:
        outage: starts and ends it.
        tls_port: where it speaks TLS, with a certificate for localhost and 127.0.0.1.
        ca: the file with the certificate of the authority.
        durable: whether a crash loses no record.
        wrong: for "wrong password" and "unknown database", what a client gives instead of what is right, as arguments
            of `rows.Place`. Empty: it asks for neither.
    """

    durable = True
    wrong: ClassVar = {}

    def __init__(self, directory, outage, tls_port=None):
        self.directory, self.outage = directory, outage
        self.port = outage.port
        self.tls_port = tls_port or outage.port
        self.ca = str(Path(directory, "ca.pem"))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        try:
            self.outage.stop()
        finally:
            self.outage.kill()

    def start(self):
        until(self.outage.start)
        until(self.prepare)

    def prepare(self):
        """Make what clients need. Raises as long as the server is not ready."""

    def lock(self):
        """Ask for a password: of everybody, or of the user `LOCKED`."""

    def count(self, key):
        """Return how often the record *key* is there."""
        raise NotImplementedError

    def fill(self):
        """Take every connection that the server has. Return a function that gives them back."""
        raise NotImplementedError

    def end_in_order(self):
        """Begin to stop, as an administrator does it. Return a function that ends the stop, and starts the server."""
        self.outage.stop()
        return self.start

    def start_slowly(self):
        """Begin to start. Return a function that lets the start come to its end."""
        raise NotImplementedError


def until(function):
    """Return what *function* returns once it does not raise."""
    end = time.monotonic() + WITHIN
    while True:
        try:
            return function()
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def fill_up(server, connect, refused):
    """Connect until *server* raises *refused*. Return a function that closes the connections."""
    with contextlib.ExitStack() as stack:
        stack.callback(until, server.prepare)  # it takes a moment to see that they are closed
        for _ in range(200):
            try:
                stack.callback(connect().close)
            except refused:
                return stack.pop_all().close
        raise AssertionError("the server takes any number of connections")


def certify(directory):
    """Write a certificate that `web.authority` has signed to ``cert.pem``, its key, and the authority's to ``ca.pem``."""
    issued = web.authority().issue_cert("localhost", HOST)
    issued.private_key_pem.write_to_path(str(Path(directory, "key.pem")))
    issued.cert_chain_pems[0].write_to_path(str(Path(directory, "cert.pem")))
    web.authority().cert_pem.write_to_path(str(Path(directory, "ca.pem")))
    return {name: str(Path(directory, f"{name}.pem")) for name in ("key", "cert", "ca")}


class Redis(Server):
    wrong: ClassVar = {
        "wrong password": {"password": "wrong"},
        "unknown database": {"password": PASSWORD, "database": 99},  # it has 16
    }

    def __init__(self, directory):
        files, tls_port = certify(directory), dead_port()
        words = {
            **{"port": "{port}", "tls-port": tls_port, "tls-auth-clients": "no", "tls-ca-cert-file": files["ca"]},
            **{"tls-cert-file": files["cert"], "tls-key-file": files["key"], "key-load-delay": _KEY_LOAD_DELAY},
            "loading-process-events-interval-bytes": 1024,
        }
        pairs = [word for name, value in words.items() for word in (f"--{name}", str(value))]
        super().__init__(directory, redis_server.server(directory, *pairs, durable=True), tls_port)
        self._password = None

    def _client(self):
        return redis.Redis(HOST, self.port, password=self._password)

    def prepare(self):
        with self._client() as client:
            client.ping()

    def lock(self):
        with self._client() as client:
            client.config_set("requirepass", PASSWORD)
        self._password = PASSWORD

    def count(self, key):
        with self._client() as client:
            return int(client.get(key) or 0)

    def fill(self):
        client = redis.Redis(HOST, self.port, single_connection_client=True)
        client.config_set("maxclients", 1)

        def give_back():
            client.config_set("maxclients", 1000)
            client.close()

        return give_back

    def start_slowly(self):
        with self._client() as client:
            client.mset({f"filler:{number}": os.urandom(1000) for number in range(_KEYS)})
            client.bgrewriteaof()
            until(lambda: self._assert_rewritten(client))
        self.outage.stop()
        self.outage.start()

        def hurry():
            with self._client() as client:
                client.config_set("key-load-delay", 0)
            until(self.prepare)

        return hurry

    def _assert_rewritten(self, client):
        persistence = client.info("persistence")
        assert not persistence["aof_rewrite_in_progress"]
        assert persistence["aof_base_size"] > _KEYS * 1000


class Postgres(Server):
    wrong = _NOT_LET_IN

    def __exit__(self, *error):
        # A "fast" shutdown: it waits for no session.
        with contextlib.suppress(OSError, IndexError):
            os.kill(self._pid(), signal.SIGINT)
        super().__exit__(*error)
        (self._data / "recovery.signal").unlink(missing_ok=True)  # other tests use the same data

    def _pid(self):
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def __init__(self, command):
        self._data = Path(command[command.index("-D") + 1])
        self._recovered = self._data / "recovered"
        access = self._data / "pg_hba.conf"
        if LOCKED not in access.read_text():
            access.write_text(f"host all {LOCKED} all scram-sha-256\n{access.read_text()}")
        # PostgreSQL is "starting up" for as long as this runs. Only a start with recovery.signal runs it.
        restore = f"restore_command=while [ ! -e {self._recovered} ]; do sleep 0.05; done; false"
        super().__init__(self._data, Outage([*command, "-c", restore], within=WITHIN))
        self.ca = str(self._data / "ca.crt")

    def _connect(self):
        return psycopg.connect(
            host=HOST, port=self.port, user=USER, dbname="postgres", sslmode="disable", autocommit=True
        )

    def prepare(self):
        with self._connect() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS records (key text)")

    def lock(self):
        with self._connect() as connection:
            connection.execute(f"DROP ROLE IF EXISTS {LOCKED}")
            connection.execute(f"CREATE ROLE {LOCKED} LOGIN PASSWORD '{PASSWORD}'")

    def count(self, key):
        with self._connect() as connection:
            return connection.execute("SELECT count(*) FROM records WHERE key = %s", [key]).fetchone()[0]

    def fill(self):
        return fill_up(self, self._connect, psycopg.OperationalError)

    def end_in_order(self):
        session = self._connect()
        # A "smart" shutdown waits for this session, and refuses new ones. Those of the clients are ended, as by a "fast"
        # shutdown, which is over too soon to be seen.
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        os.kill(self._pid(), signal.SIGTERM)

        def end():
            session.close()
            self.outage.stop()
            self.start()

        return end

    def start_slowly(self):
        self.outage.stop()
        (self._data / "recovery.signal").touch(mode=0o666)
        # The server removes it, and may run as another user.
        (self._data / "recovery.signal").chmod(0o666)
        self._recovered.unlink(missing_ok=True)
        self.outage.start()

        def recover():
            self._recovered.touch()
            until(self.prepare)

        return recover


class MariaDB(Server):
    wrong = _NOT_LET_IN

    def __init__(self, command):
        data = next(word.partition("=")[2] for word in command if word.startswith("--datadir"))
        super().__init__(data, Outage(command, within=WITHIN))
        self.ca = str(Path(data, "ca.crt"))

    def _connect(self):
        return pymysql.connect(host=HOST, port=self.port, user=USER, database=USER, autocommit=True, read_timeout=20)

    def _run(self, statement, *values):
        with contextlib.closing(self._connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchone()

    def prepare(self):
        self._run("CREATE TABLE IF NOT EXISTS records (word varchar(100))")

    def lock(self):
        self._run(f"CREATE OR REPLACE USER {LOCKED}@'%%' IDENTIFIED BY %s", PASSWORD)

    def count(self, key):
        return self._run("SELECT count(*) FROM records WHERE word = %s", key)[0]

    def fill(self):
        self._run("SET GLOBAL max_connections = 10")  # the smallest number that it takes
        return fill_up(self, self._connect, pymysql.OperationalError)


class Memcached(Server):
    """It listens on ::1 too, because pymemcache dials only the first address of localhost."""

    durable = False

    def __init__(self, directory):
        (memcached,) = databases.require("memcached", "memcached")
        files, tls_port = certify(directory), dead_port()
        words = ["-l", f"notls:{{host}}:{{port}},notls:[::1]:{{port}},{{host}}:{tls_port}", "-u", "root", "-t", "1", "-c", "30", "-Z"]
        options = f"ssl_chain_cert={files['cert']},ssl_key={files['key']}"
        super().__init__(directory, Outage([memcached, *words, "-o", options], within=WITHIN), tls_port)

    def _connect(self):
        client = pymemcache.Client((HOST, self.port), timeout=5)
        client.version()
        return client

    def prepare(self):
        self._connect().close()

    def count(self, key):
        with contextlib.closing(self._connect()) as client:
            return int(client.get(key) or 0)

    def fill(self):
        return fill_up(self, self._connect, Exception)  # the error has many names


class Peer(Server):
    """A server of `peers`."""

    def __init__(self, kind, directory):
        if kind == "amqp":
            self.wrong = {"wrong password": {"password": "wrong"}, "unknown database": {"database": "nowhere"}}
        certify(directory)
        tls_port = dead_port()
        script = str(Path(__file__).with_name("peers.py"))
        command = [sys.executable, "-I", script, kind, "{host}", "{port}", str(tls_port), str(directory)]
        super().__init__(directory, Outage(command, within=WITHIN), tls_port)
        self._records = Path(directory, "records")

    def count(self, key):
        return self._records.read_text().split().count(key) if self._records.exists() else 0


KINDS = {
    "PostgreSQL": Postgres,
    "MariaDB": MariaDB,
    "Redis": Redis,
    "Memcached": Memcached,
    "HTTP": functools.partial(Peer, "http"),
    "WebSocket": functools.partial(Peer, "websocket"),
    "AMQP": functools.partial(Peer, "amqp"),
    "lines": functools.partial(Peer, "lines"),
}
# What makes the data directory of a database, once for the session. It is given to its class.
TEMPLATES = {"PostgreSQL": databases.make_postgres, "MariaDB": databases.make_mariadb}
