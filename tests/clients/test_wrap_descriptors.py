"""wrap() looks at what came back, also if descriptors are used up. What it can't look at is an error."""

import contextlib
import errno
import os
import resource
import socket
import sys
import warnings

import pytest
import sqlalchemy

import safedial
from safedial import testing
from safedial._clients.sockets import let_servers_bind, socket_of
from safedial._tcp import selfconnect
from safedial.testing.namespace import in_child
from tests.clients.test_wrap import past_the_hooks
from tests.support import faults

HOST = "127.0.0.1"


class Numbered:
    """A connection that shows its descriptor alone, as psycopg's."""

    def __init__(self, sock):
        self.fileno, self.close = sock.fileno, sock.close


SHAPES = {"socket": lambda sock: sock, "object": Numbered, "descriptor": lambda sock: sock.detach()}


def self_connected(port):
    return past_the_hooks(HOST, port, lambda sock: sock)


@contextlib.contextmanager
def no_descriptors_left():
    """Let this process open no more descriptors than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as lowest_free:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free.fileno(), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def dial_each_without_descriptors():
    return {shape: dial_without_descriptors(shape) for shape in SHAPES}


def dial_without_descriptors(shape):
    """Return what the dial raised. A server can bind the port then."""

    def factory():
        made = SHAPES[shape](self_connected(port))
        stack.enter_context(no_descriptors_left())
        return made

    port = testing.dead_port()
    with contextlib.ExitStack() as stack:
        try:
            safedial.wrap(factory, policy=None)()
        except OSError as error:
            raised = error
    faults.assert_server_can_bind(HOST, port)
    return raised


def test_self_connect_is_found_when_descriptors_are_used_up():
    kinds = {shape: type(error) for shape, error in in_child(dial_each_without_descriptors, within=60).items()}
    assert kinds == dict.fromkeys(SHAPES, safedial.SelfConnectError)


def test_borrowed_descriptor_stays_open():
    with pytest.MonkeyPatch.context() as patch, socket.create_server((HOST, 0)) as server:

        def used_up(number):
            raise OSError(errno.EMFILE, "Too many open files")

        patch.setattr(socket, "dup", used_up)
        assert not safedial.is_self_connected(server.fileno())
        assert server.getsockname()[0] == HOST
        with open(os.devnull) as file, pytest.raises(OSError, match="non-socket"):
            safedial.is_self_connected(file)
        server.getsockname()


@pytest.mark.parametrize("shape", SHAPES)
def test_descriptor_of_a_self_connect_is_closed(shape, dead_port):
    numbers = []

    def factory():
        sock = self_connected(dead_port)
        numbers.append(sock.fileno())
        return SHAPES[shape](sock)

    with pytest.raises(safedial.SelfConnectError):
        safedial.wrap(factory, policy=None)()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(numbers[0])
    faults.assert_server_can_bind(HOST, dead_port)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_can_not_be_looked_at_is_an_error_and_is_closed(shape, monkeypatch):
    def forbidden(sock):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    def factory():
        sock = socket.create_connection(server.address)
        numbers.append(sock.fileno())
        return SHAPES[shape](sock)

    numbers = []
    with testing.Outage() as server:
        monkeypatch.setattr(selfconnect, "_to_itself", forbidden)  # as a sandbox does
        with pytest.raises(PermissionError):
            safedial.wrap(factory, policy=None)()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(numbers[0])


class Closed:
    """A connection that was closed already: a client's own error."""

    def fileno(self):
        raise LookupError("the connection is closed")


@pytest.mark.parametrize("made", [Closed(), 2**40, -1, 10**6, True])
def test_what_is_no_socket_is_none_of_ours(made):
    assert safedial.wrap(lambda: made)() is made


def reuses(sock):
    with sock:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1


def dialed_in_c(address, kind=socket.socket, *args):
    """Connect as a C library does."""
    sock = kind(*args)
    socket.socket.__base__.connect(sock, address)
    return sock


@pytest.mark.skipif(sys.platform != "linux", reason="the option is set on Linux only")
class TestServersMayBindThePort:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_if_it_was_dialed_in_c(self, shape, server):
        def factory():
            sock = dialed_in_c(server.getsockname())
            copies.append(sock.dup())
            return SHAPES[shape](sock)

        copies = []
        made = safedial.wrap(factory, address=server.getsockname())()
        if shape == "descriptor":
            socket.close(made)
        else:
            made.close()
        assert reuses(copies[0])

    def test_not_if_the_client_bound_a_port(self, server, dead_port):
        address = server.getsockname()
        dial = safedial.wrap(socket.create_connection, address=address)
        assert not reuses(dial(address, source_address=(HOST, dead_port)))

    def test_other_sockets_are_left_alone(self, server, tmp_path):
        path = str(tmp_path / "socket")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            for address, *kind in ((HOST, 9), socket.AF_INET, socket.SOCK_DGRAM), (path, socket.AF_UNIX):
                made = dialed_in_c(address, socket.socket, *kind)
                assert not reuses(safedial.wrap(lambda made=made: made, address=server.getsockname())())

    def test_dial_goes_on_if_a_sandbox_forbids_it(self, server):
        class Sandboxed(socket.socket):
            def setsockopt(self, *option):
                denied.append(option[:2])
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        denied, address = [], server.getsockname()
        assert not reuses(safedial.wrap(lambda: dialed_in_c(address, Sandboxed), address=address)())
        assert denied == [(socket.SOL_SOCKET, socket.SO_REUSEADDR)]

    @pytest.mark.parametrize("made", [Closed(), 2**40, -1, 10**6, True, None])
    def test_dial_goes_on_if_it_shows_no_socket(self, made):
        assert safedial.wrap(lambda: made, address=(HOST, 9))() is made

    def test_dial_goes_on_if_the_connection_raises(self):
        class Raising:
            def get_extra_info(self, name):
                raise LookupError(name)

        let_servers_bind(Raising())


def test_healthy_descriptor_stays_open():
    with testing.Outage() as server:
        number = safedial.wrap(lambda: socket.create_connection(server.address).detach())()
        with socket.socket(fileno=number) as sock:
            assert sock.getpeername() == server.address


def test_file_stays_open(tmp_path):
    path = tmp_path / "file"
    path.touch()
    with safedial.wrap(open)(path) as file:
        assert not file.closed


def test_nothing_deprecated_is_read():
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as connection, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert socket_of(connection) is None
    engine.dispose()
    assert not told
