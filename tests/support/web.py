"""A web server, with or without TLS, and an HTTP proxy, on loopback, for the adapters of HTTP clients."""

import contextlib
import functools
import http.server
import select
import socket
import socketserver
import ssl
import threading
from dataclasses import dataclass, field

import trustme

from safedial.testing import dead_port


@dataclass
class Web:
    """A running server.

    Attributes:
        host, port: where it listens; the name ``localhost`` is in its certificate too.
        seen: a (method, path, peer's host, peer's port) for each request.
        connections: the number of accepted connections.
    """

    host: str
    port: int
    scheme: str
    seen: list = field(default_factory=list)
    connections: int = 0

    @property
    def url(self):
        return f"{self.scheme}://{'[' + self.host + ']' if ':' in self.host else self.host}:{self.port}/"


@functools.cache
def authority():
    return trustme.CA()


def client_context():
    """An SSLContext that trusts the server."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


@contextlib.contextmanager
def trust_file(tmp_path):
    """The path of the authority's certificate, for clients that take a file."""
    path = tmp_path / "authority.pem"
    authority().cert_pem.write_to_path(str(path))
    yield str(path)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def setup(self):
        super().setup()
        self.web.connections += 1

    def do_GET(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length) or b"hello"
        self.web.seen.append((self.command, self.path, *self.client_address[:2]))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  # the name is http.server's

    def do_CONNECT(self):
        """Be a proxy: open a tunnel to the address in the request."""
        self.web.seen.append((self.command, self.path, *self.client_address[:2]))
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), 5) as far:
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
            ends = {self.connection: far, far: self.connection}
            while readable := select.select(list(ends), [], [], 5)[0]:
                for end in readable:
                    if not (data := end.recv(65536)):
                        self.close_connection = True
                        return
                    ends[end].sendall(data)

    def log_message(self, *args):
        pass


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    # Do not wait for connections that a pool keeps open.
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, address, handler, context):
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.context = context
        self.open = set()
        super().__init__(address, handler)

    def server_bind(self):
        socketserver.TCPServer.server_bind(self)  # HTTPServer.server_bind() asks the name server

    def finish_request(self, request, client_address):
        self.open.add(request)
        try:
            with contextlib.suppress(OSError):
                if self.context is not None:
                    request = self.context.wrap_socket(request, server_side=True)
                    self.open.add(request)
                super().finish_request(request, client_address)
        finally:
            with contextlib.suppress(OSError):
                request.close()
            self.open.discard(request)

    def handle_error(self, request, client_address):
        pass

    def close_all(self):
        for each in list(self.open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def serve(scheme="http", host="127.0.0.1", port=None):
    """A `Web` that answers GET and POST, and CONNECT as a proxy does."""
    context = None
    if scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority().issue_cert("localhost", "127.0.0.1", "::1").configure_cert(context)
    web = Web(host, dead_port(host) if port is None else port, scheme)
    handler = type("Handler", (_Handler,), {"web": web})
    before = set(threading.enumerate())
    with _Server((host, web.port), handler, context) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield web
        finally:
            server.shutdown()
            server.close_all()
            for each in set(threading.enumerate()) - before:
                each.join(5)


def serve_once(sock, *_):
    """Answer one request, whose body is "once", on each connection."""
    sent = b""
    while not sent.endswith(b"once") and (data := sock.recv(65536)):
        sent += data
    if sent:
        sock.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nonce")


def ssl_contexts(authority, certificate):
    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(there)
    here = ssl.create_default_context()
    authority.configure_trust(here)
    return there, here
