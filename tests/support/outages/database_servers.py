"""PostgreSQL and MariaDB, on the data directory that `tests.support.databases` makes."""

import contextlib
import os
import signal
from pathlib import Path
from typing import ClassVar

import psycopg
import pymysql

from safedial.testing import Outage
from tests.support.databases import HOST, USER
from tests.support.outages.server import LOCKED, PASSWORD, WITHIN, Server, fill_up, until

WRONG = {"wrong password": {"user": LOCKED, "password": "wrong"}, "unknown database": {"database": "nowhere"}}


class Postgres(Server):
    wrong: ClassVar = WRONG

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
        # PostgreSQL is "starting up" for as long as this runs, and with hot_standby until it is over. Only a start with
        # recovery.signal runs it.
        restore = f"restore_command=while [ ! -e {self._recovered} ]; do sleep 0.05; done; false"
        super().__init__(self._data, Outage([*command, "-c", restore, "-c", "hot_standby=off"], within=WITHIN))
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

    def crash(self):
        # Each of its processes leads a session of its own, and serves its client until it sees that the first has gone.
        pid = self._pid()
        others = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self.outage.kill()
        for each in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(each), signal.SIGKILL)

    def end_in_order(self):
        session = self._connect()
        # A "smart" shutdown waits for this session, and refuses new ones. The clients' sessions are ended, as by a
        # "fast" shutdown, which is over too soon for the clients to see it.
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
    wrong: ClassVar = WRONG

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
