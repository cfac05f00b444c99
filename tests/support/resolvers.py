"""Resolvers whose answers a test chooses."""

import socket

from tests.support import faults


def named(first, second, port):
    def getaddrinfo(*args, **kwds):
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (host, port, 0, 0))
            if ":" in host
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
            for host in (first, second)
        ]

    return getaddrinfo


def names(*answers):
    """A resolver that gives these addresses for every name."""
    return lambda host, port, **hints: [faults.tcp(*address[:2]) for address in answers]


def servers(*sockets):
    return names(*(sock.getsockname() for sock in sockets))
