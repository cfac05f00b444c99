"""One look at a port that is to become free."""

import asyncio
import contextlib
import errno
import os
import re
import socket
from pathlib import Path

import pytest

from safedial.cli.wait import gone
from safedial.cli.wait.progress import NotReady
from safedial.cli.wait.targets import Target
from tests.support import faults
from tests.support.plain import connected_to_itself

linux = pytest.mark.skipif("sys.platform != 'linux'", reason="/proc/net/tcp is read")
unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")


def look(port, host="127.0.0.1"):
    asyncio.run(gone.look(Target("", host, port)), debug=True)


def taken(port, host="127.0.0.1"):
    """Return what is said of the socket that has *port*."""
    with pytest.raises(NotReady) as caught:
        look(port, host)
    assert caught.value.errno == errno.EADDRINUSE
    return caught.value.strerror


def test_free(dead_port):
    look(dead_port)
    look(dead_port, "localhost")
    look(dead_port, "0.0.0.0")
    faults.assert_server_can_bind("127.0.0.1", dead_port)


@linux
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_server(server, host):
    port = server.getsockname()[1]
    assert re.fullmatch(rf"\S+ \(pid {os.getpid()}\) listens on 127\.0\.0\.1", taken(port, host))


@linux
def test_server_on_one_address_keeps_another_one_from_all(dead_port):
    with faults.listener(host="127.0.0.5", port=dead_port):
        look(dead_port)
        assert "listens on 127.0.0.5" in taken(dead_port, "")
    look(dead_port, "")


@linux
def test_server_among_its_own_connections(server):
    port = server.getsockname()[1]
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(server.getsockname()))
            stack.enter_context(server.accept()[0])
        assert "listens on" in taken(port)


@linux
def test_self_connected_socket(dead_port):
    """A dial would be refused or fooled; no server can bind."""
    with connected_to_itself(dead_port) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        said = taken(dead_port)
        assert re.fullmatch(rf"taken by a socket of \S+ \(pid {os.getpid()}\) that is connected to itself", said)
    look(dead_port)


@linux
def test_time_wait_that_a_self_connect_left(dead_port):
    with connected_to_itself(dead_port) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        sock.close()
        assert taken(dead_port) == "taken by TIME_WAIT after a self-connect"


@linux
def test_ordinary_connection_from_that_port(server, dead_port):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", dead_port))
        sock.connect(server.getsockname())
        assert f"(pid {os.getpid()}) that is connected to 127.0.0.1 port" in taken(dead_port)


@linux
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
@pytest.mark.parametrize("kind", ["listening", "connected", "connected to itself"])
def test_holder_that_is_told_is_the_one_in_the_way(dead_port, kind):
    """The kernel's table has it behind TIME_WAIT, and behind a connection."""
    with faults.listener() as v4, faults.listener("::1") as v6, contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.socket())
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind(("127.0.0.1", dead_port))
        first.connect(v4.getsockname())
        if kind == "listening":
            stack.enter_context(faults.listener("::1", dead_port))
        elif kind == "connected to itself":  # and the first as a server's that has ended: not in the way
            stack.enter_context(connected_to_itself(dead_port, "::1")).setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 0
            )
        else:
            first.close()  # before the server does: TIME_WAIT
            v4.accept()[0].close()
            second = stack.enter_context(socket.socket(socket.AF_INET6))
            second.bind(("::1", dead_port))
            second.connect(v6.getsockname())
        says = {"listening": "listens on ::1", "connected": "connected to ::1 port"}.get(
            kind, "that is connected to itself"
        )
        assert says in taken(dead_port, "::1")


def test_connections_of_a_server_that_has_ended():
    """They are in TIME_WAIT, or still open: a server that sets SO_REUSEADDR can bind all the same."""
    with faults.listener() as server:
        port = server.getsockname()[1]
        closed = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        open_, far = socket.create_connection(server.getsockname()), server.accept()[0]
    with closed, open_, far:
        accepted.close()
        closed.close()
        look(port)


def test_address_of_another_host():
    with pytest.raises(ValueError, match="no address of this host"):
        look(5432, "192.0.2.1")


def test_name_with_an_address_that_is_not_here(monkeypatch, dead_port):
    """Such as ::1 in /etc/hosts, where IPv6 is switched off."""
    both = [faults.tcp("2001:db8::1", dead_port), faults.tcp("127.0.0.1", dead_port)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: both)
    look(dead_port, "db")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", dead_port))
        sock.listen()
        taken(dead_port, "db")


@pytest.mark.skipif("not hasattr(os, 'geteuid') or os.geteuid() != 0", reason="root becomes another user")
def test_port_that_this_user_may_not_bind():
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            look(80)
    finally:
        os.seteuid(0)


@unix
def test_unix_socket(tmp_path):
    target = Target("", path=str(tmp_path / "s"))
    asyncio.run(gone.look(target))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(target.path)
        server.listen(1)
        with pytest.raises(NotReady, match="a server accepts connections"):
            asyncio.run(gone.look(target))
    asyncio.run(gone.look(target))


@unix
@pytest.mark.parametrize("make", [Path.mkdir, Path.touch], ids=["directory", "file"])
def test_path_of_what_is_no_socket(tmp_path, make):
    """connect() refuses there, too, but no server can bind it."""
    path = tmp_path / "s"
    make(path)
    with pytest.raises(NotReady, match="taken: by what is no socket"):
        asyncio.run(gone.look(Target("", path=str(path))))


@unix
@pytest.mark.skipif("sys.platform != 'linux'", reason="Linux's answer of a full backlog is EAGAIN")
def test_unix_socket_whose_server_does_not_accept(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen(0)
        client.connect(path)
        with pytest.raises(NotReady, match="its backlog is full"):
            asyncio.run(gone.look(Target("", path=path)))
