"""A SOCKS proxy, as a handler of `testing.Outage`."""

import socket

# The stdlib's class, though a test may put PySocks' in its place: the proxy would dial itself.
_Socket = socket.socket


def socks5(connection):
    """A SOCKS5 proxy that knows IPv4 addresses, and no password (RFC 1928)."""
    _, methods = connection.recv(2)
    connection.recv(methods)
    connection.sendall(b"\x05\x00")
    request = connection.recv(10)
    host, port = socket.inet_ntoa(request[4:8]), int.from_bytes(request[8:])
    with _Socket() as far:
        far.settimeout(5)
        far.connect((host, port))
        connection.sendall(b"\x05\x00\x00\x01" + bytes(6))
        while data := connection.recv(100):
            far.sendall(data)
            connection.sendall(far.recv(100))
