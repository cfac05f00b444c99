"""A database connection factory that survives an outage.

Runs without preparation: it starts its own MariaDB, kills it while a client uses it, lets the client dial the
dead port, and starts the server again on the same port.

    python examples/database_factory.py
"""

import functools
import getpass
import logging
import shutil
import subprocess
import tempfile
import threading
import time

import safedial
from safedial.testing import Outage

try:
    import pymysql
except ImportError:
    pymysql = None


def ask(connect, questions: int, between: float) -> list[int]:
    """Ask *questions* times, and make a new connection whenever the old one is lost."""
    answers: list[int] = []
    # Guarded, and dialed again for up to a minute: while nobody listens, and while the server starts.
    for each in safedial.connections(connect, policy=safedial.reconnect(within=60)):
        with each as connection, connection.cursor() as cursor:
            while len(answers) < questions:
                cursor.execute("SELECT 6 * 7")
                answers.append(cursor.fetchone()[0])
                time.sleep(between)
            break
    return answers


def run(directory: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)5d ms  %(message)s")
    options = ["--no-defaults", f"--datadir={directory}/data", f"--user={getpass.getuser()}"]
    install = ["mariadb-install-db", *options, "--auth-root-authentication-method=normal", "--skip-name-resolve"]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    sockets = [f"--socket={directory}/socket", f"--pid-file={directory}/pid"]
    command = ["mariadbd", *options, *sockets, "--bind-address={host}", "--port={port}"]
    with Outage(command, within=30) as server:
        address = {"host": server.host, "port": server.port}
        connect = functools.partial(pymysql.connect, **address, user="root", connect_timeout=5)
        answers: list[int] = []
        client = threading.Thread(target=lambda: answers.extend(ask(connect, questions=10, between=0.05)))
        client.start()
        time.sleep(0.3)
        logging.info("server is killed")
        server.kill()
        time.sleep(0.5)
        logging.info("server is up again, at try %d to bind", server.start().binds)
        client.join()
    print(f"{len(answers)} answers, all right: {set(answers) == {42}}")


def main() -> None:
    if pymysql is None:
        print("can't run: PyMySQL is missing: pip install PyMySQL")
    elif not (shutil.which("mariadbd") and shutil.which("mariadb-install-db")):
        print("can't run: MariaDB is missing: apt-get install mariadb-server")
    else:
        with tempfile.TemporaryDirectory() as directory:
            run(directory)


if __name__ == "__main__":
    main()
