"""Looking: who holds a port, what is connected to itself, and the waits that were not slept."""

import contextlib
import os
import socket
from types import SimpleNamespace

import pytest
import tenacity

from safedial import testing
from safedial._tcp.selfconnect import RESET
from safedial.testing.holders import holders

ME = f"of process {os.getpid()} ("


@contextlib.contextmanager
def connected_to_itself(port, host="127.0.0.1"):
    with testing.self_connect(port), socket.create_connection((host, port)) as sock:
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):  # closed by the test
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


class TestHolders:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
    def test_to_itself(self, dead_port, host):
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
        # The kernel may have drawn a port on which an older connection is still in TIME_WAIT.
        assert [each.partition(",")[0] for each in theirs if ME in each] == ["ESTABLISHED"]

    def test_the_same_port_of_another_address_is_not_itself(self, dead_port):
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
            sock.close()  # who closes first is in TIME_WAIT
            for _ in range(1000):
                server.stop()
                if (found := set(holders(port))) == {"TIME_WAIT, of no process any more"}:
                    break
        assert found == {"TIME_WAIT, of no process any more"}

    def test_a_self_connect_that_was_closed_plainly(self, dead_port):
        with connected_to_itself(dead_port) as sock:
            sock.close()
        assert holders(dead_port) == ["TIME_WAIT to itself, of no process any more"]


class TestIsSelfConnected:
    def nested(self, sock, depth):
        """As SQLAlchemy has it: its connection, the pool's, the driver's with its stream, the socket."""
        names = ["_sock", "_transport", "connection", "connection", "connection"]
        thing = sock
        for name in names[:depth]:
            thing = SimpleNamespace(**{name: thing})
        return thing

    @pytest.mark.parametrize("depth", range(5))
    def test_deep_in_objects(self, dead_port, depth):
        with connected_to_itself(dead_port) as sock:
            assert testing.is_self_connected(self.nested(sock, depth))
        with testing.Outage() as server, socket.create_connection(server.address) as sock:
            assert not testing.is_self_connected(self.nested(sock, depth))

    def test_not_deeper_than_clients_are(self):
        with socket.socket() as sock, pytest.raises(TypeError, match="no socket found"):
            testing.is_self_connected(self.nested(sock, 5))

    def test_objects_that_have_each_other(self):
        one, two = SimpleNamespace(), SimpleNamespace()
        one.connection, two.connection = two, one
        with pytest.raises(TypeError, match="no socket found"):
            testing.is_self_connected(one)


class TestAssertNoSelfConnects:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_names_the_port_and_the_descriptor(self, dead_port, host):
        with connected_to_itself(dead_port, host) as sock:
            with pytest.raises(AssertionError) as caught:
                testing.assert_no_self_connects()
            assert f"descriptor {sock.fileno()}, on {host} port {dead_port}" in str(caught.value)

    def test_names_all_of_them(self):
        one, two = testing.dead_port(), testing.dead_port()
        with connected_to_itself(one), connected_to_itself(two):
            with pytest.raises(AssertionError, match="connected to itself") as caught:
                testing.assert_no_self_connects()
            assert all(f"on 127.0.0.1 port {port}" in str(caught.value) for port in (one, two))

    def test_other_connections_are_fine(self):
        with testing.Outage() as server, socket.create_connection(server.address):
            testing.assert_no_self_connects()


class TestFastRetries:
    def fail(self):
        policy = tenacity.Retrying(wait=tenacity.wait_fixed(3600), stop=tenacity.stop_after_attempt(2), reraise=True)
        with pytest.raises(KeyError):
            policy({}.__getitem__, "x")

    def test_nested_the_inner_one_ends_first(self):
        """Though both lists are equal then, it is the inner one that records no more."""
        plain = tenacity.DoSleep
        with testing.fast_retries() as outer:
            with testing.fast_retries() as inner:
                assert outer == inner
            self.fail()
            assert (outer, inner) == ([3600], [])
        assert tenacity.DoSleep is plain

    def test_restored_after_an_error(self):
        plain = tenacity.DoSleep
        with pytest.raises(LookupError), testing.fast_retries(), testing.fast_retries():
            raise LookupError
        assert tenacity.DoSleep is plain

    def test_again_after_the_end(self):
        for _ in range(2):
            with testing.fast_retries() as waits:
                self.fail()
            assert waits == [3600]
