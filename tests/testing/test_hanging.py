"""A server that hangs up: what its clients see, what it counts, and what it says if nobody came."""

import asyncio
import errno
import socket

import pytest

from safedial import testing
from tests.support import dials
from tests.support.plain import ask, eventually


async def _ask_with_asyncio(server):
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(b"hello")
    try:
        return await reader.read(100)
    finally:
        writer.close()


ASK = {"blocking": ask, "asyncio": lambda server: dials.run(_ask_with_asyncio(server))}


@pytest.mark.parametrize("question", ASK.values(), ids=ASK)
def test_serves_after_some_connections(question):
    with testing.hanging_up(2) as server:
        # An end of file, although the clients have sent something.
        assert [question(server) for _ in range(4)] == [b"", b"", b"hello", b"hello"]
        assert server.hung_up == 2


def test_hangs_up_on_all():
    with testing.hanging_up() as server:
        assert [ask(server) for _ in range(5)] == [b""] * 5
        assert server.hung_up == 5


def test_goes_on_counting_after_it_was_down():
    with testing.hanging_up(2, lambda connection: connection.sendall(b"220 ready")) as server:
        assert ask(server) == b""
        server.stop()
        server.start()
        assert [ask(server) for _ in range(2)] == [b"", b"220 ready"]


@pytest.mark.parametrize("first", [True, False], ids=["the client sends first", "the client sends later"])
def test_what_a_client_sees(first):
    """An end of file in both cases; what it sends then fails, at the latest the second time."""
    with testing.hanging_up() as server, socket.create_connection(server.address, 10) as sock:
        if first:
            sock.sendall(b"hello")
        assert eventually(lambda: server.hung_up)
        assert eventually(lambda: not server._server._open)  # closed by now, with a reset if it has not read all
        assert sock.recv(1) == b""
        with pytest.raises(OSError, match=r"Broken pipe|reset") as caught:
            eventually(lambda: sock.sendall(b"more"))
        assert caught.value.errno in (errno.EPIPE, errno.ECONNRESET)


def test_says_if_nobody_has_connected():
    said = r"^hanging_up\(2\) hit no connection; nobody has connected$"
    with pytest.raises(AssertionError, match=said), testing.hanging_up(2):
        pass
    with testing.hanging_up(unused="ignore"):
        pass
    with pytest.warns(UserWarning, match=r"hanging_up\(\) hit no connection"), testing.hanging_up(unused="warn"):
        pass


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"dials": 0}, ValueError, "dials must be at least 1"),
        ({"dials": "2"}, TypeError, "dials"),
        ({"server": ["redis-server"]}, TypeError, "server must be a function, not a list"),
        ({"unused": "no"}, ValueError, "unused must be one of"),
        ({"host": "localhost"}, ValueError, "host must be a numeric address"),
    ],
    ids=repr,
)
def test_bad_arguments(options, error, words):
    with pytest.raises(error, match=words):
        testing.hanging_up(**options)
