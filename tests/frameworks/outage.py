"""An outage of an application's server, in a namespace where every dial of the dead port draws that port."""

import contextlib
import functools
import socket
import sys
from pathlib import Path
from typing import NamedTuple

from safedial._tcp import procnet
from safedial.testing import Outage
from tests.frameworks.application import Application
from tests.frameworks.uses import WITHIN, Uses, word
from tests.support import namespace
from tests.support.databases import HOST
from tests.support.outages import servers
from tests.support.outages.server import Server, until

# Uses, at least, of an application whose server is away. One dial would do: while the server is away the range is two
# ports wide, and connect() draws the even one first (Linux, __inet_hash_connect), which is the server's.
USES = 12
# Ephemeral ports while the server is up: an application has several connections.
_PORTS = 100

TAKEN = "its server can't bind"
_BUCKETS = Path("/proc/sys/net/ipv4/tcp_max_tw_buckets")

# A server that sends back what it gets.
_REPLIER = """
import sys, zmq
replier = zmq.Context().socket(zmq.REP)
replier.bind(f"tcp://{sys.argv[1]}:{sys.argv[2]}")
while True:
    replier.send(replier.recv())
"""


class ZeroMQ(Server):
    def __init__(self, directory):
        super().__init__(directory, Outage([sys.executable, "-c", _REPLIER, "{host}", "{port}"], within=WITHIN))


KINDS = {**servers.KINDS, "ZeroMQ": ZeroMQ}


class Report(NamedTuple):
    """What an application did while its server was away, and afterwards.

    Attributes:
        faults: what went wrong, in words.
        uses: how often it was used meanwhile.
        recovered: whether it then read what it wrote.
    """

    faults: list[str]
    uses: int
    recovered: bool = False


def through_outage(row, kind, data):
    """Run the application of *row*, installed and then plain, while its server is killed; return both reports.

    A socket that met itself holds the port. So there is no second report if the first has a fault.
    """
    _BUCKETS.write_text("0")
    with KINDS[kind](data) as server:
        installed = _installed(row, server)
        return installed, None if installed.faults else _plain(row, server)


def _installed(row, server):
    with _away(row, server, installed=True) as uses:
        uses.wait(USES, WITHIN)
        count = len(uses.replies)
        if faults := uses.faults():
            return Report(faults, count)
        _spread(server.port)
        faults = _come_back(server)
        recovered = uses.wait_until_right(WITHIN)
        return Report(faults + uses.wrong_data(), count, recovered)


def _plain(row, server):
    with _away(row, server, installed=False) as uses:
        uses.wait(3 * USES, WITHIN)
        return Report(uses.faults() + _port_is_taken(server.port), len(uses.replies))


def while_refused(row, installed):
    """Use the application of *row* while nobody has ever listened; return its report."""
    low = 40000
    _narrow(low)
    port = low + row.odd  # connect() draws the even port first, bind() the odd one
    with Application(row, (HOST, port), installed) as app, Uses(app, port) as uses:
        uses.wait(3 if installed else 30, WITHIN)
        return Report(uses.faults(), len(uses.replies))


@contextlib.contextmanager
def _away(row, server, installed):
    """Start the server and the application, kill the server, and yield the application's uses from then on."""
    _spread(server.port)
    server.start()
    with Application(row, server.outage.address, installed) as app:
        reply = app.ask(word(), WITHIN)
        assert reply.right, f"{reply} {app.printed()}"
        server.crash()
        if not installed:  # it must not meet itself yet
            namespace.set_port_range(server.port + 2, server.port + _PORTS)
        until(functools.partial(_notice, app, server.port))
        _narrow(server.port)
        with Uses(app, server.port) as uses:
            yield uses


def _spread(port):
    """Let the kernel draw other ports too, and leave nothing in TIME_WAIT.

    A server that closes a connection, or is killed, keeps its port in TIME_WAIT, which would shield it for a minute.
    """
    # The server's port is the lowest in both ranges, whichever of them a client remembers.
    namespace.set_port_range(port, port + _PORTS)
    _BUCKETS.write_text("0")


def _narrow(port):
    """Let the kernel draw *port*, and let connections that end stay in TIME_WAIT, where they can be seen."""
    namespace.set_port_range(port, port + 1)
    _BUCKETS.write_text("1000")


def _notice(app, port):
    """Let the application find that its connections are dead, and close them. A pool may have several."""
    app.ask(word(), WITHIN)
    # The last acknowledgement may come 40 ms late (TCP_DELACK_MIN, include/net/tcp.h).
    assert not list(procnet.sockets_on(port))


def _come_back(server):
    """Start the server; return the faults of its start."""
    faults = []

    def start():
        try:
            return server.outage.start().binds
        except OSError as error:
            # It is no fault that PostgreSQL starts only after the last process of a killed one has ended.
            if "Address already in use" in str(error):
                faults.append(f"its server could not bind: {error}")
            raise

    if (binds := until(start)) > 1:
        faults.append(f"its server bound at try {binds}")
    until(server.prepare)
    return faults


def _port_is_taken(port):
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            sock.bind((HOST, port))
            sock.listen()
        except OSError as error:
            return [f"{TAKEN}: {error}"]
    return []
