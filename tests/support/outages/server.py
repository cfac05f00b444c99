"""What the real servers have in common: an `Outage` on a stable port, a port with TLS, the count of their records."""

import contextlib
import time
from pathlib import Path
from typing import ClassVar

from tests.support import web
from tests.support.databases import HOST

# Seconds that a server has to start, on a busy machine too.
WITHIN = 20
# A user who needs a password, and the password.
LOCKED, PASSWORD = "locked", "secret"


class Server:
    """One server, of one test.

    Attributes:
        outage: starts and ends it.
        tls_port: where it speaks TLS, with a certificate for localhost and 127.0.0.1.
        ca: the file with the certificate of the authority.
        durable: whether a crash loses no record.
        wrong: for "wrong password" and "unknown database", what a client gives instead of what is right, as arguments
            of `rows.Place`. Empty: it asks for neither.
    """

    durable = True
    wrong: ClassVar = {}

    def __init__(self, directory, outage, tls_port=None):
        self.directory, self.outage = directory, outage
        self.port = outage.port
        self.tls_port = tls_port or outage.port
        self.ca = str(Path(directory, "ca.pem"))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        try:
            self.outage.stop()
        finally:
            self.outage.kill()

    def start(self):
        until(self.outage.start)
        until(self.prepare)

    def prepare(self):
        """Make what clients need. Raises as long as the server is not ready."""

    def lock(self):
        """Ask for a password: of everybody, or of the user `LOCKED`."""

    def count(self, key):
        """Return how often the record *key* is there."""
        raise NotImplementedError

    def fill(self):
        """Take every connection that the server has. Return a function that gives them back."""
        raise NotImplementedError

    def crash(self):
        self.outage.kill()

    def end_in_order(self):
        """Begin to stop, as an administrator does it. Return a function that ends the stop, and starts the server."""
        self.outage.stop()
        return self.start

    def start_slowly(self):
        """Begin to start. Return a function that lets the start come to its end."""
        raise NotImplementedError


def until(function):
    """Return what *function* returns once it does not raise."""
    end = time.monotonic() + WITHIN
    while True:
        try:
            return function()
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def fill_up(server, connect, refused):
    """Connect until *server* raises *refused*. Return a function that closes the connections."""
    with contextlib.ExitStack() as stack:
        stack.callback(until, server.prepare)  # it takes a moment to see that they are closed
        for _ in range(200):
            try:
                stack.callback(connect().close)
            except refused:
                return stack.pop_all().close
        raise AssertionError("the server takes any number of connections")


def certify(directory):
    """Write a certificate, its key, and that of its authority, `web.authority`; return their files."""
    issued = web.authority().issue_cert("localhost", HOST)
    issued.private_key_pem.write_to_path(str(Path(directory, "key.pem")))
    issued.cert_chain_pems[0].write_to_path(str(Path(directory, "cert.pem")))
    web.authority().cert_pem.write_to_path(str(Path(directory, "ca.pem")))
    return {name: str(Path(directory, f"{name}.pem")) for name in ("key", "cert", "ca")}
