"""Redis, Memcached and the servers of `peers`; and a table of all kinds of servers."""

import contextlib
import os
import sys
from pathlib import Path
from typing import ClassVar

import pymemcache
import redis

from safedial.testing import Outage, dead_port
from tests.support import databases, redis_server
from tests.support.databases import HOST
from tests.support.outages.database_servers import MariaDB, Postgres
from tests.support.outages.server import PASSWORD, WITHIN, Server, certify, fill_up, until

# Microseconds that redis takes to load a key: 2,000 keys take 40 s, unless it is told to hurry.
_KEY_LOAD_DELAY, _KEYS = 20_000, 2_000


class Redis(Server):
    wrong: ClassVar = {
        "wrong password": {"password": "wrong"},
        "unknown database": {"password": PASSWORD, "database": 99},  # it has 16
    }

    def __init__(self, directory):
        files, tls_port = certify(directory), dead_port()
        words = {
            "port": "{port}",
            "tls-port": tls_port,
            "tls-auth-clients": "no",
            "tls-ca-cert-file": files["ca"],
            "tls-cert-file": files["cert"],
            "tls-key-file": files["key"],
            "key-load-delay": _KEY_LOAD_DELAY,
            "loading-process-events-interval-bytes": 1024,  # it answers after each key
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


class Memcached(Server):
    """It listens on ::1 too, because pymemcache dials only the first address of localhost."""

    durable = False

    def __init__(self, directory):
        (memcached,) = databases.require("memcached", "memcached")
        files, tls_port = certify(directory), dead_port()
        words = [
            "-l",
            f"notls:{{host}}:{{port}},notls:[::1]:{{port}},{{host}}:{tls_port}",
            "-u",
            "root",
            "-t",
            "1",
            "-c",
            "30",
            "-b",
            "10",
            "-Z",
        ]
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

    kind: ClassVar[str]

    def __init__(self, directory):
        certify(directory)
        tls_port = dead_port()
        script = str(Path(__file__).with_name("peers.py"))
        command = [sys.executable, "-I", script, self.kind, "{host}", "{port}", str(tls_port), str(directory)]
        super().__init__(directory, Outage(command, within=WITHIN), tls_port)
        self._records = Path(directory, "records")

    def count(self, key):
        return self._records.read_text().split().count(key) if self._records.exists() else 0


class Lines(Peer):
    kind = "lines"


class Http(Peer):
    kind = "http"


class WebSocket(Peer):
    kind = "websocket"


class Amqp(Peer):
    kind = "amqp"
    wrong: ClassVar = {"wrong password": {"password": "wrong"}, "unknown database": {"database": "nowhere"}}


KINDS = {
    "lines": Lines,
    "Redis": Redis,
    "Memcached": Memcached,
    "HTTP": Http,
    "WebSocket": WebSocket,
    "AMQP": Amqp,
    "PostgreSQL": Postgres,
    "MariaDB": MariaDB,
}
# What makes the data directory of a database, once for the session. It is given to its class.
TEMPLATES = {"PostgreSQL": databases.make_postgres, "MariaDB": databases.make_mariadb}
