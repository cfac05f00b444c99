"""Resolvers with scripted answers."""

from tests.support import faults


def addresses(*answers):
    """Return a resolver that always answers with these addresses. It may replace getaddrinfo() too."""
    return lambda *args, **hints: [faults.tcp(*address[:2]) for address in answers]


def hosts(*answers, port):
    """Return a resolver that answers with these hosts on *port*."""
    return addresses(*((host, port) for host in answers))


def servers(*sockets):
    """Return a resolver that answers with the addresses of these listening sockets."""
    return addresses(*(sock.getsockname() for sock in sockets))
