"""The command as people run it: real servers that boot while it waits, and others' tool as the before."""

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import sys

import pytest

from safedial import cli
from safedial.testing import Outage, dead_port
from safedial.testing.holders import holders
from tests.support import faults, namespace, redis_server
from tests.support.databases import _directory, mariadb_command, postgres_command  # noqa: F401  # fixtures

HOST = "127.0.0.1"
PASSWORD = "s3cret/of?all$HOME"
# Seconds; ample. A test that fails is not to hang.
LIMIT = 30
COMMAND = ("--", sys.executable, "-c", "print('started')")
MAIN = """
import sys
from safedial import cli
from safedial._tcp import steering
steering._steerable = steering._steerable and {steered}
sys.exit(cli.main())
"""


class Waiting:
    """A process of ``safedial wait``."""

    def __init__(self, *arguments, steered=True, environ=None):
        self.said = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN.format(steered=steered), "wait", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(environ or {})},
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        with self.process:
            pass

    def until(self, text):
        """Read what it says until a line has *text*."""
        for line in self.process.stderr:
            self.said += line
            if text in line:
                return
        raise AssertionError(f"it never said {text!r}, but: {self.said}")

    def end(self):
        """Return its exit status, or that of the command in its place, and what that printed."""
        printed, said = self.process.communicate(timeout=LIMIT)
        self.said += said
        return self.process.returncode, printed


def waits_for(outage, *arguments, target=None, **options):
    """Wait for *outage*, start it when the wait is under way, and return what the wait said."""
    target = target or f"{HOST}:{outage.port}"
    with Waiting(target, f"--timeout={LIMIT}", *arguments, *COMMAND, **options) as waiting:
        waiting.until("Connection refused")
        outage.start()
        assert waiting.end() == (0, "started\n"), waiting.said
        return waiting.said


def test_redis_that_boots(tmp_path, steer):
    """Its URL comes from the environment, unexpanded, as in a container without a shell."""
    with contextlib.ExitStack() as stack:
        outage = redis_server.server(tmp_path, "--requirepass", PASSWORD, "--port", "{port}")
        stack.callback(outage.kill)
        url = f"redis://app:{PASSWORD.replace('/', '%2F').replace('?', '%3F')}@{HOST}:{outage.port}/0?password=s3cret"
        said = waits_for(outage, target="$REDIS_URL", steered=steer, environ={"REDIS_URL": url})
    assert f"redis://{HOST}:{outage.port}: ready after" in said
    assert "s3cret" not in said
    assert "of%3Fall" not in said


@pytest.mark.storm
def test_redis_with_tls(tmp_path):
    outage, ca = redis_server.tls_server(tmp_path)
    try:
        outage.stop()
        url = f"rediss://localhost:{outage.port}"
        waits_for(outage, f"--ca={ca}", target=url)
        with Waiting(url, "--insecure") as waiting:
            assert waiting.end() == (0, "")
        with Waiting(url, "--timeout=1s") as waiting:
            assert waiting.end() == (124, "")
        assert f"{url}: not ready: its certificate is not accepted" in waiting.said
        assert "--ca FILE" in waiting.said
    finally:
        outage.kill()


@pytest.mark.parametrize("place", [f"{HOST}:{{port}}", "no.such.invalid", f"{HOST}:0", f"{HOST},b", f"{HOST}/@"])
@pytest.mark.parametrize("given", ["$URL", "{url}"])
def test_no_output_has_a_password(dead_port, capfd, monkeypatch, given, place):
    """Neither of a wait that fails, nor of a URL that is none."""
    url = f"redis://app:s3cret$s3cret@{place.format(port=dead_port)}?password=s3cret"
    monkeypatch.setenv("URL", url)
    try:
        status = cli.main(["wait", given.format(url=url), "--timeout=50ms", "--json"])
    except SystemExit as end:
        status = end.code
    printed = "".join(capfd.readouterr())
    assert status in (2, 124), printed
    assert "redis://" in printed or "$URL" in printed
    assert "s3cret" not in printed


@pytest.mark.storm
def test_postgresql_that_boots(postgres_command):  # noqa: F811  # the fixture
    outage = Outage(postgres_command, within=20)
    try:
        url = f"postgresql+psycopg://app:{PASSWORD.replace('/', '%2F').replace('?', '%3F')}@{HOST}:{outage.port}/app"
        said = waits_for(outage, "--stays=300ms", target="${DATABASE_URL}", environ={"DATABASE_URL": url})
    finally:
        outage.stop()  # its processes are not one group
    assert f"postgresql://{HOST}:{outage.port}: ready after" in said
    assert "s3cret" not in said


@pytest.mark.storm
def test_postgresql_that_boots_on_a_unix_socket(postgres_command):  # noqa: F811  # the fixture
    data = postgres_command[postgres_command.index("-D") + 1]
    outage = Outage([*postgres_command, "-k", data], within=20)
    target = f"postgresql://app@localhost/app?host={data}&port={outage.port}"
    with Waiting(target, f"--timeout={LIMIT}", "--stays=300ms", *COMMAND) as waiting:
        try:
            waiting.until("No such file or directory")
            outage.start()
            assert waiting.end() == (0, "started\n")
        finally:
            outage.stop()
    assert f"unix:{data}/.s.PGSQL.{outage.port}: ready after" in waiting.said


@pytest.mark.storm
def test_mariadb_that_boots_by_its_banner(mariadb_command):  # noqa: F811  # the fixture
    outage = Outage(mariadb_command, within=20)
    try:
        waits_for(outage, "--expect=MariaDB")
        with Waiting(f"{HOST}:{outage.port}", "--expect=PostgreSQL", "--timeout=4s") as waiting:
            assert waiting.end() == (124, "")
        assert "not 'PostgreSQL'" in waiting.said
    finally:
        outage.kill()


# --- A self-connect: a range of two ports, of which the dead one is drawn first ---------------------------------

RANGE = (40000, 40001)
PORT = RANGE[0]


@pytest.mark.storm
@pytest.mark.skipif(sys.platform != "linux", reason="needs network namespaces")
def test_before_a_dead_port_is_taken_for_a_server():
    if (tool := shutil.which("wait-for-it", path=os.path.dirname(sys.executable))) is None:
        pytest.skip("wait-for-it is not installed: pip install wait-for-it")
    namespace.require()
    said, left, error = namespace.call(waits_with, tool, port_range=RANGE)
    assert f"[+] {HOST}:{PORT} is available" in said
    assert left == ["TIME_WAIT to itself, of no process any more"]
    assert error == errno.EADDRINUSE


def waits_with(tool):
    """Return what the *tool* says of a dead port, what it leaves there, and how a server's bind ends."""
    done = subprocess.run([tool, "-s", f"{HOST}:{PORT}", "-t", "5"], capture_output=True, text=True, check=True)
    left = holders(PORT)
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((HOST, PORT))
            server.listen()
        except OSError as error:
            return done.stdout, left, error.errno
    return done.stdout, left, None


@pytest.mark.storm
@pytest.mark.skipif(sys.platform != "linux", reason="needs network namespaces")
def test_a_dead_port_is_waited_for_until_its_server_comes(steer):
    if steer:
        faults.require_option()
    namespace.require()
    said, left = namespace.call(waits_beside_a_server, steer, port_range=RANGE)
    assert ("to itself" in said) is not steer
    assert f"{HOST}:{PORT}: ready after" in said
    assert left == []


def waits_beside_a_server(steered):
    """Return what the wait said, and what it had left of the port when the server came, which could bind at once."""
    with Waiting(f"{HOST}:{PORT}", f"--timeout={LIMIT}", *COMMAND, steered=steered) as waiting:
        waiting.until("Connection refused")
        left = holders(PORT)
        with socket.create_server((HOST, PORT)):
            assert waiting.end() == (0, "started\n"), waiting.said
        return waiting.said, left


# --- A forwarder, such as docker's: it accepts long before its server does ---------------------------------------

FORWARDER = """
import socket, sys, threading
def forward(near, far):
    while data := near.recv(65536):
        far.sendall(data)
    far.shutdown(socket.SHUT_WR)
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    while True:
        client, _ = listener.accept()
        try:
            server = socket.create_connection(("127.0.0.1", int(sys.argv[1])), source_address=("127.0.0.1", 0))
        except OSError:
            client.close()
            continue
        for pair in ((client, server), (server, client)):
            threading.Thread(target=forward, args=pair, daemon=True).start()
"""


@contextlib.contextmanager
def forwarder(port):
    """A process that forwards to *port*; yield its own port."""
    with subprocess.Popen([sys.executable, "-c", FORWARDER, str(port)], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.storm
def test_a_forwarder_whose_server_is_down():
    with forwarder(dead_port()) as port:
        with Waiting(f"{HOST}:{port}", *COMMAND) as waiting:
            assert waiting.end() == (0, "started\n")
        with Waiting(f"{HOST}:{port}", "--stays=200ms", "--timeout=1s", *COMMAND) as waiting:
            assert waiting.end() == (124, "")
    assert f"{HOST}:{port}: hint: A forwarder, such as docker's, or a proxy accepts" in waiting.said


@pytest.mark.storm
def test_a_forwarder_whose_server_comes():
    outage = Outage()
    with forwarder(outage.port) as port, Waiting(f"{HOST}:{port}", "--stays=200ms", *COMMAND) as waiting:
        try:
            waiting.until("closed it again")
            outage.start()
            assert waiting.end() == (0, "started\n")
        finally:
            outage.kill()
