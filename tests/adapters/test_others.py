"""Other people's guards stay in force under the adapters: cassettes, mocks, pinned names, replaced functions."""

import asyncio
import contextlib
import ftplib
import http.client
import inspect
import smtplib
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request

import aiohttp
import anyio
import httpcore
import httpx
import pytest
import pytest_socket
import redis
import requests
import responses
import urllib3
import valkey
import vcr
import yaml
from mocket import Mocket, mocketize
from mocket.mockhttp import Entry

import safedial
from safedial import Dialer, SelfConnectError, testing
from safedial._dial.replaced import is_theirs
from safedial._retry import transient
from safedial.adapters import aiohttp as our_aiohttp
from safedial.adapters import http as our_http
from safedial.adapters import httpx as our_httpx
from safedial.adapters import redis as our_redis
from safedial.adapters import requests as our_requests
from safedial.adapters import socket as our_socket
from safedial.adapters import urllib3 as our_urllib3
from safedial.adapters import valkey as our_valkey
from tests.support import faults, web

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def _no_proxy_of_the_systems(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# --- clients: each context manager gives a function that gets a URL and returns the text -----------------------------


@contextlib.contextmanager
def a_session(**given):
    with our_requests.protect(requests.Session(), **given) as made:
        yield lambda url: made.get(url, verify=False).text


@contextlib.contextmanager
def a_manager(**given):
    with our_urllib3.protect(urllib3.PoolManager(), **given) as made:
        yield lambda url: made.request("GET", url, retries=False).data.decode()


@contextlib.contextmanager
def a_safe_manager(**given):
    with our_urllib3.SafePoolManager(**given) as made:
        yield lambda url: made.request("GET", url, retries=False).data.decode()


@contextlib.contextmanager
def a_pool(**given):
    with contextlib.ExitStack() as stack:
        pools = {}

        def get(url):
            if url not in pools:
                pools[url] = stack.enter_context(our_urllib3.protect(urllib3.connection_from_url(url), **given))
            return pools[url].request("GET", "/", retries=False).data.decode()

        yield get


@contextlib.contextmanager
def a_safe_pool(**given):
    with contextlib.ExitStack() as stack:
        pools = {}

        def get(url):
            parsed = urllib3.util.parse_url(url)
            if url not in pools:
                kind = f"Safe{parsed.scheme.upper()}ConnectionPool"
                made = getattr(our_urllib3, kind)(parsed.host, parsed.port, **given)
                pools[url] = stack.enter_context(made)
            return pools[url].request("GET", "/", retries=False).data.decode()

        yield get


@contextlib.contextmanager
def an_opener(**given):
    opener = our_http.build_opener(**given)

    def get(url):
        with opener.open(url, timeout=5) as answer:
            return answer.read().decode()

    yield get


@contextlib.contextmanager
def an_httpx_client(**given):
    with our_httpx.protect(httpx.Client(), **given) as made:
        yield lambda url: made.get(url).text


@contextlib.contextmanager
def an_httpx_transport(**given):
    with httpx.Client(transport=our_httpx.SafeHTTPTransport(**given)) as made:
        yield lambda url: made.get(url).text


@contextlib.contextmanager
def an_async_httpx_client(**given):
    with asyncio.Runner() as runner:
        made = our_httpx.protect(httpx.AsyncClient(), **given)

        async def get(url):
            return (await made.get(url)).text

        yield lambda url: runner.run(get(url))
        runner.run(made.aclose())


@contextlib.contextmanager
def an_aiohttp_session():
    with asyncio.Runner() as runner:

        async def make():
            return our_aiohttp.protect(aiohttp.ClientSession())

        made = runner.run(make())

        async def get(url):
            async with made.get(url) as answer:
                return await answer.text()

        yield lambda url: runner.run(get(url))
        runner.run(made.close())


WEB = {
    "requests": a_session,
    "urllib3": a_manager,
    "urllib3, safe class": a_safe_manager,
    "urllib3 pool": a_pool,
    "urllib3 pool, safe class": a_safe_pool,
    "urllib.request": an_opener,
    "httpx": an_httpx_client,
    "httpx, safe class": an_httpx_transport,
    "httpx, asyncio": an_async_httpx_client,
    "aiohttp": an_aiohttp_session,
}


@pytest.fixture(params=WEB)
def client(request):
    return WEB[request.param]


@pytest.fixture
def cassette(tmp_path):
    """A function that makes a cassette with the answer "played" to each of some URLs, which never records."""

    def make(*urls, record_mode="none"):
        answer = {"status": {"code": 200, "message": "OK"}, "headers": {}, "body": {"string": "played"}}
        interactions = [
            {"request": {"method": "GET", "uri": url, "body": None, "headers": {}}, "response": answer} for url in urls
        ]
        path = tmp_path / "cassette.yaml"
        path.write_text(yaml.safe_dump({"version": 1, "interactions": interactions}))
        return vcr.use_cassette(str(path), record_mode=record_mode, allow_playback_repeats=True)

    return make


class TestCassettes:
    """vcrpy replaces the classes and methods of each library while a cassette is in force."""

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_protected_before(self, client, cassette, scheme):
        with web.serve(scheme) as server, client() as get:
            with cassette(server.url):
                assert [get(server.url) for _ in range(2)] == ["played"] * 2
            assert server.connections == 0

    def test_protected_inside(self, client, cassette):
        with web.serve() as server, cassette(server.url), client() as get:
            assert get(server.url) == "played"
            assert server.connections == 0

    def test_what_is_not_on_it_is_not_sent(self, client, cassette):
        with web.serve() as server, client() as get:
            with cassette(), pytest.raises(vcr.errors.CannotOverwriteExistingCassetteException):
                get(server.url)
            assert server.connections == 0

    def test_used_before_in_and_after(self, client, cassette):
        with web.serve() as server, client() as get:
            said = [get(server.url)]
            with cassette(server.url):
                said.append(get(server.url))
                seen = len(server.seen)
            said.append(get(server.url))
            assert said == ["hello", "played", "hello"]
            assert seen == 1

    def test_protected_inside_is_safe_after(self, client, cassette, force, dead_port):
        with contextlib.ExitStack() as stack:
            with cassette():
                get = stack.enter_context(client())
            fault = force(dead_port)
            with pytest.raises(Exception) as caught:  # noqa: PT011  # each client's own
                get(f"http://{HOST}:{dead_port}/")
            assert self.self_connected(caught.value)
            assert fault.triggered
            faults.assert_server_can_bind(HOST, dead_port)

    def test_recording_is_guarded(self, client, cassette, force, dead_port):
        """What the cassette's own class dials does not reach itself either."""
        fault = force(dead_port)
        with cassette(record_mode="all"), client() as get:
            with pytest.raises(Exception) as caught:  # noqa: PT011  # each client's own
                get(f"http://{HOST}:{dead_port}/")
            assert self.self_connected(caught.value)
        assert fault.triggered
        faults.assert_server_can_bind(HOST, dead_port)

    def self_connected(self, error):
        found = list(transient.errors_of(error))
        found += [each for each in (getattr(error, "reason", None),) if isinstance(each, Exception)]
        # aiohttp has it as os_error, httpx in its text alone.
        return any(isinstance(each, SelfConnectError) for each in found) or "refused" in str(error)

    def test_recording_records(self, client, cassette):
        with web.serve() as server, client() as get:
            with cassette(record_mode="all"):
                assert get(server.url) == "hello"
            assert server.connections == 1

    def test_adapters_that_are_loaded_inside(self, tmp_path):
        """The safe classes are not derived from the cassette's."""
        script = f"""
            import safedial, vcr
            with vcr.use_cassette("{tmp_path}/none.yaml", record_mode="none"):
                adapters = [getattr(safedial.adapters, name) for name in {{"requests", "http", "httpx", "aiohttp"}}]
            for adapter in [*adapters, safedial.adapters.urllib3]:
                for each in vars(adapter).values():
                    if isinstance(each, type) and each.__module__ == adapter.__name__:
                        assert not [base for base in each.__mro__ if base.__module__.startswith("vcr")], each
        """
        subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)

    @pytest.mark.parametrize(
        ("make", "name"),
        [
            (our_http.SafeHTTPConnection, "http.client.HTTPConnection"),
            (our_http.SafeHTTPSConnection, "http.client.HTTPConnection"),
            (our_urllib3.SafeHTTPConnection, "urllib3.connection.HTTPConnection"),
            (our_urllib3.SafeHTTPSConnection, "urllib3.connection.HTTPConnection"),
        ],
    )
    def test_connection_by_itself_refuses(self, cassette, make, name):
        says = f"would bypass vcr.*put in the place of {name}"
        with web.serve() as server, contextlib.closing(make(server.host, server.port)) as before:
            with cassette():
                with pytest.raises(RuntimeError, match=says):
                    before.request("GET", "/")
                with pytest.raises(RuntimeError, match=says):
                    make(server.host, server.port).request("GET", "/")
            assert server.connections == 0


class TestMocks:
    @responses.activate
    @pytest.mark.parametrize("when", ["before", "inside"])
    def test_responses(self, when):
        responses.get("http://api.invalid/", body="mocked")
        with a_session() as get:
            assert get("http://api.invalid/") == "mocked"
            with pytest.raises(requests.ConnectionError, match="Connection refused by Responses"):
                get("http://other.invalid/")

    @pytest.mark.parametrize("name", ["requests", "urllib3", "urllib.request", "httpx"])
    def test_mocket(self, name):
        with WEB[name]() as get:

            @mocketize(strict_mode=True)
            def mocked():
                Entry.single_register(Entry.GET, "http://api.invalid/", body="mocked")
                return get("http://api.invalid/"), len(Mocket.request_list())

            assert mocked() == ("mocked", 1)


# --- replaced functions ----------------------------------------------------------------------------------------------


class Theirs:
    """A function of somebody else, in the place of a library's, that sends everybody to one address."""

    def __init__(self, real, address):
        self.calls, self._real, self._address = [], real, address

    def __call__(self, *args, **kwds):
        self.calls.append(args)
        return self._real(self._address, *args[1:], **kwds)


@pytest.fixture
def pin(monkeypatch):
    """A function that replaces a create_connection() by one that dials *address* alone."""

    def replace(module, address):
        theirs = Theirs(module.create_connection, address)
        monkeypatch.setattr(module, "create_connection", theirs)
        return theirs

    return replace


def mailed(host, port, **given):
    our_http.SafeSMTP(host, port, timeout=5, **given).close()


def fetched(host, port):
    with our_http.SafeFTP(timeout=5) as ftp:
        ftp.connect(host, port)


def requested(host, port, **given):
    with contextlib.closing(our_http.SafeHTTPConnection(host, port, **given)) as connection:
        connection.connect()


def created(host, port, **given):
    our_socket.create_connection((host, port), 5).close()


def get_with(client, host, port, **given):
    with client(**given) as get:
        get(f"http://{host}:{port}/")


# Each client, and the module whose create_connection() it calls.
PINNED = {
    "requests": (lambda *address, **given: get_with(a_session, *address, **given), urllib3.util.connection),
    "urllib3": (lambda *address, **given: get_with(a_manager, *address, **given), urllib3.util.connection),
    "urllib.request": (lambda *address, **given: get_with(an_opener, *address, **given), socket),
    "httpx": (lambda *address, **given: get_with(an_httpx_client, *address, **given), socket),
    "http.client": (requested, socket),
    "smtplib": (mailed, socket),
    "ftplib": (fetched, socket),
    "socket": (created, socket),
}


@pytest.fixture(params=PINNED)
def pinned(request):
    return PINNED[request.param]


def greeting(sock, *_):
    """Answer as SMTP, FTP and HTTP servers do at first."""
    with contextlib.suppress(OSError):
        sock.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            if sock.recv(65536):
                sock.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                return
        sock.sendall(b"220 ready\r\n")
        sock.recv(100)


class TestReplacedFunctions:
    def test_makes_the_connection(self, pinned, pin, refused_port):
        dial, module = pinned
        with testing.Outage(greeting) as server:
            theirs = pin(module, server.address)
            dial("pinned.invalid", refused_port)
        assert [address for address, *_ in theirs.calls] == [("pinned.invalid", refused_port)]

    def test_may_refuse(self, pinned, monkeypatch):
        dial, module = pinned

        def refuse(*args, **kwds):
            raise PermissionError("not inside")

        monkeypatch.setattr(module, "create_connection", refuse)
        with web.serve() as server:
            with pytest.raises(Exception, match="not inside"):
                dial(server.host, server.port)
            assert server.connections == 0

    def test_is_guarded(self, pinned, pin, force, dead_port):
        dial, module = pinned
        pin(module, (HOST, dead_port))
        fault = force(dead_port)
        with pytest.raises(Exception, match="refused"):
            dial("pinned.invalid", 1)
        assert fault.triggered
        faults.assert_server_can_bind(HOST, dead_port)

    @pytest.mark.parametrize("name", ["requests", "http.client", "smtplib", "httpx"])
    def test_the_dialers_policy_and_hook_count(self, name, pin):
        dial, module = PINNED[name]
        events = []
        policy = safedial.reconnect(within=10, first=0.001, cap=0.01)
        with testing.Outage(greeting) as server:
            pin(module, server.address)
            server.refuse_for(dials=2)
            dial("pinned.invalid", 1, dialer=Dialer(policy=policy, on_event=events.append))
        assert [event.kind for event in events] == ["failed", "retry", "failed", "retry", "connected"]

    @pytest.mark.parametrize("name", ["requests", "http.client", "smtplib"])
    def test_the_dialers_timeout_and_source_are_given_to_it(self, name, pin):
        dial, module = PINNED[name]
        given = []
        with testing.Outage(greeting) as server:
            theirs = pin(module, server.address)
            real = theirs._real
            theirs._real = lambda address, timeout, source_address=None, **kwds: (
                given.append((timeout, source_address)) or real(address, timeout, source_address, **kwds)
            )
            more = {} if name == "smtplib" else {"dialer": Dialer(timeout=7, source_address=("127.0.0.2", 0))}
            dial("pinned.invalid", 1, **(more or {"dialer": Dialer(source_address=("127.0.0.2", 0))}))
        assert given == [(5 if name == "smtplib" else 7, ("127.0.0.2", 0))]

    @pytest.mark.parametrize("name", ["requests", "http.client", "smtplib", "httpx"])
    def test_a_dialers_resolver_is_not_bypassed_either(self, name, pin):
        dial, module = PINNED[name]
        with testing.Outage(greeting) as server:
            theirs = pin(module, server.address)
            with pytest.raises(RuntimeError, match="dialer has a resolver"):
                dial("pinned.invalid", 1, dialer=Dialer(resolver=socket.getaddrinfo))
        assert not theirs.calls

    def test_wrapper_with_the_functions_name_is_known(self, monkeypatch):
        import functools

        @functools.wraps(socket.create_connection)
        def theirs(*args, **kwds):
            raise AssertionError

        assert not is_theirs(socket.create_connection, "socket")
        assert is_theirs(theirs, "socket")


class TestReplacedNames:
    """A replaced socket.getaddrinfo() is asked for names."""

    @pytest.fixture
    def names(self, monkeypatch):
        real, asked = socket.getaddrinfo, []

        def replace(port):
            def getaddrinfo(host, *args, **kwds):
                if host == "pinned.invalid":
                    asked.append(host)
                    return real(HOST, port, *args[1:], **kwds)
                return real(host, *args, **kwds)

            monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
            return asked

        return replace

    def test_web(self, client, names):
        with web.serve() as server, client() as get:
            asked = names(server.port)
            assert get("http://pinned.invalid:1/") == "hello"
            assert asked

    @pytest.mark.parametrize("name", sorted(WEB.keys() - {"aiohttp"}))  # aiohttp asks nobody about numbers
    def test_is_asked_about_numbers(self, name, monkeypatch):
        def refuse(*args, **kwds):
            raise PermissionError("not inside")

        with web.serve() as server, WEB[name]() as get:
            monkeypatch.setattr(socket, "getaddrinfo", refuse)
            with pytest.raises(Exception, match=r"not inside|attempts failed"):
                get(server.url)
            assert server.connections == 0

    def test_redis(self, names):
        for library, adapter in ((redis.Redis, our_redis), (valkey.Valkey, our_valkey)):
            with testing.Outage() as server:
                asked = names(server.port)
                with contextlib.closing(adapter.protect(library("pinned.invalid", 1))) as client:
                    sock = client.connection_pool.make_connection()._connect()
                    assert sock.getpeername() == server.address
                    sock.close()
                assert asked


class TestReplacedMethods:
    """A method that somebody replaced in the library's class is called, though the safe class has one of its own."""

    def replaced(self, monkeypatch, kind, name):
        calls = []
        real = getattr(kind, name)

        def theirs(self, *args, **kwds):
            calls.append(name)
            return real(self, *args, **kwds)

        async def theirs_async(self, *args, **kwds):
            calls.append(name)
            return await real(self, *args, **kwds)

        monkeypatch.setattr(kind, name, theirs_async if inspect.iscoroutinefunction(real) else theirs)
        return calls

    @pytest.mark.parametrize(
        ("name", "kind", "method"),
        [
            ("requests", urllib3.connection.HTTPConnection, "_new_conn"),
            ("urllib3 pool", urllib3.connection.HTTPConnection, "_new_conn"),
            ("httpx", httpcore.SyncBackend, "connect_tcp"),
            ("httpx, asyncio", httpcore.AnyIOBackend, "connect_tcp"),
            ("aiohttp", aiohttp.TCPConnector, "_create_connection"),
            ("urllib.request", urllib.request.AbstractHTTPHandler, "do_open"),
        ],
    )
    @pytest.mark.parametrize("scheme", ["server", "self"])
    def test_web(self, monkeypatch, name, kind, method, scheme, request):
        with WEB[name]() as get:
            calls = self.replaced(monkeypatch, kind, method)
            if scheme == "server":
                with web.serve() as server:
                    assert get(server.url) == "hello"
            else:
                port = testing.dead_port()
                with testing.self_connect(port), pytest.raises(Exception, match=r"refused|Connect|attempts failed"):
                    get(f"http://{HOST}:{port}/")
                faults.assert_server_can_bind(HOST, port)
            assert calls == [method] * len(calls)
            assert calls

    def test_anyio(self, monkeypatch):
        calls = []
        real = anyio.connect_tcp

        async def theirs(*args, **kwds):
            calls.append(kwds)
            return await real(*args, **kwds)

        with an_async_httpx_client() as get, web.serve() as server:
            monkeypatch.setattr(anyio, "connect_tcp", theirs)
            assert get(server.url) == "hello"
        assert len(calls) == 1

    def test_smtplib(self, monkeypatch):
        calls = self.replaced(monkeypatch, smtplib.SMTP, "_get_socket")
        with testing.Outage(greeting) as server:
            mailed(*server.address)
        assert calls

    @pytest.mark.parametrize(
        ("adapter", "kind"), [(our_redis, redis.Connection), (our_valkey, valkey.Connection)], ids=["redis", "valkey"]
    )
    def test_redis(self, monkeypatch, adapter, kind, server):
        calls = self.replaced(monkeypatch, kind, "_connect")
        adapter.SafeConnection(*server.getsockname())._connect().close()
        assert calls

    @pytest.mark.parametrize(
        ("adapter", "kind"),
        [(our_redis, redis.asyncio.Connection), (our_valkey, valkey.asyncio.Connection)],
        ids=["redis", "valkey"],
    )
    def test_redis_in_asyncio(self, monkeypatch, adapter, kind, server):
        calls = self.replaced(monkeypatch, kind, "_connect")

        async def main():
            host, port = server.getsockname()
            connection = adapter.SafeAsyncConnection(host=host, port=port)
            await connection._connect()
            await connection.disconnect()

        asyncio.run(main())
        assert calls


class TestReplacedClasses:
    def test_of_urllib3s_pools(self, monkeypatch):
        """As a program does that lets no request through."""

        class Theirs(urllib3.connection.HTTPConnection):
            def connect(self):
                raise PermissionError("not inside")

        with web.serve() as server, a_session() as session, a_manager() as manager, a_safe_pool() as pool:
            monkeypatch.setattr(urllib3.connectionpool.HTTPConnectionPool, "ConnectionCls", Theirs)
            for get in (session, manager, pool):
                with pytest.raises(Exception, match="not inside"):
                    get(server.url)
            monkeypatch.undo()
            assert [get(server.url) for get in (session, manager, pool)] == ["hello"] * 3

    def test_of_http_client(self, monkeypatch):
        class Theirs(http.client.HTTPConnection):
            def connect(self):
                raise PermissionError("not inside")

        with web.serve() as server, an_opener() as get:
            monkeypatch.setattr(http.client, "HTTPConnection", Theirs)
            with pytest.raises(urllib.error.URLError, match="not inside"):
                get(server.url)
            with pytest.raises(RuntimeError, match=r"SafeHTTPConnection would bypass tests\..*Theirs"):
                our_http.SafeHTTPConnection(server.host, server.port)
            assert server.connections == 0

    def test_of_urllib3(self, monkeypatch):
        class Theirs(urllib3.connection.HTTPConnection):
            pass

        monkeypatch.setattr(urllib3.connection, "HTTPConnection", Theirs)
        with (
            contextlib.closing(our_urllib3.SafeHTTPConnection(HOST, 1)) as alone,
            pytest.raises(RuntimeError, match=r"SafeHTTPConnection would bypass tests\..*Theirs"),
        ):
            alone.connect()

    def test_of_a_pool(self):
        class Theirs(urllib3.connection.HTTPConnection):
            pass

        with urllib3.HTTPConnectionPool(HOST) as pool:
            pool.ConnectionCls = Theirs
            with pytest.raises(TypeError, match="does not know how Theirs dials"):
                our_urllib3.protect(pool)

    def test_network_backend_of_httpx(self):
        class Theirs(httpcore.NetworkBackend):
            pass

        with httpx.Client() as client:
            client._transport._pool._network_backend = Theirs()
            with pytest.raises(TypeError, match="does not know how the network backend Theirs dials"):
                our_httpx.protect(client)

    def test_of_sockets(self, monkeypatch, force, dead_port):
        class Theirs(socket.socket):
            made = 0

            def __init__(self, *args, **kwds):
                type(self).made += 1
                super().__init__(*args, **kwds)

        fault = force(dead_port)
        monkeypatch.setattr(socket, "socket", Theirs)
        with our_socket.socket() as sock:
            assert isinstance(sock, Theirs)
            with pytest.raises(SelfConnectError):
                sock.connect((HOST, dead_port))
        assert fault.triggered
        assert type(sock).made == 1

    @pytest.mark.filterwarnings("ignore:A test tried to use socket")
    @pytest.mark.parametrize(
        "name", sorted(WEB.keys() - {"aiohttp", "httpx, asyncio"})
    )  # a loop makes sockets of its own
    def test_of_sockets_that_blocks(self, name):
        with web.serve() as server, WEB[name]() as get:
            pytest_socket.disable_socket()
            try:
                with pytest.raises(pytest_socket.SocketBlockedError):
                    get(server.url)
            finally:
                pytest_socket.enable_socket()
            assert server.connections == 0

    @pytest.mark.filterwarnings("ignore:A test tried to use socket")
    def test_of_sockets_that_blocks_the_module_socket(self):
        pytest_socket.disable_socket()
        try:
            for make in (our_socket.socket, lambda: our_socket.create_connection((HOST, 1))):
                with pytest.raises(pytest_socket.SocketBlockedError):
                    make()
        finally:
            pytest_socket.enable_socket()

    def test_gevent_is_nobody(self):
        script = """
            import gevent.monkey; gevent.monkey.patch_all()
            import socket
            from safedial._dial.replaced import is_theirs
            assert socket.create_connection.__module__.startswith("gevent")
            assert not is_theirs(socket.create_connection, "socket")
        """
        subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)


def test_ftplib_has_its_own_dial():
    """SafeFTP and SafeFTP_TLS have no dial of their own that could bypass anybody."""
    assert our_http.SafeFTP.connect.__wrapped__ is ftplib.FTP.connect
