"""Servers on a port of loopback that handle each connection in a thread, with a few handlers."""

import contextlib
import socket

from safedial import testing
from safedial._tcp.selfconnect import RESET
from safedial.testing.servers import ThreadServer


@contextlib.contextmanager
def serving(handler, port=None, host="127.0.0.1"):
    """Yield the port of a server that calls *handler* with each connection, and then closes it."""
    port = testing.dead_port(host) if port is None else port
    server = ThreadServer((host, port), lambda connection, _: handler(connection), _raise)
    try:
        server.begin()
        yield port
    finally:
        server.end(kill=False)


def _raise(error):
    raise error


def close(_):
    """A forwarder whose server is down."""


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def half_close(sock):
    sock.shutdown(socket.SHUT_WR)
    wait(sock)


def wait(sock):
    """Say nothing, until the client closes the connection."""
    while sock.recv(65536):
        pass


def say(*pieces):
    """Send the *pieces* one by one, and wait for the client."""

    def handler(sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            sock.sendall(piece)
        wait(sock)

    return handler


def flood(sock):
    while True:
        sock.sendall(bytes(65536))


def tls(context, handler):
    """Shake hands, and handle the connection in TLS."""

    def encrypted(sock):
        with context.wrap_socket(sock, server_side=True) as inner:
            handler(inner)

    return encrypted


def answer(*heads, body=b"", requests=None):
    """Read the head of a request, send the next of *heads* (or again the last) and *body*, and close."""
    left = list(heads)

    def handler(sock):
        request = b""
        while b"\r\n\r\n" not in request and (data := sock.recv(65536)):
            request += data
        if requests is not None:
            requests.append(request)
        sock.sendall((left.pop(0) if len(left) > 1 else left[0]) + body)

    return handler
