"""Finding self-connects: in the objects that clients return, and in the whole process."""

import asyncio
import http.client
import os
import socket
from types import SimpleNamespace

import pytest
import redis

from safedial import testing
from safedial.testing.scan import connections
from tests.support import dials
from tests.support.plain import connected_to_itself, ends_of


def redis_connection(host, port):
    connection = redis.Connection(host, port, redis_connect_func=lambda connection: None)  # no handshake
    connection.connect()
    return connection


def http_connection(host, port):
    connection = http.client.HTTPConnection(host, port)
    connection.connect()
    return connection


class TestIsSelfConnected:
    def nested(self, sock, depth):
        """Wrap *sock* like SQLAlchemy: its connection, the pool's, the driver's, its stream, the socket."""
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

    def test_depth_is_limited(self):
        with socket.socket() as sock, pytest.raises(TypeError, match="no socket found"):
            testing.is_self_connected(self.nested(sock, 5))

    def test_objects_that_refer_to_each_other(self):
        one, two = SimpleNamespace(), SimpleNamespace()
        one.connection, two.connection = two, one
        with pytest.raises(TypeError, match="no socket found"):
            testing.is_self_connected(one)

    @pytest.mark.parametrize(
        "connect", [lambda *address: socket.create_connection(address), http_connection, redis_connection]
    )
    def test_connections_of_clients(self, connect, dead_port, server):
        with testing.self_connect(dead_port):
            connection = connect("127.0.0.1", dead_port)
            assert testing.is_self_connected(connection)
            getattr(connection, "disconnect", getattr(connection, "close", None))()
        connection = connect(*server.getsockname())
        assert not testing.is_self_connected(connection)
        getattr(connection, "disconnect", getattr(connection, "close", None))()

    def test_streams_and_transports(self, dead_port):
        async def main():
            with testing.self_connect(dead_port):
                pair = await asyncio.open_connection("127.0.0.1", dead_port)
            assert testing.is_self_connected(pair)
            assert testing.is_self_connected(pair[1])
            assert testing.is_self_connected(pair[1].transport)
            pair[1].transport.abort()
            await asyncio.sleep(0)

        dials.run(main())

    @pytest.mark.parametrize("thing", [None, "redis://", socket, socket.socket, (), {}], ids=repr)
    def test_objects_without_a_socket(self, thing):
        with pytest.raises(TypeError, match="connection: no socket found"):
            testing.is_self_connected(thing)


class TestAssertNoSelfConnects:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_names_the_port_and_the_descriptor(self, dead_port, host):
        with connected_to_itself(dead_port, host) as sock:
            with pytest.raises(AssertionError) as caught:
                testing.assert_no_self_connects()
            assert f"descriptor {sock.fileno()}, on {host} port {dead_port}" in str(caught.value)

    def test_names_every_port(self):
        one, two = testing.dead_port(), testing.dead_port()
        with connected_to_itself(one), connected_to_itself(two):
            with pytest.raises(AssertionError, match="connected to itself") as caught:
                testing.assert_no_self_connects()
            assert all(f"on 127.0.0.1 port {port}" in str(caught.value) for port in (one, two))

    def test_other_connections_are_fine(self):
        with testing.Outage() as server, socket.create_connection(server.address):
            testing.assert_no_self_connects()

    def test_finds_any_socket_of_the_process(self, dead_port):
        testing.assert_no_self_connects()
        with testing.self_connect(dead_port), socket.socket() as sock:
            sock.connect(("127.0.0.1", dead_port))
            with pytest.raises(AssertionError, match=rf"connected to itself: .* on 127.0.0.1 port {dead_port}"):
                testing.assert_no_self_connects()
            ends_of(sock)
        testing.assert_no_self_connects()

    def test_leaves_sockets_in_their_blocking_mode(self, dead_port):
        with testing.self_connect(dead_port), socket.socket() as sock:
            sock.connect(("127.0.0.1", dead_port))
            socket.setdefaulttimeout(5)
            try:
                with pytest.raises(AssertionError):
                    testing.assert_no_self_connects()
            finally:
                socket.setdefaulttimeout(None)
            assert os.get_blocking(sock.fileno())
            ends_of(sock)


def test_connections_have_both_addresses():
    with testing.Outage() as server, socket.create_connection(server.address) as sock:
        (found,) = (each for each in connections() if each.descriptor == sock.fileno())
        assert (found.local, found.peer, found.self_connected) == (sock.getsockname(), server.address, False)
        found.shut_down()
        assert sock.recv(1) == b""
