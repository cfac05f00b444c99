"""`open_connection` compared with asyncio's, and its own options."""

import asyncio
import errno
import socket
import sys
from pathlib import Path

import pytest
import trustme

import safedial
from safedial.adapters import asyncio as adapter
from tests.support import dials, faults, namespace, web
from tests.support.resolvers import hosts, servers


async def outcome(open_connection, *args, **kwds):
    """Return the result or the error of an asyncio dial, in a form that can be compared."""
    try:
        reader, writer = await open_connection(*args, **kwds)
    except Exception as error:
        return type(error), getattr(error, "errno", None), str(error)
    found = reader._limit, writer.get_extra_info("peername"), type(writer.transport)
    writer.close()
    await writer.wait_closed()
    return found


class TestOpenConnection:
    """asyncio's function has the same result or error, unless a test says otherwise."""

    def compare(self, loop_factory, *args, **kwds):
        return (
            dials.run(outcome(asyncio.open_connection, *args, **kwds), loop_factory),
            dials.run(outcome(safedial.open_connection, *args, **kwds), loop_factory),
        )

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", b"127.0.0.1", None])
    @pytest.mark.parametrize("options", [{}, {"limit": 100}, {"family": socket.AF_INET}])
    def test_success(self, loop_factory, server, host, options):
        stdlib, ours = self.compare(loop_factory, host, server.getsockname()[1], **options)
        assert ours == stdlib

    def test_success_in_a_race(self, server):
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
        # Python 3.12 added the errno to the message of a failed bind.
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
        monkeypatch.setattr(socket, "getaddrinfo", hosts("127.0.0.1", "::1", port=refused_port))
        stdlib, ours = self.compare(None, "db", refused_port)
        assert stdlib[:2] == (OSError, None)
        assert ours[:2] == (ConnectionRefusedError, errno.ECONNREFUSED)
        assert stdlib[2] in ours[2]

    def test_all_errors_raises_a_group(self, monkeypatch, dead_port):
        monkeypatch.setattr(socket, "getaddrinfo", hosts("127.0.0.1", "::1", port=dead_port))
        with pytest.raises(ExceptionGroup) as group:
            dials.run(safedial.open_connection("db", 1, all_errors=True))
        assert [error.errno for error in group.value.exceptions] == [errno.ECONNREFUSED] * 2

    def test_happy_eyeballs_connects_to_the_address_that_answers(self, monkeypatch, server):
        with faults.full_listener() as black_hole:
            monkeypatch.setattr(socket, "getaddrinfo", servers(black_hole, server))
            found = dials.run(outcome(safedial.open_connection, "db", 1, happy_eyeballs_delay=0.02))
        assert found[1] == server.getsockname()

    def test_happy_eyeballs_keeps_the_errno_if_all_refuse(self, monkeypatch, dead_port):
        monkeypatch.setattr(socket, "getaddrinfo", hosts("127.0.0.1", "::1", port=dead_port))
        found = dials.run(outcome(safedial.open_connection, "db", 1, happy_eyeballs_delay=10))
        assert found[:2] == (ConnectionRefusedError, errno.ECONNREFUSED)

    @pytest.mark.parametrize("options", [{"interleave": 1}, {"happy_eyeballs_delay": 10}], ids=str)
    def test_addresses_are_interleaved(self, monkeypatch, dead_port, options):
        resolver = hosts("127.0.0.1", "127.0.0.2", "::1", "::2", port=dead_port)
        monkeypatch.setattr(socket, "getaddrinfo", resolver)
        tried = []
        with pytest.raises(OSError, match="Multiple"):
            dials.run(
                safedial.open_connection("db", 1, on_event=lambda event: tried.append(event.address[0]), **options)
            )
        assert tried == ["127.0.0.1", "::1", "127.0.0.2", "::2"]

    def test_connected_socket_is_used(self, loop_factory, server):
        async def main():
            _, writer = await safedial.open_connection(sock=socket.create_connection(server.getsockname()))
            writer.close()
            await writer.wait_closed()

        dials.run(main(), loop_factory)

    def test_socket_and_host_are_an_error(self, server):
        with socket.create_connection(server.getsockname()) as sock:
            stdlib, ours = self.compare(None, "127.0.0.1", 1, sock=sock)
        assert ours == stdlib

    def test_arguments_passed_to_the_resolver_and_the_loop(self, server):
        port = server.getsockname()[1]

        async def main():
            loop = asyncio.get_running_loop()
            given = {}

            async def getaddrinfo(host, port, **kwds):
                given["resolver"] = kwds
                return [faults.tcp(*server.getsockname())]

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

        given = dials.run(main())
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
            dials.run(main(safedial.open_connection))
        assert ("::1", 0, 0, 1) in bound

    @pytest.mark.skipif(sys.platform != "linux", reason="TCP_FASTOPEN_CONNECT is Linux's")
    def test_tcp_fast_open_works(self):
        namespace.require()
        assert namespace.call(dial_with_fast_open, True) == namespace.call(dial_with_fast_open, False) == 4

    def test_timeout_limits_an_attempt(self, loop_factory):
        with faults.full_listener() as server, pytest.raises(TimeoutError, match="timed out"):
            dials.run(safedial.open_connection(*server.getsockname(), timeout=0.05), loop_factory)

    @pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT is Linux's")
    def test_kernels_timeout_keeps_its_errno(self, loop_factory):
        impatient = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 50)
        with faults.full_listener() as server, pytest.raises(TimeoutError) as caught:
            dials.run(
                safedial.open_connection(*server.getsockname(), timeout=60, socket_options=[impatient]), loop_factory
            )
        assert caught.value.errno == errno.ETIMEDOUT

    @pytest.mark.parametrize("hostname", [None, "localhost"])
    def test_tls_begins_after_the_check(self, loop_factory, hostname, force, dead_port):
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

        dials.run(main(), loop_factory)
        # The server is gone and the dial connects to itself: TLS must not begin.
        force(dead_port)
        with pytest.raises(safedial.SelfConnectError):
            dials.run(safedial.open_connection("127.0.0.1", dead_port, ssl=here, policy=None), loop_factory)

    def test_certificate_for_another_name_is_an_error(self, loop_factory):
        authority = trustme.CA()
        there, here = web.ssl_contexts(authority, authority.issue_cert("elsewhere.example"))

        async def main():
            server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=there)
            async with server:
                with pytest.raises(OSError, match="certificate"):
                    await safedial.open_connection(*server.sockets[0].getsockname(), ssl=here)

        dials.run(main(), loop_factory)

    def test_protocol_factory_that_raises_leaves_nothing(self, loop_factory, server):
        def broken():
            raise ZeroDivisionError

        async def main():
            with pytest.raises(ZeroDivisionError):
                await adapter.create_connection(broken, *server.getsockname())

        dials.run(main(), loop_factory)


def dial_unreachable():
    found = TestOpenConnection().compare(None, "192.0.2.1", 80)
    return [[str(part) for part in each[:1]] + list(each[1:]) for each in found]


def dial_with_fast_open(steer):
    """With TCP_FASTOPEN_CONNECT, connect() succeeds before anything is sent."""
    Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("1543")  # client and server, without cookies
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


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"ssl": "yes"}, TypeError, "ssl"),
        ({"ssl": True, "ssl_handshake_timeout": 0}, ValueError, "ssl_handshake_timeout"),
        ({"interleave": "1"}, TypeError, "interleave"),
        ({"interleave": 1.5}, TypeError, "interleave"),
        ({"family": "AF_INET"}, TypeError, "family"),
    ],
)
def test_invalid_arguments_are_named(no_sockets, options, error, name):
    async def main():
        no_sockets()
        with pytest.raises(error, match=name):
            await safedial.open_connection("127.0.0.1", 80, **options)

    dials.run(main())


def test_connected_socket_and_options_of_a_dial_are_an_error(server):
    async def main():
        with socket.create_connection(server.getsockname()) as sock, pytest.raises(ValueError, match="policy"):
            await safedial.open_connection(sock=sock, policy=safedial.reconnect())

    dials.run(main())
