"""What a row of the matrix is: a client, used by one line of the docs."""

import asyncio
import inspect
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import safedial
from safedial._steps import finish

# Seconds. What a client may take to connect, and to answer: so short that a silent server is found soon.
CONNECT, ANSWER = 2, 5
# Seconds for all rounds of a Dialer's dial.
TOTAL = 60
# The line for a function of the user's own that makes a client, protects it by a Dialer that does not wait, uses it
# once, and returns it.
FACTORY = "wrap(connect, policy=…)"


# What happens until a client can be used. HTTP has no handshake; a request takes its place.
STAGES = ("dial", "TLS", "handshake")


# Keys of the notes under the table: why a client does not simply outlive an outage.
AFTER, DEAD, ENDLESS = "a", "b", "c"


@dataclass(frozen=True)
class Place:
    """Where a client dials, and how.

    Attributes:
        host, port: the address.
        policy: the policy of the line.
        ca: a file with the authority to trust; None without TLS.
        user, password, database: what a database wants to know.
    """

    host: str
    port: int
    policy: Any
    ca: str | None = None
    user: str | None = None
    password: str | None = None
    database: str | None = None


@dataclass(frozen=True)
class Row:
    """A client, used by one line of the docs.

    Attributes:
        client: its name in the table.
        line: the line, as the table shows it.
        server: the kind of its server.
        connect: takes a `Place`; returns a connection, or a client that dials when it is used.
        write: takes the connection and a key; writes one record, and has the server's word that it is there.
        close: takes the connection.
        covers: the last of `STAGES` that the policy of the line covers.
        keeps: whether users go on with the same object after the server was away.
        notes: by the names of outages, why it does not simply outlive them.
    """

    client: str
    line: str
    server: str
    connect: Callable[[Place], Any]
    write: Callable[[Any, str], Any]
    close: Callable[[Any], Any]
    covers: str = "handshake"
    keeps: bool = False
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def name(self):
        return f"{self.client}: {self.line}"

    @property
    def is_async(self):
        return inspect.iscoroutinefunction(self.write)

    def run(self, steps):
        """Run *steps*, a coroutine that awaits this client alone."""
        return asyncio.run(steps) if self.is_async else finish(steps, "a blocking client awaits")


async def settled(result):
    """Return *result*, awaited if it must be."""
    return await result if inspect.isawaitable(result) else result


def trusting(place):
    """Return the SSLContext that trusts the server's authority; None without TLS."""
    return ssl.create_default_context(cafile=place.ca) if place.ca else None


def dialer(place):
    """Return the Dialer that waits; without *total_timeout* the timeout of an async httpx would end all rounds."""
    return safedial.Dialer(timeout=CONNECT, total_timeout=TOTAL, policy=place.policy)


def close(connection):
    connection.close()


async def close_async(connection):
    await connection.close()


async def aclose(client):
    await client.aclose()
