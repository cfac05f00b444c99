"""Connections counted in /proc/net/tcp, compared with ss."""

import os
import shutil
import socket
from io import FileIO
from pathlib import Path

import pytest

import safedial
from safedial._tcp import procnet, steering, usage
from tests.support import exhaustion, faults, namespace

pytestmark = pytest.mark.skipif(shutil.which("ss") is None, reason="compares with ss (Debian: iproute2)")


@pytest.mark.parametrize("host", ["::ffff:127.0.0.1", "0.0.0.0", "::1", "::"])
def test_other_spellings_of_the_destination_are_counted(host):
    namespace.require()
    found = namespace.call(exhaustion.exhaust, "safe_connect", 40000, None, host, port_range=exhaustion.RANGE)
    assert found["in use"] == found["ss"] == 10


def test_v4_mapped_clients_are_counted():
    namespace.require()
    assert namespace.call(usage_of_a_v4_mapped_client) == [1, 1]


def usage_of_a_v4_mapped_client():
    """Count the connection of an IPv6 socket to an IPv4 server."""
    with faults.listener() as server, socket.socket(socket.AF_INET6) as client:
        address = server.getsockname()
        client.connect((f"::ffff:{address[0]}", address[1]))
        another = 40001 if client.getsockname()[1] == 40000 else 40000
        outside = usage.count(address, None, steering.PortRange(another, another)).in_use
        assert outside == 0, "only the exhausted range counts"
        return [usage.count(address, None, None).in_use, exhaustion.count_with_ss(address[1])]


def test_row_that_comes_twice_is_one_socket(monkeypatch, tmp_path):
    """As it does now and then if sockets come and go while the file is read."""
    # Its address is its own: others of this port may have left connections in TIME_WAIT.
    with socket.create_server(("127.78.0.1", 0)) as server, socket.create_connection(address := server.getsockname()):
        for table in ("tcp", "tcp6"):
            (tmp_path / table).write_bytes(Path("/proc/thread-self/net", table).read_bytes() * 2)
    monkeypatch.setattr(procnet, "FileIO", lambda path: FileIO(tmp_path / Path(path).name))
    assert len(procnet.connections_to(address)) == 1
    rows = list(procnet.sockets_on(address[1]))
    assert len(rows) == len(set(rows)) == 2, "the listener and the accepted connection"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "255.0.1.2", "0.0.0.0", "::1", "fe80::1:2:3:ff", "::", "2001:db8::ffff:1"]
)
def test_addresses_are_spelled_and_read(host):
    assert procnet.read(procnet.spell(host, 40000)) == (host, 40000)


def test_mapped_addresses_are_spelled_as_ipv4():
    assert procnet.spell("::ffff:127.0.0.5", 80) == procnet.spell("127.0.0.5", 80)
    with (
        socket.create_server(("127.78.0.2", 0)) as server,
        socket.socket(socket.AF_INET6) as client,
    ):
        port = server.getsockname()[1]
        client.connect(("::ffff:127.78.0.2", port))
        local, peer = client.getsockname()[:2], procnet.spell("127.78.0.2", port)
        assert [row.local for row in procnet.rows("tcp6") if row.peer == peer] == [procnet.spell(*local)]
        assert [row.inode for row in procnet.rows("tcp", procnet.LISTENING) if row.local == peer] == [
            b"%d" % os.fstat(server.fileno()).st_ino
        ]


def test_time_wait_is_counted():
    namespace.require()
    found = namespace.call(exhaust_with_time_wait, port_range=exhaustion.RANGE)
    assert found["in use"] == 10
    assert found["time wait"] == found["ss time wait"] == 4


def exhaust_with_time_wait():
    with faults.listener(port=40000) as server:
        address = server.getsockname()
        held = [safedial.safe_connect(address) for _ in range(10)]
        accepted = [server.accept()[0] for _ in held]
        for near, far in zip(held[:4], accepted[:4], strict=True):
            near.close()  # the side that closes first is the one in TIME_WAIT
            far.close()
        try:
            safedial.safe_connect(address, policy=None).close()
        except safedial.PortsExhaustedError as error:
            usage = error.usage
            return {
                "in use": usage.in_use,
                "time wait": usage.time_wait,
                "ss time wait": exhaustion.count_with_ss(40000, "time-wait"),
            }
        finally:
            for sock in held[4:] + accepted[4:]:
                sock.close()
    return None
