"""What clients send to themselves: seen whoever closes the socket, and not where nothing was sent."""

import asyncio
import contextlib
import errno
import http.client
import inspect
import os
import socket
import ssl
import struct
import threading
import time

import pytest
import redis

from safedial import safe_connect, testing
from safedial.testing import sent
from tests.support import faults

REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens, they say")


@pytest.fixture(autouse=True)
def _kernel_that_counts():
    faults.require_option()  # Linux 6.3; TCP_INFO has counted since 4.19


def naive(host, port):
    with socket.create_connection((host, port), 1) as sock:
        sock.sendall(b"what a socket is told itself")
        sock.recv(1)


def naive_and_forgotten(host, port):
    socket.create_connection((host, port), 1).sendall(b"x")


def detached(host, port):
    sock = socket.create_connection((host, port), 1)
    sock.sendall(b"x")
    socket.close(sock.detach())


def reset_unread(host, port):
    with socket.create_connection((host, port), 1) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(b"x")


def reset_read(host, port):
    """The kernel forgets at the close what it counted."""
    with socket.create_connection((host, port), 1) as sock:
        sock.sendall(b"AUTH secret")
        sock.recv(100)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset_read_makefile(host, port):
    with socket.create_connection((host, port), 1) as sock, sock.makefile("rwb", 0) as file:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        file.write(b"EHLO me\n")
        file.readline()
        sock.close()  # which the file puts off


def written_by_descriptor(host, port):
    sock = socket.create_connection((host, port), 1)
    os.write(sock.fileno(), b"x")
    sock.recv(1)
    os.close(sock.detach())


def tls(host, port):
    connection = http.client.HTTPSConnection(host, port, timeout=1, context=ssl.create_default_context())
    try:
        connection.request("GET", "/")
    except OSError as error:
        error.__traceback__ = None
    finally:
        connection.close()


async def streams(host, port):
    _, writer = await asyncio.open_connection(host, port)
    writer.write(b"hello")
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def streams_aborted(host, port):
    reader, writer = await asyncio.open_connection(host, port)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.write(b"hello")
    await reader.readexactly(5)
    writer.transport.abort()
    await asyncio.sleep(0)


def with_redis(host, port):
    with contextlib.suppress(Exception):
        redis.Redis(host, port, socket_timeout=0.2, retry=None).ping()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a client that leaves its socket to the collector
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(
    "client",
    [
        naive,
        naive_and_forgotten,
        detached,
        reset_unread,
        reset_read,
        reset_read_makefile,
        written_by_descriptor,
        tls,
        streams,
        streams_aborted,
        with_redis,
    ],
    ids=lambda each: each.__name__,
)
def test_clients_that_say_refused_after_they_sent(client, host):
    """All of these passed before: the error was right, and the connection closed."""

    def connect(host, port):
        if inspect.iscoroutinefunction(client):
            asyncio.run(client(host, port))
        else:
            client(host, port)
        raise REFUSED

    with pytest.raises(AssertionError, match=r"the client sent [1-9][\d,]* bytes? to itself"):
        testing.assert_resilient(connect, faults=["self_connect"], host=host)


def test_bytes_are_counted(dead_port):
    with testing.self_connect(dead_port), sent.sent_to(dead_port) as found:
        assert found.count() == 0
        for number in (3, 24):
            with socket.create_connection(("127.0.0.1", dead_port)) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.sendall(b"x" * number)
        assert found.count() == 27
        with socket.create_connection(("127.0.0.1", dead_port)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(b"four")
            assert found.count() == 31, "one that is open counts, too"
        assert found.count() == 31


def test_nothing_is_replaced_afterwards(dead_port):
    before = vars(socket.socket)["_real_close"]
    with sent.sent_to(dead_port):
        assert vars(socket.socket)["_real_close"] is not before
    assert vars(socket.socket)["_real_close"] is before


def test_a_dial_that_is_guarded_sends_nothing(dead_port, steering):
    with testing.self_connect(dead_port) as fault, sent.sent_to(dead_port) as found:
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                safe_connect(("127.0.0.1", dead_port), policy=None)
        assert (fault.triggered, found.count(), found._dialed) == (3, 0, set())


def test_sockets_of_others_are_not_counted(dead_port, server):
    with testing.self_connect(dead_port, unused="ignore"), sent.sent_to(dead_port) as found:
        with socket.create_connection(server.getsockname()) as sock:
            sock.sendall(b"x")
        assert found.count() == 0


@pytest.mark.parametrize("lacks", ["Linux", "netlink", "TCP_INFO", "SO_COOKIE"])
def test_nothing_is_claimed_where_it_can_not_be_seen(lacks, dead_port, monkeypatch):
    if lacks == "Linux":
        monkeypatch.setattr(sent, "ON_LINUX", False)
    elif lacks == "netlink":
        monkeypatch.setattr(sent, "SOCK_DIAG", 31)
    elif lacks == "TCP_INFO":
        monkeypatch.setattr(sent, "_INFO_SIZE", 10_000)
    else:
        monkeypatch.setattr(sent, "_SO_COOKIE", 10_000)
    with testing.self_connect(dead_port), sent.sent_to(dead_port) as found:
        naive("127.0.0.1", dead_port)
        assert found.count() == 0


@pytest.mark.parametrize(
    ("filtered", "words"), [(True, "the client sent 6 bytes"), (False, "what the client sent to itself is not known")]
)
def test_many_other_sockets_that_close(filtered, words, server, monkeypatch):
    """Each makes a message, too, and when the buffer was full the client passed."""
    monkeypatch.setattr(sent, "_BUFFER", 4096)
    if not filtered:
        monkeypatch.setattr(sent, "_SO_ATTACH_FILTER", 10_000)
        monkeypatch.setattr(sent, "_PATIENCE", 0.05)

    def connect(host, port):
        sock = socket.create_connection((host, port), 1)
        sock.sendall(b"secret")
        for _ in range(40):
            with socket.create_connection(server.getsockname()), server.accept()[0]:
                pass
        os.close(sock.detach())
        time.sleep(0 if filtered else 0.3)  # the message comes a moment later
        raise REFUSED

    with pytest.raises(AssertionError) as caught:
        testing.assert_resilient(connect, faults=["self_connect"])
    assert words in " ".join(str(caught.value).split())


@pytest.mark.parametrize("end", ["refused", "reset", "never bound"])
def test_the_end_of_each_dial_is_heard_of(end, monkeypatch):
    """Not so late that count() has to wait for it."""
    monkeypatch.setattr(sent, "_PATIENCE", 10)
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(testing.refused_port() if end == "refused" else testing.server_port())
        if end == "reset":
            stack.enter_context(testing.self_connect(port))
        elif end == "never bound":
            stack.enter_context(testing.address_not_available(port, None))
        found = stack.enter_context(sent.sent_to(port))
        sock = socket.socket()
        with contextlib.suppress(OSError):
            sock.connect(("127.0.0.1", port))
        if end == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert found._dialed
        sock.close()
        assert found.count() == 0
        assert not found._dialed


def test_what_is_sent_again_counts_once():
    assert sent._sent(struct.pack("=200xQQ", 100, 30)) == 70


def test_socket_that_is_freed_late(dead_port):
    """It is under way between two processes, and nobody has it."""
    ours, theirs = socket.socketpair()
    with ours, theirs, testing.self_connect(dead_port), sent.sent_to(dead_port) as found:
        sock = socket.create_connection(("127.0.0.1", dead_port))
        os.write(sock.fileno(), b"late")
        socket.send_fds(ours, [b"x"], [sock.fileno()])
        os.close(sock.detach())
        timer = threading.Timer(0.1, theirs.close)
        timer.start()
        assert found.count() == 4
        timer.join()
