"""Answers that are late, or cut off by a reset."""

import socket
import threading

import pytest

from safedial import testing
from tests.support.plain import ask, eventually

# Seconds that are never over, and that no test waits for.
FOREVER = 3600


def serve(answer, then=lambda connection: None):
    """Return a handler that answers what the client sends: a reset could come before the end of its connect()."""

    def handler(connection):
        connection.recv(1)
        connection.sendall(answer)
        then(connection)

    return handler


def read_all(sock):
    """Ask for an answer. Return what comes until the end, and the error that ends it."""
    read = b""
    sock.sendall(b"?")
    try:
        while piece := sock.recv(2**16):
            read += piece
    except OSError as error:
        return read, error
    return read, None


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_answers_are_late_until_the_outage_ends(end):
    """A client with a shorter timeout does not get them. Connecting to the server is not late."""
    with testing.Outage(latency=FOREVER) as server, socket.create_connection(server.address, 10) as sock:
        sock.sendall(b"hello")
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(5)
        ((connection, thread),) = server._server._open.items()
        getattr(server, end)()
        thread.join()
        assert connection.fileno() == -1


def test_late_answers_come():
    with testing.Outage(latency=0.05) as server:
        assert ask(server) == b"hello"
        with socket.create_connection(server.address, 10) as sock:
            sock.sendall(b"one")
            assert sock.recv(10) == b"one"
            sock.sendall(b"two")
            sock.shutdown(socket.SHUT_WR)
            assert [sock.recv(10) for _ in range(2)] == [b"two", b""]


@pytest.mark.parametrize("size", [1, 100, 10**4])
def test_is_reset_after_some_bytes(size):
    with (
        testing.Outage(serve(bytes(2 * size)), reset_after=size) as server,
        socket.create_connection(server.address, 10) as sock,
    ):
        read, error = read_all(sock)
        assert len(read) == size
        assert isinstance(error, ConnectionResetError)


def test_a_shorter_answer_ends_as_without_it():
    with (
        testing.Outage(serve(b"220 ready"), reset_after=10, unused="ignore") as server,
        socket.create_connection(server.address, 10) as sock,
    ):
        assert read_all(sock) == (b"220 ready", None)


def test_is_reset_although_the_handler_and_the_client_wait():
    def wait(connection):
        connection.recv(1)
        ended.append(True)

    ended = []
    with (
        testing.Outage(serve(b"200 OK", wait), reset_after=3) as server,
        socket.create_connection(server.address, 10) as sock,
    ):
        read, error = read_all(sock)
        assert (read, type(error)) == (b"200", ConnectionResetError)
        assert eventually(lambda: ended)  # the handler reads an end of file


def test_many_bytes_both_ways():
    size = 10**6
    with testing.Outage(latency=1e-9) as server, socket.create_connection(server.address, 10) as sock:
        for _ in range(10):
            sock.sendall(bytes(size))
            left = size
            while left:
                left -= len(sock.recv(left))
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def test_says_if_it_has_reset_nothing():
    said = r"^reset_after=10 hit no connection; nobody has connected$"
    with pytest.raises(AssertionError, match=said), testing.Outage(reset_after=10):
        pass
    said = r"^reset_after=10 hit no connection; the answers had fewer bytes: 9 \(2 times\)$"
    with pytest.raises(AssertionError, match=said), testing.Outage(serve(b"220 ready"), reset_after=10) as server:
        assert [ask(server) for _ in range(2)] == [b"220 ready"] * 2
    with pytest.warns(UserWarning, match="reset_after=10"), testing.Outage(reset_after=10, unused="warn"):
        pass


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"latency": "1"}, TypeError, "latency must be a number of seconds"),
        ({"latency": True}, TypeError, "latency must be a number of seconds"),
        ({"latency": -1}, ValueError, "latency must be from 0"),
        ({"reset_after": 0}, ValueError, "reset_after must be at least 1"),
        ({"reset_after": 1.5}, TypeError, "reset_after must be a whole number"),
        ({"server": ["redis-server", "{port}"], "latency": 1}, ValueError, "latency needs a server that is a function"),
        (
            {"server": ["redis-server", "{port}"], "reset_after": 1},
            ValueError,
            "reset_after needs a server that is a function",
        ),
    ],
    ids=repr,
)
def test_bad_arguments(options, error, words):
    with pytest.raises(error, match=words):
        testing.Outage(**options)


def test_pieces_are_late_together():
    """One after another, the hundred of them would take 40 seconds."""
    options = {"server": lambda connection: connection.sendall(bytes(8 * 10**6)), "latency": 0.4}
    with testing.Outage(**options) as server, socket.create_connection(server.address, 10) as sock:
        reading = threading.Thread(target=read_all, args=[sock], daemon=True)
        reading.start()
        reading.join(10)
        assert not reading.is_alive()


def test_the_server_does_not_wait_for_the_client():
    """The server's end takes more than a socket has room for, while the first piece is on its way."""

    def handler(connection):
        connection.sendall(bytes(8 * 10**6))
        sent.set()

    sent = threading.Event()
    with testing.Outage(handler, latency=FOREVER) as server, socket.create_connection(server.address, 10):
        assert sent.wait(10)


def test_the_end_of_a_connection_whose_answers_wait():
    """More than are kept: the server's thread that takes them ends all the same."""
    before = threading.active_count()
    with (
        testing.Outage(lambda connection: connection.sendall(bytes(10**8)), latency=FOREVER) as server,
        socket.create_connection(server.address, 10),
    ):
        assert eventually(lambda: server._server._open)
    assert eventually(lambda: threading.active_count() == before)
