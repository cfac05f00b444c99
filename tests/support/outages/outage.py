"""The outages. Each begins when it is told to, and ends when every client has met it: no test waits for a clock."""

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from safedial import testing
from tests.support.databases import HOST
from tests.support.outages.forwarder import Forwarder
from tests.support.outages.hosts import NAME, Hosts

# Seconds after which a connect has no answer, on a busy machine too; and the most connections that may still be taken.
_SOON, _LATE = 0.3, 10


@dataclass(frozen=True)
class Scene:
    """Where an outage happens.

    Attributes:
        host, port: what clients dial.
        begin: begins the outage; returns a function that ends it.
        ca: the authority that clients must trust, if they must use TLS.
        hosts: the names that clients see; None: the system's.
    """

    host: str
    port: int
    begin: Callable[[], Callable[[], Any]]
    ca: str | None = None
    hosts: Hosts | None = None


@dataclass(frozen=True)
class Outage:
    """A kind of outage.

    Attributes:
        name: its name in the table.
        scene: a context manager that takes the server, which is up, and yields a `Scene`.
        session: whether each client has a connection when it begins.
        rounds: how many dials of each client fail before it ends. One, if each takes a time limit.
        one_by_one: whether each client waits until the last one has met it: the kernel can't connect two sockets to
            the same port of themselves at a time.
        servers: the kinds of servers that can have it; empty: all.
        by_name: whether clients must see names of ours.
        stage: the first of `rows.STAGES` that fails.
    """

    name: str
    scene: Callable[..., Any]
    session: bool = False
    rounds: int = 2
    one_by_one: bool = False
    servers: tuple[str, ...] = ()
    by_name: bool = False
    stage: str = "dial"


def at(begin):
    """Return the scene of an outage of the server itself; *begin* takes the server."""

    @contextlib.contextmanager
    def scene(server, directory):
        yield Scene(HOST, server.port, lambda: begin(server))

    return scene


def refuse(server):
    server.outage.stop()
    return server.start


def crash(server):
    server.crash()
    return server.start


def freeze(server):
    server.outage.freeze()
    # A server that is busy is not suspended at once, and may take one more connection from the full backlog.
    late = contextlib.ExitStack()
    with contextlib.suppress(TimeoutError):
        for _ in range(_LATE):
            late.enter_context(socket.create_connection((HOST, server.port), _SOON))

    def thaw():
        late.close()
        server.outage.start()

    return thaw


def behind_forwarder(mode, *, tls=False):
    @contextlib.contextmanager
    def scene(server, directory):
        with Forwarder(server.tls_port if tls else server.port, mode) as forwarder:
            yield Scene(HOST, forwarder.ports[0], lambda: forwarder.recover, server.ca if tls else None)

    return scene


@contextlib.contextmanager
def nameless(server, directory):
    hosts = Hosts(directory)
    yield Scene(NAME, server.port, lambda: lambda: hosts.add(NAME), hosts=hosts)


@contextlib.contextmanager
def two_addresses(server, directory):
    yield Scene("localhost", server.port, lambda: refuse(server), hosts=Hosts(directory))


@contextlib.contextmanager
def to_itself(server, directory):
    with contextlib.ExitStack() as stack:

        def begin():
            server.outage.stop()
            stack.enter_context(testing.self_connect(server.port))
            return end

        def end():
            stack.close()
            testing.assert_no_self_connects()
            server.start()
            assert server.outage.started.binds == 1, f"the port was held: {server.outage.started.holders}"

        yield Scene(HOST, server.port, begin)


OUTAGES = [
    Outage("refused", at(refuse)),
    Outage("crash, restart", at(crash), session=True),
    Outage("orderly restart", at(lambda server: server.end_in_order()), session=True),
    Outage("starting up", at(lambda server: server.start_slowly()), servers=("PostgreSQL", "Redis"), stage="handshake"),
    Outage(
        "too many clients",
        at(lambda server: server.fill()),
        servers=("PostgreSQL", "MariaDB", "Redis", "Memcached"),
        stage="handshake",
    ),
    Outage("accepts, then FIN", behind_forwarder("fin"), stage="handshake"),
    Outage("accepts, then RST", behind_forwarder("rst"), stage="handshake"),
    Outage("no such name", nameless, by_name=True),
    Outage("two addresses", two_addresses, by_name=True),
    Outage("self-connect", to_itself, rounds=1, one_by_one=True),
    Outage("frozen", at(freeze), rounds=1),
    Outage("TLS silent", behind_forwarder("silent", tls=True), rounds=1, stage="TLS"),
]
BY_NAME = {outage.name: outage for outage in OUTAGES}
