"""The same arguments keep the stdlib's meaning: compared side by side, and with CPython's tests."""

import asyncio
import errno
import importlib.util
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

import safedial
from safedial import testing
from safedial.adapters import asyncio as adapter
from tests.support import faces, faults, namespace, web
from tests.support.resolvers import named


def outcome(function, *args, **kwds):
    """What a call returned or raised, in terms that can be compared."""
    try:
        sock = function(*args, **kwds)
    except Exception as error:
        return type(error), getattr(error, "errno", None), str(error)
    with sock:
        return sock.family, sock.type, sock.proto, sock.gettimeout(), sock.getpeername()


def both(*args, **kwds):
    return outcome(socket.create_connection, *args, **kwds), outcome(safedial.safe_connect, *args, **kwds)


class TestSafeConnect:
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

    def test_timeout(self):
        with faults.full_listener() as server:
            stdlib, ours = both(server.getsockname(), 0.05)
        assert ours == stdlib == (TimeoutError, None, "timed out")

    def test_timeout_0_is_non_blocking(self, server):
        stdlib, ours = both(server.getsockname(), 0)
        assert ours == stdlib
        assert ours[0] is BlockingIOError

    def test_default_timeout(self, server):
        socket.setdefaulttimeout(7)
        try:
            stdlib, ours = both(server.getsockname())
            marked = outcome(safedial.safe_connect, server.getsockname(), socket._GLOBAL_DEFAULT_TIMEOUT)
        finally:
            socket.setdefaulttimeout(None)
        assert ours == stdlib == marked
        assert ours[3] == 7

    def test_source_port(self, server):
        source = ("127.0.0.1", testing.dead_port())
        with safedial.safe_connect(server.getsockname(), 5, source) as sock:
            assert sock.getsockname() == source

    @pytest.mark.parametrize("host", [b"127.0.0.1", b"localhost", "localhost", "", b""])
    def test_source_host_in_other_words(self, server, host):
        stdlib, ours = both(server.getsockname(), 5, (host, 0))
        assert ours == stdlib

    def test_source_of_another_family(self, server):
        stdlib, ours = both(server.getsockname(), 5, ("::1", 0))
        assert ours == stdlib

    def test_several_addresses_last_error_or_all(self, monkeypatch, refused_port):
        monkeypatch.setattr(socket, "getaddrinfo", named("127.0.0.1", "::1", refused_port))
        stdlib, ours = both(("db", refused_port))
        assert ours == stdlib
        with pytest.raises(ExceptionGroup) as group:
            safedial.safe_connect(("db", refused_port), all_errors=True)
        assert str(group.value) == "create_connection failed (2 sub-exceptions)"
        assert [error.errno for error in group.value.exceptions] == [errno.ECONNREFUSED] * 2
        assert "::1" in "".join(group.value.__notes__)
        assert group.value.__suppress_context__, "the last error is a member, not a cause"

    def test_all_errors_are_those_of_the_last_round(self, monkeypatch, dead_port):
        answers = [[(socket.AF_INET, 1, 6, "", ("127.0.0.1", dead_port))]]

        def getaddrinfo(*args, **kwds):
            if answers:
                return answers.pop()
            raise socket.gaierror(socket.EAI_NONAME, "gone")

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        with pytest.raises(socket.gaierror):
            safedial.safe_connect(("db", 1), policy=safedial.reconnect(9, 0.001), all_errors=True)

    def test_second_address_answers(self, monkeypatch, server):
        monkeypatch.setattr(socket, "getaddrinfo", named("::1", "127.0.0.1", server.getsockname()[1]))
        stdlib, ours = both(("db", 1))
        assert ours == stdlib

    def test_empty_resolution(self, monkeypatch):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwds: [])
        stdlib, ours = both(("db", 80))
        assert ours == stdlib == (OSError, None, "getaddrinfo returns an empty list")

    def test_host_name_that_cannot_be_one(self):
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


def dial_unreachable():
    found = TestOpenConnection().compare(None, "192.0.2.1", 80)
    return [[str(part) for part in each[:1]] + list(each[1:]) for each in found]


def dial_with_fast_open(steer):
    """With a cookie, the kernel says that it is connected before anything was sent."""
    Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("1543")  # both sides, no cookie needed
    fast_open_connect = (socket.IPPROTO_TCP, 30, 1)  # linux/tcp.h

    async def main():
        with faults.listener() as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
            for _ in range(4):
                _, writer = await safedial.open_connection(
                    *server.getsockname(), steer=steer, socket_options=[fast_open_connect]
                )
                writer.write(b"hello")
                await writer.drain()
                await asyncio.to_thread(lambda: server.accept()[0].close())
                writer.close()
        return 4

    return asyncio.run(main())


async def attempt(open_connection, *args, **kwds):
    """What an asyncio dial returned or raised, in terms that can be compared."""
    try:
        reader, writer = await open_connection(*args, **kwds)
    except Exception as error:
        return type(error), getattr(error, "errno", None), str(error)
    found = reader._limit, writer.get_extra_info("peername"), type(writer.transport)
    writer.close()
    await writer.wait_closed()
    return found


class TestOpenConnection:
    def compare(self, loop_factory, *args, **kwds):
        return (
            faces.run(attempt(asyncio.open_connection, *args, **kwds), loop_factory),
            faces.run(attempt(safedial.open_connection, *args, **kwds), loop_factory),
        )

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", b"127.0.0.1", None])
    @pytest.mark.parametrize("options", [{}, {"limit": 100}, {"family": socket.AF_INET}])
    def test_success(self, loop_factory, server, host, options):
        stdlib, ours = self.compare(loop_factory, host, server.getsockname()[1], **options)
        assert ours == stdlib

    def test_success_of_a_race(self, server):
        stdlib, ours = self.compare(None, "localhost", server.getsockname()[1], happy_eyeballs_delay=0.1)
        assert ours == stdlib

    @pytest.mark.parametrize(
        ("args", "options"),
        [
            ((), {}),
            (("127.0.0.1", 1), {"server_hostname": "db"}),
            (("127.0.0.1", 1), {"ssl_handshake_timeout": 1}),
            (("127.0.0.1", 1), {"ssl_shutdown_timeout": 1}),
            ((None, 1), {"ssl": True}),
            (("127.0.0.1", 1), {"limit": 0}),
            (("127.0.0.1", 1), {"limit": -1}),
            (("no.such.host.invalid", 1), {}),
            (("a" * 64, 1), {}),
            (("127.0.0.1", 1), {"local_addr": ("no.such.host.invalid", 0)}),
            (("127.0.0.1", 1), {"proto": socket.IPPROTO_UDP}),
            (("127.0.0.1", 1), {"local_addr": ("192.0.2.1", 0)}),
            (("127.0.0.1", 1), {"local_addr": ("::1", 0)}),
        ],
    )
    def test_failure(self, args, options):
        stdlib, ours = self.compare(None, *args, **options)
        assert ours[:2] == stdlib[:2]
        # Python 3.12 put the errno into the text of a failed bind.
        assert ours[2].lower() == stdlib[2].lower().replace(": [errno 99] ", ": ")

    def test_unreachable(self):
        namespace.require()
        stdlib, ours = namespace.call(dial_unreachable)
        assert ours == stdlib
        assert ours[1] == errno.ENETUNREACH

    def test_refused(self, refused_port):
        stdlib, ours = self.compare(None, "127.0.0.1", refused_port)
        assert ours == stdlib

    def test_refused_by_two_addresses_keeps_the_errno(self, monkeypatch, refused_port):
        monkeypatch.setattr(socket, "getaddrinfo", named("127.0.0.1", "::1", refused_port))
        stdlib, ours = self.compare(None, "db", refused_port)
        assert stdlib[:2] == (OSError, None)
        assert ours[:2] == (ConnectionRefusedError, errno.ECONNREFUSED)
        assert stdlib[2] in ours[2]

    def test_all_errors(self, monkeypatch, dead_port):
        monkeypatch.setattr(socket, "getaddrinfo", named("127.0.0.1", "::1", dead_port))
        with pytest.raises(ExceptionGroup) as group:
            faces.run(safedial.open_connection("db", 1, all_errors=True))
        assert [error.errno for error in group.value.exceptions] == [errno.ECONNREFUSED] * 2

    def test_happy_eyeballs_takes_the_one_that_answers(self, monkeypatch, server):
        with faults.full_listener() as black_hole:
            infos = [(socket.AF_INET, 1, 6, "", listening.getsockname()) for listening in (black_hole, server)]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwds: infos)
            found = faces.run(attempt(safedial.open_connection, "db", 1, happy_eyeballs_delay=0.02))
        assert found[1] == server.getsockname()

    def test_happy_eyeballs_all_refused(self, monkeypatch, dead_port):
        monkeypatch.setattr(socket, "getaddrinfo", named("127.0.0.1", "::1", dead_port))
        found = faces.run(attempt(safedial.open_connection, "db", 1, happy_eyeballs_delay=10))
        assert found[:2] == (ConnectionRefusedError, errno.ECONNREFUSED)

    @pytest.mark.parametrize("options", [{"interleave": 1}, {"happy_eyeballs_delay": 10}], ids=str)
    def test_interleave(self, monkeypatch, dead_port, options):
        hosts = ["127.0.0.1", "127.0.0.2", "::1", "::2"]
        infos = [(socket.AF_INET6 if ":" in h else socket.AF_INET, 1, 6, "", (h, dead_port)) for h in hosts]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwds: infos)
        tried = []
        with pytest.raises(OSError, match="Multiple"):
            faces.run(
                safedial.open_connection("db", 1, on_event=lambda event: tried.append(event.address[0]), **options)
            )
        assert tried == ["127.0.0.1", "::1", "127.0.0.2", "::2"]

    def test_connected_socket_is_used_as_it_is(self, loop_factory, server):
        async def main():
            _, writer = await safedial.open_connection(sock=socket.create_connection(server.getsockname()))
            writer.close()
            await writer.wait_closed()

        faces.run(main(), loop_factory)

    def test_socket_and_host(self, server):
        with socket.create_connection(server.getsockname()) as sock:
            stdlib, ours = self.compare(None, "127.0.0.1", 1, sock=sock)
        assert ours == stdlib

    def test_what_the_resolver_and_the_loop_are_given(self, server):
        port = server.getsockname()[1]

        async def main():
            loop = asyncio.get_running_loop()
            given = {}

            async def getaddrinfo(host, port, **kwds):
                given["resolver"] = kwds
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", server.getsockname())]

            async def create_connection(factory, **kwds):
                given["loop"] = kwds
                kwds["sock"].close()
                return None, factory()

            loop.getaddrinfo, loop.create_connection = getaddrinfo, create_connection
            await adapter.create_connection(
                asyncio.Protocol,
                "db",
                port,
                family=socket.AF_INET,
                proto=6,
                flags=socket.AI_NUMERICSERV,
                ssl=True,
                ssl_handshake_timeout=3,
                ssl_shutdown_timeout=4,
            )
            return given

        given = faces.run(main())
        assert given["resolver"] == {
            "family": socket.AF_INET,
            "type": socket.SOCK_STREAM,
            "proto": 6,
            "flags": socket.AI_NUMERICSERV,
        }
        del given["loop"]["sock"]
        assert given["loop"] == {
            "ssl": True,
            "server_hostname": "db",
            "ssl_handshake_timeout": 3,
            "ssl_shutdown_timeout": 4,
        }

    def test_scope_of_a_local_addr_is_kept(self):
        async def main(open_connection):
            with faults.listener("::1") as server:
                _, writer = await open_connection(*server.getsockname()[:2], local_addr=("::1", 0, 0, 1))
                writer.close()
                await writer.wait_closed()

        bound = []

        class Spy(socket.socket):
            def bind(self, address):
                bound.append(address)
                super().bind(address)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "socket", Spy)
            faces.run(main(safedial.open_connection))
        assert ("::1", 0, 0, 1) in bound

    @pytest.mark.skipif(sys.platform != "linux", reason="TCP_FASTOPEN_CONNECT is Linux's")
    def test_connect_that_is_deferred(self):
        namespace.require()
        assert namespace.call(dial_with_fast_open, True) == namespace.call(dial_with_fast_open, False) == 4

    def test_timeout_for_an_attempt(self, loop_factory):
        with faults.full_listener() as server, pytest.raises(TimeoutError, match="timed out"):
            faces.run(safedial.open_connection(*server.getsockname(), timeout=0.05), loop_factory)

    @pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT is Linux's")
    def test_the_kernels_own_timeout_keeps_its_errno(self, loop_factory):
        impatient = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 50)
        with faults.full_listener() as server, pytest.raises(TimeoutError) as caught:
            faces.run(
                safedial.open_connection(*server.getsockname(), timeout=60, socket_options=[impatient]), loop_factory
            )
        assert caught.value.errno == errno.ETIMEDOUT

    @pytest.mark.parametrize("hostname", [None, "localhost"])
    def test_tls_comes_after_the_check(self, loop_factory, hostname, force, dead_port):
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        there, here = web.ssl_contexts(authority, certificate)

        async def main():
            async def greet(reader, writer):
                writer.write(await reader.readexactly(5))
                writer.close()

            server = await asyncio.start_server(greet, "127.0.0.1", dead_port, ssl=there)
            async with server:
                reader, writer = await safedial.open_connection(
                    "127.0.0.1", dead_port, ssl=here, server_hostname=hostname, ssl_handshake_timeout=20
                )
                writer.write(b"hello")
                assert await reader.read(5) == b"hello"
                writer.close()
                await writer.wait_closed()
            await server.wait_closed()

        faces.run(main(), loop_factory)
        # With the server gone and the self-connect forced, TLS must not begin.
        force(dead_port)
        with pytest.raises(safedial.SelfConnectError):
            faces.run(safedial.open_connection("127.0.0.1", dead_port, ssl=here, policy=None), loop_factory)

    def test_certificate_for_another_name(self, loop_factory):
        authority = trustme.CA()
        there, here = web.ssl_contexts(authority, authority.issue_cert("elsewhere.example"))

        async def main():
            server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=there)
            async with server:
                with pytest.raises(OSError, match="certificate"):
                    await safedial.open_connection(*server.sockets[0].getsockname(), ssl=here)

        faces.run(main(), loop_factory)

    def test_protocol_factory_that_raises(self, loop_factory, server):
        def broken():
            raise ZeroDivisionError

        async def main():
            with pytest.raises(ZeroDivisionError):
                await adapter.create_connection(broken, *server.getsockname())

        faces.run(main(), loop_factory)


_REPLACED = """
import asyncio, functools, socket, sys, unittest, warnings
import safedial
from safedial._dial.record import Record
steer = sys.argv[1] == "True"
dials = []
begin = Record.__init__
Record.__init__ = lambda *args: (dials.append(1), begin(*args))[1]
if sys.argv[2] == "socket":
    from test import test_socket as module
    socket.create_connection = functools.partial(safedial.safe_connect, steer=steer)
    names = [name for name in vars(module) if name.startswith("NetworkConnection")] + ["BasicTCPTest2"]
    suite = unittest.TestSuite(
        unittest.defaultTestLoader.loadTestsFromTestCase(getattr(module, name))
        for name in names if issubclass(getattr(module, name), unittest.TestCase)
    )
else:
    from test.test_asyncio import test_streams as module
    asyncio.open_connection = functools.partial(safedial.open_connection, steer=steer)
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
result = unittest.TextTestRunner(verbosity=2).run(suite)
print(len(dials), "dials of ours", file=sys.stderr)
sys.exit(not result.wasSuccessful())
"""


@pytest.mark.storm
@pytest.mark.parametrize(("module", "at_least"), [("socket", 14), ("streams", 40)])
@pytest.mark.parametrize("steer", [True, False], ids=["steered", "unsteered"])
def test_cpythons_own_tests_pass_with_ours_in_place(module, at_least, steer):
    if importlib.util.find_spec("test.test_socket") is None:
        pytest.skip("this Python was packaged without its own tests (Debian: libpython3-testsuite)")
    done = subprocess.run(
        [sys.executable, "-c", _REPLACED, str(steer), module],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ran = int(re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)[1])
    assert ran >= at_least, done.stderr
    dials = int(re.search(r"^(\d+) dials of ours", done.stderr, re.MULTILINE)[1])
    assert dials >= 8, "the replacement was used"
