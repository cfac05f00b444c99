"""The drop-in for the `socket` module, by itself and under pymemcache with a real memcached."""

import contextlib
import errno
import functools
import pydoc
import shutil
import socket as stdlib
import ssl
import threading

import pymemcache
import pytest
from pymemcache.client.retrying import RetryingClient

from safedial import SelfConnectError, testing
from safedial.adapters import socket
from tests.support import faults, web

HOST = "127.0.0.1"


@pytest.fixture
def memcached():
    if not (binary := shutil.which("memcached")):
        pytest.skip("no memcached: apt-get install memcached")
    with testing.Outage([binary, "-l", "{host}", "-p", "{port}", "-U", "0", "-u", "nobody", "-t", "1"]) as server:
        yield server


def created(host, port, module, seconds=5):
    module.create_connection((host, port), seconds).close()


def connected(host, port, module, seconds=5):
    with module.socket() as sock:
        sock.settimeout(seconds)
        sock.connect((host, port))


def connected_ex(host, port, module):
    with module.socket() as sock:
        if code := sock.connect_ex((host, port)):
            raise OSError(code, "connect_ex")


@functools.cache
def tls_context(module):
    context = web.client_context()
    if module is socket:
        context.sslsocket_class = socket.SSLSocket
    return context


def over_tls(host, port, module, seconds=5):
    with tls_context(module).wrap_socket(module.socket(), server_hostname="localhost") as sock:
        sock.settimeout(seconds)
        sock.connect((host, port))


def over_tls_ex(host, port, module):
    with tls_context(module).wrap_socket(module.socket(), server_hostname="localhost") as sock:
        if code := sock.connect_ex((host, port)):
            raise OSError(code, "connect_ex")


def cached(host, port, module, seconds=5, **options):
    client = pymemcache.Client((host, port), connect_timeout=seconds, timeout=seconds, socket_module=module, **options)
    try:
        client.set("user:1", "ada")
        return client.get("user:1")
    finally:
        client.close()


def cached_over_tls(host, port, module, seconds=5):
    return cached(host, port, module, seconds, tls_context=tls_context(module))


def failure(way, host, port, module, **kwds):
    with pytest.raises(OSError) as caught:  # noqa: PT011  # compared
        way(host, port, module, **kwds)
    return caught.value


WAYS = [created, connected, connected_ex, over_tls, over_tls_ex, cached, cached_over_tls]


class TestEveryWay:
    def test_is_never_connected_to_itself(self, force, steering):
        for way in WAYS:
            fault = force(port := testing.dead_port())
            assert isinstance(failure(way, HOST, port, socket), ConnectionRefusedError), way
            assert fault.triggered, way
            faults.assert_server_can_bind(HOST, port)
        testing.assert_no_self_connects()

    def test_stays_refused(self, steering):
        with testing.refused_port() as port:
            for way in WAYS:
                errors = [failure(way, HOST, port, module) for module in (stdlib, socket)]
                assert [type(error) for error in errors] == [ConnectionRefusedError] * 2, way
                assert [error.errno for error in errors] == [errno.ECONNREFUSED] * 2, way

    def test_unknown_host(self):
        for way in WAYS:
            errors = [failure(way, "no-such-name.invalid", 80, module) for module in (stdlib, socket)]
            assert [type(error) for error in errors] == [stdlib.gaierror] * 2, way

    def test_times_out(self):
        with faults.full_listener() as server:
            for way in (created, connected, over_tls, cached, cached_over_tls):
                errors = [failure(way, *server.getsockname(), module, seconds=0.02) for module in (stdlib, socket)]
                assert [type(error) for error in errors] == [TimeoutError] * 2, way


class TestShape:
    def test_has_all_names_of_the_stdlibs(self):
        assert set(dir(stdlib)) <= set(dir(socket))
        ours = {*socket.__all__, *(name for name in dir(stdlib) if name.startswith("__"))}
        assert all(getattr(socket, name) is getattr(stdlib, name) for name in set(dir(stdlib)) - ours)

    def test_has_no_other_names(self):
        with pytest.raises(AttributeError, match="no_such_name"):
            _ = socket.no_such_name

    def test_socket_is_a_socket(self, server):
        with socket.socket() as sock, sock.dup() as copy:
            assert isinstance(sock, stdlib.socket)
            assert isinstance(copy, socket.socket)
            with pytest.raises(AttributeError):
                sock.surplus = 1

    def test_sockets_from_everywhere_are_its_own(self, server, tmp_path):
        """Also a reconnect of each is guarded."""
        with contextlib.ExitStack() as stack:
            enter = stack.enter_context
            made = [enter(each) for each in socket.socketpair()]
            made += [enter(each) for each in socket.socketpair(stdlib.AF_UNIX, stdlib.SOCK_DGRAM)]
            made.append(enter(socket.create_connection(server.getsockname(), 3)))
            made.append(enter(socket.fromfd(server.fileno(), server.family, server.type)))
            listening = enter(socket.create_server((HOST, 0), backlog=1))
            client = enter(socket.create_connection(listening.getsockname()))
            accepted, address = listening.accept()
            made += [listening, client, enter(accepted), enter(accepted.dup())]
            assert address == client.getsockname()
            for sock in made:
                assert type(sock) is socket.socket
                assert isinstance(sock, stdlib.socket)
            assert [each.gettimeout() for each in (made[4], client)] == [3, None]
            made[0].sendall(b"x")
            assert made[1].recv(1) == b"x"

    def test_default_timeout_stays(self, server, default_timeout):
        default_timeout(7)
        with socket.create_connection(server.getsockname()) as sock:
            assert sock.gettimeout() == 7
        with socket.create_connection(server.getsockname(), None) as sock:
            assert sock.gettimeout() is None
            assert sock.getblocking()

    def test_reconnect_is_guarded(self, force, dead_port):
        with stdlib.socket() as plain, socket.fromfd(plain.fileno(), plain.family, plain.type) as sock:
            fault = force(dead_port)
            with pytest.raises(SelfConnectError):
                sock.connect((HOST, dead_port))
        assert fault.triggered

    def test_tls_server_accepts_tls(self):
        there, here = web.ssl_contexts(web.authority(), web.authority().issue_cert("localhost"))
        there.sslsocket_class = socket.SSLSocket
        with socket.create_server((HOST, 0)) as plain, there.wrap_socket(plain, server_side=True) as listening:
            listening.settimeout(5)

            def dial():
                with here.wrap_socket(stdlib.create_connection(address, 5), server_hostname="localhost") as client:
                    client.sendall(b"x")

            address = listening.getsockname()
            thread = threading.Thread(target=dial)
            thread.start()
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.recv(1) == b"x"
                assert isinstance(accepted, socket.SSLSocket)
            thread.join()

    def test_other_families_pass(self, tmp_path):
        with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as sock:
            listening.bind(str(tmp_path / "socket"))
            listening.listen()
            sock.connect(str(tmp_path / "socket"))
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.connect((HOST, 9))

    def test_is_documented(self):
        assert "guarded" in pydoc.getdoc(socket.socket)

    def test_source_address_and_name_with_two_addresses(self, server):
        with socket.create_connection(("localhost", server.getsockname()[1]), 5, ("127.0.0.2", 0)) as sock:
            assert sock.getsockname()[0] == "127.0.0.2"
            assert sock.gettimeout() == 5


def test_tls_begins_after_the_check():
    with (
        web.serve("https") as server,
        tls_context(socket).wrap_socket(socket.socket(), server_hostname="localhost") as sock,
    ):
        sock.connect((server.host, server.port))
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.version()


class TestMemcached:
    def test_normal_use(self, memcached, steering):
        assert cached(*memcached.address, socket) == b"ada"

    def test_pool_keeps_its_limit(self, memcached):
        pool = pymemcache.PooledClient(memcached.address, socket_module=socket, max_pool_size=1, no_delay=True)
        before = int(pool.stats()[b"total_connections"])
        for _ in range(3):
            pool.set("user:1", "ada")
            assert pool.get("user:1") == b"ada"
        assert int(pool.stats()[b"total_connections"]) == before
        pool.close()

    @pytest.mark.storm
    def test_hash_client_turns_to_the_next_server(self, memcached, refused_port):
        def stored(module):
            servers = [(HOST, refused_port), memcached.address]
            client = pymemcache.HashClient(servers, socket_module=module, retry_attempts=0, ignore_exc=True)
            try:
                # The first key of the dead server is lost, the others go to the next server.
                return [client.set(f"user:{number}", "ada") and client.get(f"user:{number}") for number in range(20)]
            finally:
                client.close()

        assert stored(socket) == stored(stdlib)
        assert stored(socket).count(b"ada") == 19

    def test_its_own_retry_outlasts_an_outage(self, memcached):
        client = pymemcache.Client(memcached.address, socket_module=socket)
        retrying = RetryingClient(client, attempts=4, retry_for=[ConnectionRefusedError])
        memcached.refuse_for(dials=2)
        assert retrying.set("user:1", "ada", noreply=False)
        assert retrying.get("user:1") == b"ada"
        retrying.close()

    def test_server_comes_back_on_its_port(self, memcached, force, steering):
        """A client dials on during an outage, and the server gets its port at the first try."""
        client = pymemcache.Client(memcached.address, socket_module=socket)
        client.set("user:1", "ada", noreply=False)
        memcached.kill()
        client.close()
        fault = force(memcached.port, 3)
        for _ in range(3):
            with pytest.raises(SelfConnectError):
                client.set("user:1", "grace")
        assert fault.triggered == 3
        assert memcached.start().binds == 1
        assert client.set("user:1", "grace", noreply=False)
        assert client.get("user:1") == b"grace"
        client.close()
