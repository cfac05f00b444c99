"""`safe_connect` compared with `socket.create_connection`, and a Dialer in blocking and asyncio dials."""

import errno
import os
import pickle
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

import safedial
from safedial import testing
from tests.support import dials, faults
from tests.support.resolvers import hosts


def outcome(function, *args, **kwds):
    """Return the result or the error of a call, in a form that can be compared."""
    try:
        sock = function(*args, **kwds)
    except Exception as error:
        return type(error), getattr(error, "errno", None), str(error)
    with sock:
        return sock.family, sock.type, sock.proto, sock.gettimeout(), sock.getpeername()


def both(*args, **kwds):
    return outcome(socket.create_connection, *args, **kwds), outcome(safedial.safe_connect, *args, **kwds)


class TestSafeConnect:
    """The stdlib's function has the same result or error, unless a test says otherwise."""

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", b"127.0.0.1", "", None, "127.1"])
    @pytest.mark.parametrize("timeout", [(), (None,), (5,), (0.5,)])
    def test_success(self, server, host, timeout):
        stdlib, ours = both((host, server.getsockname()[1]), *timeout)
        assert ours == stdlib

    def test_port_as_text(self, server):
        stdlib, ours = both(("localhost", str(server.getsockname()[1])))
        assert ours == stdlib
        assert ours[0] == socket.AF_INET

    def test_list_as_address(self, server):
        stdlib, ours = both(list(server.getsockname()))
        assert ours == stdlib

    @pytest.mark.parametrize(
        "address",
        [("127.0.0.1", "no such service"), ("no.such.host.invalid", 80), ("127.0.0.1", 0)],
    )
    def test_failure(self, address):
        stdlib, ours = both(address)
        assert ours == stdlib

    def test_refused(self, refused_port):
        stdlib, ours = both(("127.0.0.1", refused_port))
        assert ours == stdlib == (ConnectionRefusedError, errno.ECONNREFUSED, "[Errno 111] Connection refused")

    def test_timeout(self, black_hole):
        stdlib, ours = both(black_hole.getsockname(), 0.05)
        assert ours == stdlib == (TimeoutError, None, "timed out")

    def test_timeout_0_is_non_blocking(self, server):
        stdlib, ours = both(server.getsockname(), 0)
        assert ours == stdlib
        assert ours[0] is BlockingIOError

    def test_default_timeout(self, server, default_timeout):
        default_timeout(7)
        stdlib, ours = both(server.getsockname())
        marked = outcome(safedial.safe_connect, server.getsockname(), socket._GLOBAL_DEFAULT_TIMEOUT)
        assert ours == stdlib == marked
        assert ours[3] == 7

    def test_source_port(self, server):
        source = ("127.0.0.1", testing.dead_port())
        with safedial.safe_connect(server.getsockname(), 5, source) as sock:
            assert sock.getsockname() == source

    @pytest.mark.parametrize("host", [b"127.0.0.1", b"localhost", "localhost", "", b""])
    def test_spelling_of_the_source_host(self, server, host):
        stdlib, ours = both(server.getsockname(), 5, (host, 0))
        assert ours == stdlib

    def test_source_of_another_family(self, server):
        stdlib, ours = both(server.getsockname(), 5, ("::1", 0))
        assert ours == stdlib

    def test_last_error_or_all_errors_of_several_addresses(self, monkeypatch, refused_port):
        monkeypatch.setattr(socket, "getaddrinfo", hosts("127.0.0.1", "::1", port=refused_port))
        stdlib, ours = both(("db", refused_port))
        assert ours == stdlib
        with pytest.raises(ExceptionGroup) as group:
            safedial.safe_connect(("db", refused_port), all_errors=True)
        assert str(group.value) == "create_connection failed (2 sub-exceptions)"
        assert [error.errno for error in group.value.exceptions] == [errno.ECONNREFUSED] * 2
        assert "::1" in "".join(group.value.__notes__)
        assert group.value.__suppress_context__, "the last error is a member, not a cause"

    def test_all_errors_are_of_the_last_round(self, monkeypatch, dead_port):
        answers = [[faults.tcp("127.0.0.1", dead_port)]]

        def getaddrinfo(*args, **kwds):
            if answers:
                return answers.pop()
            raise socket.gaierror(socket.EAI_NONAME, "gone")

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        with pytest.raises(socket.gaierror):
            safedial.safe_connect(("db", 1), policy=safedial.reconnect(0.2, 0.05), all_errors=True)

    def test_second_address_answers(self, monkeypatch, server):
        monkeypatch.setattr(socket, "getaddrinfo", hosts("::1", "127.0.0.1", port=server.getsockname()[1]))
        stdlib, ours = both(("db", 1))
        assert ours == stdlib

    def test_empty_resolution(self, monkeypatch):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwds: [])
        stdlib, ours = both(("db", 80))
        assert ours == stdlib == (OSError, None, "getaddrinfo returns an empty list")

    def test_host_name_that_is_too_long(self):
        stdlib, ours = both(("a" * 64 + ".example", 80))
        assert ours == stdlib
        with pytest.raises(UnicodeError) as caught:
            safedial.safe_connect(("a" * 64 + ".example", 80))
        assert "address" in "".join(caught.value.__notes__)

    def test_family(self, server):
        with pytest.raises(OSError, match=r".") as caught:
            safedial.safe_connect(server.getsockname(), family=socket.AF_INET6)
        assert isinstance(caught.value, socket.gaierror)
        with safedial.safe_connect(("localhost", server.getsockname()[1]), family=socket.AF_INET) as sock:
            assert sock.family == socket.AF_INET

    def test_socket_options_come_before_bind_and_connect(self, server, monkeypatch):
        calls = []

        class Spy(socket.socket):
            def setsockopt(self, level, option, *value):
                calls.append(("setsockopt", level, option))
                super().setsockopt(level, option, *value)

            def bind(self, address):
                calls.append(("bind",))
                super().bind(address)

            def connect(self, address):
                calls.append(("connect",))
                super().connect(address)

        monkeypatch.setattr(socket, "socket", Spy)
        nodelay = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with safedial.safe_connect(server.getsockname(), 5, ("127.0.0.1", 0), socket_options=[nodelay]) as sock:
            assert sock.getsockopt(*nodelay[:2]) == 1
        assert calls[0] == ("setsockopt", *nodelay[:2])
        assert calls.index(("bind",)) < calls.index(("connect",))


def test_timeout_stays_on_the_socket(server):
    with safedial.Dialer(timeout=7).dial(server.getsockname()) as sock:
        assert sock.gettimeout() == 7


def test_stdlibs_default_timeout_survives_pickling(server):
    dialer = pickle.loads(pickle.dumps(safedial.Dialer(timeout=socket._GLOBAL_DEFAULT_TIMEOUT)))
    assert dialer == safedial.Dialer()
    dialer.dial(server.getsockname()).close()


@pytest.mark.parametrize("name", ["Dialer.dial", "Dialer.dial_async"])
class TestBlockingAndAsync:
    def test_all_errors_raises_a_group(self, name, monkeypatch, dead_port):
        monkeypatch.setattr(socket, "getaddrinfo", hosts("127.0.0.1", "::1", port=dead_port))
        with pytest.raises(ExceptionGroup) as group:
            dials.DIALS[name]("db", 1, all_errors=True)
        assert [error.errno for error in group.value.exceptions] == [errno.ECONNREFUSED] * 2

    def test_family(self, name, server):
        with pytest.raises(socket.gaierror):
            dials.DIALS[name](*server.getsockname(), family=socket.AF_INET6)

    @pytest.mark.parametrize("source", [(), "", None])
    def test_source_address_may_be_empty(self, name, server, source):
        assert dials.DIALS[name](*server.getsockname(), source=source).peer == server.getsockname()

    def test_invalid_address_is_an_error(self, name):
        with pytest.raises(ValueError, match="address: the port"):
            dials.DIALS[name]("127.0.0.1", 65536)
        with pytest.raises(TypeError, match="address: the host"):
            dials.DIALS[name]([], 80)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # what is tested: it is safe here
def test_forked_children_share_a_dialer(server):
    dialer = safedial.Dialer(timeout=5)
    dialer.dial(server.getsockname()).close()
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            status = 1
            try:
                dialer.dial(server.getsockname()).close()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


def test_dialer_is_frozen_and_comparable():
    dialer = safedial.Dialer(timeout=3, socket_options=[[6, 1, 1]])
    assert dialer == safedial.Dialer(timeout=3, socket_options=((6, 1, 1),))
    assert hash(dialer) == hash(safedial.Dialer(timeout=3, socket_options=((6, 1, 1),)))
    with pytest.raises(AttributeError):
        dialer.timeout = 4


@pytest.mark.parametrize("steer", [True, pytest.param(False, marks=pytest.mark.storm)], ids=["steered", "unsteered"])
def test_threads_share_a_dialer(steer, server):
    dialer = safedial.Dialer(steer=steer, timeout=10)
    server.settimeout(10)
    with ThreadPoolExecutor(8) as pool:
        dialing = [pool.submit(dialer.dial, server.getsockname()) for _ in range(400)]
        for _ in dialing:
            server.accept()[0].close()
    for each in dialing:
        each.result().close()
