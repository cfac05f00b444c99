"""PostgreSQL and MariaDB for tests: a data directory made once for the session, a server for each outage.

Import the fixtures in the modules that use them:
``from tests.support.databases import _directory, postgres, postgres_command``.
"""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pymysql
import pytest
import trustme

from safedial.testing import Outage

HOST = "127.0.0.1"
USER = "app"
# The user that runs a server which refuses root.
_SERVANT = "postgres"


def find(name):
    """Return the path of a server's binary, which Debian keeps off the PATH; None if it is missing."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, reversed(versions))]))


def require(package, *names):
    """Return the paths of the binaries *names*, or skip and say how to install them."""
    found = [find(name) for name in names]
    if None in found:
        pytest.skip(f"{names[found.index(None)]} is missing: apt-get install {package}")
    return found


def _as_servant():
    return ["setpriv", f"--reuid={_SERVANT}", f"--regid={_SERVANT}", "--init-groups"] if os.geteuid() == 0 else []


def make_postgres(directory):
    """Make a data directory whose superuser is app, without a password; return the server's command."""
    initdb, postgres = require("postgresql", "initdb", "postgres")
    data = Path(directory, "postgres")
    data.mkdir()
    if os.geteuid() == 0:
        shutil.chown(data, _SERVANT, _SERVANT)
    options = ["-N", "-A", "trust", "-U", USER, "-E", "UTF8", "--no-locale", "--no-instructions"]
    _run([*_as_servant(), initdb, *options, "-D", str(data)])
    _certificate(data, _SERVANT)
    words = ["-D", str(data), "-h", "{host}", "-p", "{port}", "-k", "", "-F"]
    return [*_as_servant(), postgres, *words, "-c", "max_connections=20", "-c", "shared_buffers=1MB", "-c", "ssl=on"]


def await_the_end_of_sessions(command):
    """Wait until no session of a killed PostgreSQL is left: it refuses to start beside one.

    A session ends when it sees that its parent is gone, which takes a while on a busy machine.
    """
    data = Path(command[command.index("-D") + 1])
    identifier = (data / "postmaster.pid").read_text().splitlines()[6].split()[1]  # of its shared memory
    end = time.monotonic() + 20
    while time.monotonic() < end:
        rows = [row.split() for row in Path("/proc/sysvipc/shm").read_text().splitlines()]
        if not any(row[1] == identifier and row[6] != "0" for row in rows):  # shmid and nattch: proc_sysvipc(5)
            return
        time.sleep(0.02)


def make_mariadb(directory):
    """Make a data directory whose user is app, without a password; return the server's command."""
    install, mariadbd = require("mariadb-server", "mariadb-install-db", "mariadbd")
    data = Path(directory, "mariadb")
    as_root = ["--user=root"] if os.geteuid() == 0 else []
    options = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
    # A server that starts removes all temporary tables from its tmpdir, by default /tmp: other servers' too.
    own = ["--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M", "--innodb-flush-log-at-trx-commit=2"]
    own.append(f"--tmpdir={directory}")
    _run([install, "--no-defaults", *as_root, f"--datadir={data}", *options, *own])
    users = data / "users.sql"
    # One statement a line.
    users.write_text(
        f"CREATE DATABASE IF NOT EXISTS {USER};\n"
        f"CREATE USER IF NOT EXISTS {USER}@'%';\n"
        f"GRANT ALL ON *.* TO {USER}@'%';\n"
    )
    _certificate(data, "root")
    words = ["--bind-address={host}", "--port={port}", f"--socket={data}/socket", f"--pid-file={data}/pid"]
    return [
        *[mariadbd, "--no-defaults", *as_root, f"--datadir={data}", f"--init-file={users}"],
        *[*words, *own, "--skip-log-bin", "--skip-name-resolve"],
        *[f"--ssl-ca={data}/ca.crt", f"--ssl-cert={data}/server.crt", f"--ssl-key={data}/server.key"],
    ]


def _certificate(data, owner):
    """Write a certificate for localhost, under the names that PostgreSQL expects."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", HOST)
    authority.cert_pem.write_to_path(str(data / "ca.crt"))
    certificate.private_key_pem.write_to_path(str(data / "server.key"))
    for part, pem in enumerate(certificate.cert_chain_pems):
        pem.write_to_path(str(data / "server.crt"), append=part > 0)
    (data / "server.key").chmod(0o600)
    if os.geteuid() == 0:
        for path in data.glob("server.*"):
            shutil.chown(path, owner, owner)


def _run(command):
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, cwd="/", timeout=60, text=True
    )
    assert not done.returncode, f"{command}: {done.stdout[-2000:]}"


@pytest.fixture(scope="session")
def _directory():
    # pytest's own directory is closed to other users, and PostgreSQL runs as another user.
    with tempfile.TemporaryDirectory(prefix="safedial-databases-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)
        yield directory


@pytest.fixture(scope="session")
def postgres_command(_directory):
    return make_postgres(_directory)


@pytest.fixture(scope="session")
def mariadb_command(_directory):
    return make_mariadb(_directory)


@pytest.fixture
def postgres(postgres_command):
    """A running PostgreSQL, with the data of earlier tests."""
    with Outage(postgres_command, within=20) as server:
        postgres_answers(server.port)
        yield server
        server.stop()  # its processes are not one group, and outlive a kill for a moment


@pytest.fixture
def mariadb(mariadb_command):
    """A running MariaDB, with the data of earlier tests."""
    with Outage(mariadb_command, within=20) as server:
        # A server that is told to stop before it has started does not stop.
        pymysql.connect(host=HOST, port=server.port, user=USER).close()
        yield server


def is_starting(error):
    """Return whether PostgreSQL listens, but accepts no login yet; it says the second after an unclean stop."""
    return any(words in str(error) for words in ("starting up", "not yet accepting connections"))


def postgres_answers(port):
    """Wait until PostgreSQL accepts logins: it listens a moment before."""
    for _ in range(1000):
        try:
            psycopg.connect(host=HOST, port=port, user=USER, dbname="postgres").close()
        except psycopg.OperationalError as error:
            if not is_starting(error):
                raise
            time.sleep(0.01)
        else:
            return
    raise AssertionError("PostgreSQL is still starting")
