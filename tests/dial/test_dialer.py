"""The Dialer hands each of its settings on, in both worlds."""

import errno
import os
import pickle
import socket

import pytest

import safedial
from tests.support import faces
from tests.support.resolvers import named


def test_timeout(server):
    with safedial.Dialer(timeout=7).dial(server.getsockname()) as sock:
        assert sock.gettimeout() == 7


def test_the_stdlibs_mark_for_no_timeout_survives_pickling(server):
    dialer = pickle.loads(pickle.dumps(safedial.Dialer(timeout=socket._GLOBAL_DEFAULT_TIMEOUT)))
    assert dialer == safedial.Dialer()
    dialer.dial(server.getsockname()).close()


@pytest.mark.parametrize("name", ["Dialer.dial", "Dialer.dial_async"])
class TestBothWorlds:
    def test_all_errors(self, name, monkeypatch, dead_port):
        monkeypatch.setattr(socket, "getaddrinfo", named("127.0.0.1", "::1", dead_port))
        with pytest.raises(ExceptionGroup) as group:
            faces.FACES[name]("db", 1, all_errors=True)
        assert [error.errno for error in group.value.exceptions] == [errno.ECONNREFUSED] * 2

    def test_family(self, name, server):
        with pytest.raises(socket.gaierror):
            faces.FACES[name](*server.getsockname(), family=socket.AF_INET6)

    @pytest.mark.parametrize("source", [(), "", None])
    def test_no_source_address(self, name, server, source):
        assert faces.FACES[name](*server.getsockname(), source=source).peer == server.getsockname()

    def test_bad_address(self, name):
        with pytest.raises(ValueError, match="address: the port"):
            faces.FACES[name]("127.0.0.1", 65536)
        with pytest.raises(TypeError, match="address: the host"):
            faces.FACES[name]([], 80)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_forked_children_may_share_one(server):
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
