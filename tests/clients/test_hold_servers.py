"""Real servers start while their port is held, also if they were killed, and are reached."""

import asyncio
import contextlib
import errno
import http.client
import http.server
import socket
import socketserver
import threading

import pytest

import safedial
from safedial.testing import Outage
from tests.support import databases
from tests.support.databases import _directory, mariadb_command, postgres_command  # noqa: F401  # fixtures
from tests.support.holds import HOST

# On 0.0.0.0 a server is nearest to the holder's address. IPv6 is a matter of the server's settings.
HOSTS = [HOST, "0.0.0.0"]


def redis(directory, request, address):
    (binary,) = databases.require("redis-server", "redis-server")
    return [
        binary,
        "--bind",
        "{host}",
        "--port",
        "{port}",
        "--dir",
        str(directory),
        "--save",
        "",
        "--protected-mode",
        "no",
    ]


def memcached(directory, request, address):
    (binary,) = databases.require("memcached", "memcached")
    return [binary, "-u", "nobody", "-l", "{host}", "-p", "{port}", "-t", "1"]


def nginx(directory, request, address):
    (binary,) = databases.require("nginx-light", "nginx")
    paths = "".join(f"{name}_temp_path {directory};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    server = f"server {{ listen {address}; return 204; }}"
    settings = directory / "nginx.conf"
    settings.write_text(
        f"daemon off; pid {directory}/pid; error_log stderr; events {{ }} http {{ access_log off; {paths} {server} }}"
    )
    return [binary, "-p", str(directory), "-c", str(settings), "-e", "stderr"]


def postgres(directory, request, address):
    return request.getfixturevalue("postgres_command")


def mariadb(directory, request, address):
    return request.getfixturevalue("mariadb_command")


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    "make", [redis, *(pytest.param(each, marks=pytest.mark.storm) for each in (memcached, nginx, postgres, mariadb))]
)
def test_server_starts_and_starts_again(make, host, tmp_path, request, dead_port):
    """`Outage` waits until the server is reached. It is killed with a connection open."""
    outage = Outage(make(tmp_path, request, f"{host}:{dead_port}"), host=host, port=dead_port, within=30)
    with safedial.hold((HOST, dead_port)), outage:
        for _ in range(2):
            with socket.create_connection((HOST, dead_port), 10):
                outage.kill()
            outage.start()  # which tries for a while: processes of a killed PostgreSQL listen for a moment more
            assert outage.state == "up"
        outage.stop()


@pytest.mark.parametrize("host", HOSTS)
def test_asyncio_server(host, dead_port):
    async def serve(reader, writer):
        writer.close()
        await writer.wait_closed()

    async def main():
        for _ in range(2):
            async with await asyncio.start_server(serve, host, dead_port):
                reader, writer = await asyncio.open_connection(HOST, dead_port)
                assert await reader.read() == b""
                writer.close()
                await writer.wait_closed()

    with safedial.hold((HOST, dead_port)):
        asyncio.run(main())


@pytest.mark.parametrize("host", HOSTS)
def test_http_server(host, dead_port):
    with safedial.hold((HOST, dead_port)):
        for _ in range(2):
            with running(http.server.ThreadingHTTPServer((host, dead_port), Handler)):
                client = http.client.HTTPConnection(HOST, dead_port, timeout=10)
                client.request("GET", "/")
                with contextlib.closing(client), client.getresponse() as response:
                    assert response.status == 204


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args):
        pass


class TestServerWithoutReuse:
    """`socketserver.TCPServer` sets SO_REUSEADDR only if it is told to."""

    def test_on_one_address(self, dead_port):
        with (
            safedial.hold((HOST, dead_port)),
            running(socketserver.TCPServer((HOST, dead_port), Hello)),
            socket.create_connection((HOST, dead_port), 10) as client,
        ):
            assert client.recv(5) == b"hello"

    def test_on_all_addresses(self, dead_port):
        with safedial.hold((HOST, dead_port)), pytest.raises(OSError, match="in use") as caught:
            socketserver.TCPServer(("0.0.0.0", dead_port), Hello)
        assert caught.value.errno == errno.EADDRINUSE
        socketserver.TCPServer(("0.0.0.0", dead_port), Hello).server_close()

    def test_on_all_addresses_if_it_is_told_to(self, dead_port):
        class Reusing(socketserver.TCPServer):
            allow_reuse_address = True

        with safedial.hold((HOST, dead_port)):
            Reusing(("0.0.0.0", dead_port), Hello).server_close()


class Hello(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"hello")


@contextlib.contextmanager
def running(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    with server:
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
