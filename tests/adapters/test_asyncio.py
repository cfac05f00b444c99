"""Event loops that never connect to themselves: asyncio's own, and uvloop's, which dials in C."""

import asyncio
import contextlib
import functools
import socket
import subprocess
import sys

import aiohttp
import asyncpg
import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

import safedial
from safedial import testing
from safedial.adapters import asyncio as adapter
from tests.support import faults, web

try:
    import uvloop
except ImportError:  # not built for this interpreter
    uvloop = None

HOST = "127.0.0.1"
CLASSES = {"asyncio": asyncio.SelectorEventLoop}
if uvloop is not None:
    CLASSES["uvloop"] = uvloop.Loop


@pytest.fixture(params=CLASSES)
def loop_class(request):
    return CLASSES[request.param]


@pytest.fixture
def run(loop_class):
    return functools.partial(run_in, loop_class)


def run_in(loop_class, coroutine, **options):
    with asyncio.Runner(loop_factory=lambda: adapter.new_event_loop(loop_class, **options)) as runner:
        return runner.run(coroutine)


async def closed(transport_or_writer):
    transport_or_writer.close()
    if isinstance(transport_or_writer, asyncio.StreamWriter):
        await transport_or_writer.wait_closed()
    else:
        await asyncio.sleep(0)


async def streams(host, port, **kwds):
    _, writer = await asyncio.open_connection(host, port, **kwds)
    ends = writer.get_extra_info("sockname"), writer.get_extra_info("peername")
    await closed(writer)
    return ends


async def protocols(host, port, **kwds):
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, port, **kwds)
    ends = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
    await closed(transport)
    return ends


async def socks(host, port):
    """Dial as aiohappyeyeballs and aiohttp do."""
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    with socket.socket(infos[0][0]) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, infos[0][4])
        return sock.getsockname(), sock.getpeername()


async def over_tls(host, port):
    return await streams(host, port, ssl=context(), server_hostname="localhost")


@functools.cache
def context():
    return web.client_context()


WAYS = [streams, protocols, socks, over_tls]


def failure(run, coroutine):
    with pytest.raises(OSError) as caught:  # noqa: PT011  # the callers check which one
        run(coroutine)
    return caught.value


def plainly(loop_class, coroutine):
    with asyncio.Runner(loop_factory=loop_class) as runner:
        return runner.run(coroutine)


class TestEveryWay:
    def test_is_never_connected_to_itself(self, run, force, steering):
        for way in WAYS:
            fault = force(port := testing.dead_port())
            assert isinstance(failure(run, way(HOST, port)), ConnectionRefusedError), way
            assert fault.triggered, way
            faults.assert_server_can_bind(HOST, port)
        testing.assert_no_self_connects()

    def test_stays_refused(self, run, loop_class, steering):
        with testing.refused_port() as port:
            for way in WAYS:
                ours = failure(run, way(HOST, port))
                theirs = failure(functools.partial(plainly, loop_class), way(HOST, port))
                assert (type(ours), ours.errno) == (type(theirs), theirs.errno), way

    def test_unknown_host(self, run, loop_class):
        for way in WAYS:
            ours = failure(run, way("no-such-name.invalid", 80))
            theirs = failure(functools.partial(plainly, loop_class), way("no-such-name.invalid", 80))
            assert type(ours) is type(theirs) is socket.gaierror, way

    def test_times_out(self, run):
        async def bounded(way):
            async with asyncio.timeout(0.02):
                await way(*server.getsockname())

        with faults.full_listener() as server:
            for way in WAYS:
                assert type(failure(run, bounded(way))) is TimeoutError, way


def test_libraries_on_top_are_safe(run, force, steering):
    """aiohttp dials by sock_connect, the others by create_connection."""

    async def web_page(port):
        async with aiohttp.ClientSession() as session:
            await session.get(f"https://{HOST}:{port}/")

    async def postgres(port):
        await asyncpg.connect(host=HOST, port=port, user="ada", database="app")

    async def cache(port):
        async with redis.asyncio.Redis(host=HOST, port=port, retry=Retry(NoBackoff(), 0)) as client:
            await client.get("user:1")

    expected = {
        web_page: aiohttp.ClientConnectorError,
        postgres: ConnectionRefusedError,
        cache: redis.ConnectionError,
    }
    for use, refused in expected.items():
        force(port := testing.dead_port())
        with pytest.raises(refused):
            run(use(port))
        faults.assert_server_can_bind(HOST, port)
    testing.assert_no_self_connects()


def test_the_kernels_own_choice():
    """Nothing is patched, and the range has eight ports. uvloop connects in C, and is safe too."""
    if reason := testing.no_namespace():
        pytest.skip(reason)
    for name, (alone, ours) in testing.in_namespace(storms, port_range=(40000, 40007)).items():
        assert alone, f"{name} alone should have connected to itself"
        assert not ours, name


def storms():
    """Return for each kind of loop whether it connected to itself: (plain, ours). Each one dials a port of its own."""
    once = safedial.Dialer(policy=None)
    dead = iter(range(40000, 40008, 2))
    return {
        name: (
            plainly(each, connects_to_itself(next(dead))),
            run_in(each, connects_to_itself(next(dead)), dialer=once),
        )
        for name, each in CLASSES.items()
    }


async def connects_to_itself(port):
    for _ in range(100):
        with contextlib.suppress(ConnectionRefusedError):
            local, peer = await protocols(HOST, port)
            return local == peer
    return False


class TestNormalUse:
    def test_tls(self, run, steering):
        async def get():
            reader, writer = await asyncio.open_connection("localhost", server.port, ssl=context())
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            answer = await reader.read()
            await closed(writer)
            return answer

        with web.serve("https") as server:
            assert run(get()).endswith(b"hello")

    def test_arguments_keep_their_meaning(self, run, server):
        ends = run(streams(*server.getsockname(), local_addr=("127.0.0.2", 0), family=socket.AF_INET, ssl=None))
        assert ends[0][0] == "127.0.0.2"

    def test_name_with_two_addresses(self, run, server):
        assert run(streams("localhost", server.getsockname()[1]))[1] == server.getsockname()

    def test_socket_that_is_connected(self, run, server):
        async def handed_over():
            sock = await safedial.Dialer().dial_async(server.getsockname())
            return await protocols(None, None, sock=sock)

        assert run(handed_over())[1] == server.getsockname()

    def test_open_connection_and_create_connection(self, run, server):
        async def both():
            _, writer = await adapter.open_connection(*server.getsockname())
            await closed(writer)
            transport, _ = await adapter.create_connection(asyncio.Protocol, *server.getsockname())
            await closed(transport)

        run(both())

    @pytest.mark.parametrize("arguments", [{}, {"host": HOST, "port": 80, "sock": socket}])
    def test_nothing_to_dial(self, run, loop_class, arguments):
        async def nothing():
            host, port = arguments.get("host"), arguments.get("port")
            sock = socket.socket() if "sock" in arguments else None
            try:
                await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, port, sock=sock)
            finally:
                if sock is not None:
                    sock.close()

        words = []
        for each in (run, functools.partial(plainly, loop_class)):
            with pytest.raises(ValueError) as caught:  # noqa: PT011  # compared
                each(nothing())
            words.append(str(caught.value))
        assert words[0] == words[1]

    def test_datagrams_and_unix_sockets(self, run, tmp_path):
        async def both():
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(HOST, 9))
            await closed(transport)
            server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), str(tmp_path / "socket"))
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "socket"))
            await reader.read()
            await closed(writer)
            server.close()
            await server.wait_closed()

        run(both())


class TestDialer:
    def test_its_policy_outlasts_an_outage(self, run):
        with testing.Outage() as server:
            server.refuse_for(dials=2)
            policy = safedial.reconnect(within=5, first=0.001, cap=0.01)
            assert run(streams(*server.address), dialer=safedial.Dialer(policy=policy))[1] == server.address

    def test_all_of_it_counts(self, run, server):
        events = []
        dialer = safedial.Dialer(
            on_event=events.append,
            source_address=("127.0.0.3", 0),
            family=socket.AF_INET,
            timeout=5,
            total_timeout=5,
            socket_options=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)],
        )

        async def dial():
            _, writer = await asyncio.open_connection("localhost", server.getsockname()[1], local_addr=None)
            sock = writer.get_extra_info("socket")
            found = sock.getsockname()[0], sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            await closed(writer)
            return found

        assert run(dial(), dialer=dialer) == ("127.0.0.3", 1)
        assert events

    def test_all_settings_are_passed_on(self):
        dialer = safedial.Dialer(resolver=socket.getaddrinfo, steer=False, total_timeout=5)
        with contextlib.closing(adapter.new_event_loop(dialer=dialer)) as loop:
            told = dict(loop.dial_options)
        told["source_address"] = told.pop("local_addr")
        assert told == {**vars(dialer), "timeout": None}

    def test_the_callers_arguments_come_first(self, run, server):
        dialer = safedial.Dialer(source_address=("127.0.0.3", 0))
        assert run(streams(*server.getsockname(), local_addr=("127.0.0.2", 0)), dialer=dialer)[0][0] == "127.0.0.2"

    def test_timeout(self, run):
        with faults.full_listener() as server:
            dialer = safedial.Dialer(timeout=0.05, policy=None)
            assert isinstance(
                failure(functools.partial(run, dialer=dialer), streams(*server.getsockname())), TimeoutError
            )


class TestFactory:
    def test_is_asyncios_own_by_itself(self):
        plainly = contextlib.closing(asyncio.new_event_loop())
        with asyncio.Runner(loop_factory=adapter.new_event_loop) as runner, plainly as loop:
            assert isinstance(runner.get_loop(), type(loop))

    def test_other_loops_stay_as_they_are(self, loop_class):
        before = loop_class.create_connection, loop_class.sock_connect
        with contextlib.closing(adapter.new_event_loop(loop_class)), contextlib.closing(loop_class()) as plain:
            assert (loop_class.create_connection, loop_class.sock_connect) == before
            assert type(plain) is loop_class

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [(("uvloop",), "loop_class"), ((object,), "loop_class"), ((asyncio.SelectorEventLoop, 5), "dialer")],
    )
    def test_bad_arguments(self, arguments, named):
        with pytest.raises(TypeError, match=named):
            adapter.new_event_loop(arguments[0], **({"dialer": arguments[1]} if arguments[1:] else {}))

    def test_needs_no_library(self):
        code = "import sys; sys.modules['uvloop'] = None; import safedial.adapters.asyncio"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
