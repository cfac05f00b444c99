"""Who holds a port."""

import os
import socket

import pytest

from safedial import testing
from safedial._tcp.selfconnect import RESET
from safedial.testing.holders import holders
from tests.support.plain import connected_to_itself

ME = f"of process {os.getpid()} ("


class TestHolders:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
    def test_self_connected_socket(self, dead_port, host):
        with connected_to_itself(dead_port, host):
            (found,) = holders(dead_port)
        assert found.startswith(f"ESTABLISHED to itself, {ME}")
        assert holders(dead_port) == []

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_a_server_and_its_connection(self, host):
        with testing.Outage(host=host) as server, socket.create_connection(server.address) as sock:
            sock.sendall(b"x")
            sock.recv(1)
            found = holders(server.port)
            theirs = holders(sock.getsockname()[1])
        assert sorted(each.partition(",")[0] for each in found) == ["ESTABLISHED", "LISTEN"]
        assert all(f", {ME}" in each for each in found)
        # The kernel may have drawn a port that also an older connection in TIME_WAIT has.
        assert [each.partition(",")[0] for each in theirs if ME in each] == ["ESTABLISHED"]

    def test_same_port_at_another_address_is_no_self_connect(self, dead_port):
        with socket.create_server(("127.0.0.1", dead_port)) as server, socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.bind(("127.0.0.2", dead_port))
            sock.connect(("127.0.0.1", dead_port))
            accepted, _ = server.accept()
            with accepted:
                found = holders(dead_port)
        assert len(found) == 3
        assert not any("to itself" in each for each in found)

    def test_time_wait(self):
        with testing.Outage() as server, socket.create_connection(server.address) as sock:
            port = sock.getsockname()[1]
            sock.close()  # the side that closes first is in TIME_WAIT
            for _ in range(1000):
                server.stop()
                if (found := set(holders(port))) == {"TIME_WAIT, of no process any more"}:
                    break
        assert found == {"TIME_WAIT, of no process any more"}

    def test_time_wait_of_a_self_connect(self, dead_port):
        with connected_to_itself(dead_port) as sock:
            sock.close()
        assert holders(dead_port) == ["TIME_WAIT to itself, of no process any more"]


def test_holders_of_a_free_port(dead_port):
    assert holders(dead_port) == []
