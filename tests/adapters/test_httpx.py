"""httpx with a Dialer, compared with plain httpx: blocking, on both asyncio loops, and on trio under the guard."""

import contextlib
import functools
import os
import socket
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass
from types import SimpleNamespace

import httpcore
import httpx
import pytest
import trio
from anyio.abc import SocketStream

from safedial import Dialer, SelfConnectError, testing
from safedial._retry import transient
from safedial.adapters import httpx as ours
from tests.support import dials, faults, web

HOST = "127.0.0.1"
FAR = "http://far.invalid/"

verify = functools.cache(web.client_context)

# The plain and the safe classes. `safe` protects an existing client.
THEIRS = {
    True: SimpleNamespace(Client=httpx.Client, Transport=httpx.HTTPTransport, safe=lambda client, **_: client),
    False: SimpleNamespace(
        Client=httpx.AsyncClient, Transport=httpx.AsyncHTTPTransport, safe=lambda client, **_: client
    ),
}
OURS = {
    True: SimpleNamespace(Client=httpx.Client, Transport=ours.SafeHTTPTransport, safe=ours.protect),
    False: SimpleNamespace(Client=httpx.AsyncClient, Transport=ours.SafeAsyncHTTPTransport, safe=ours.protect),
}


@dataclass(frozen=True)
class Flavor:
    """One way to run a client: blocking, or in an event loop."""

    run: object = None

    @property
    def theirs(self):
        return THEIRS[self.run is None]

    @property
    def ours(self):
        return OURS[self.run is None]

    @property
    def both(self):
        return self.theirs, self.ours

    def ask(self, client, *urls, look=lambda response: response.text, **kwds):
        """GET *urls*, close the client, and return what *look* returns for each response."""
        if self.run is None:
            with client:
                return [look(client.get(url, **kwds)) for url in urls]
        return self.run(functools.partial(_ask, client, urls, look, kwds))

    def failure(self, client, url, **kwds):
        with pytest.raises((httpx.HTTPError, ssl.SSLError)) as caught:  # the latter: httpcore 1.0.5, async
            self.ask(client, url, **kwds)
        return caught.value


async def _ask(client, urls, look, kwds):
    async with client:
        return [look(await client.get(url, **kwds)) for url in urls]


FLAVORS = {"sync": Flavor()}
for name, factory in dials.LOOPS.items():
    FLAVORS[name] = Flavor(lambda asking, factory=factory: dials.run(asking(), factory))
BY_DIALER = list(FLAVORS)
FLAVORS["trio"] = Flavor(lambda asking: trio.run(asking))


@pytest.fixture(params=FLAVORS)
def flavor(request):
    return FLAVORS[request.param]


@pytest.fixture(params=BY_DIALER)
def dialing(request):
    """The ways to run a client in which a Dialer dials."""
    return FLAVORS[request.param]


@pytest.fixture(autouse=True)
def _no_proxy_of_this_system(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _threads_that_trio_would_keep(monkeypatch):
    monkeypatch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.01)


@pytest.fixture
def impatient(monkeypatch):
    """Remove the waits between httpx's own retries."""
    for each in ("sync", "async"):
        monkeypatch.setattr(f"httpcore._{each}.connection.RETRIES_BACKOFF_FACTOR", 0.0)


def serve_once(sock, *_):
    """An HTTP server that answers one request on each connection."""
    if sock.recv(65536):
        sock.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nonce")


async def started(outage):
    outage.start()


def through(library, **given):
    return library.Client(transport=library.Transport(verify=verify(), **given))


def of_environment(library, port):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTP_PROXY", f"http://{HOST}:{port}")
        return library.safe(library.Client(verify=verify()))


# Each way to dial a port: (a function that makes a client, the URL of the request).
WAYS = {
    "transport": (lambda library, port: through(library), "http://{host}:{port}/"),
    "transport, TLS": (lambda library, port: through(library), "https://{host}:{port}/"),
    "transport, proxy": (lambda library, port: through(library, proxy=f"http://{HOST}:{port}"), FAR),
    "transport, tunnel": (
        lambda library, port: through(library, proxy=f"http://{HOST}:{port}"),
        "https://far.invalid/",
    ),
    "client": (lambda library, port: library.safe(library.Client(verify=verify())), "http://{host}:{port}/"),
    "client, proxy": (
        lambda library, port: library.safe(library.Client(verify=verify(), proxy=f"http://{HOST}:{port}")),
        FAR,
    ),
    "client, mounts": (
        lambda library, port: library.Client(verify=verify(), mounts={"http://": library.Transport(verify=verify())}),
        "http://{host}:{port}/",
    ),
    "client, environment": (of_environment, FAR),
}


class TestSelfConnect:
    def test_is_httpxs_own_refused(self, flavor, force, steering):
        for way, (make, url) in WAYS.items():
            with testing.refused_port() as refused:
                expected = flavor.failure(make(flavor.theirs, refused), url.format(host=HOST, port=refused))
            port = testing.dead_port()
            fault = force(port)
            error = flavor.failure(make(flavor.ours, port), url.format(host=HOST, port=port))
            assert fault.triggered, way
            assert type(error) is type(expected) is httpx.ConnectError, way
            testing.assert_no_self_connects()
            faults.assert_server_can_bind(HOST, port)

    def test_has_the_self_connect_as_its_cause(self, dialing, force, dead_port):
        force(dead_port)
        error = dialing.failure(through(dialing.ours), f"http://{HOST}:{dead_port}/")
        assert any(isinstance(each, SelfConnectError) for each in transient.errors_of(error))

    def test_is_retried_by_httpxs_own_retries(self, flavor, force, steering, monkeypatch):
        with testing.Outage(serve_once) as outage:
            outage.stop()
            monkeypatch.setattr(httpcore.SyncBackend, "sleep", lambda self, seconds: outage.start())
            monkeypatch.setattr(httpcore.AnyIOBackend, "sleep", lambda self, seconds: started(outage))
            fault = force(outage.port, times=1)
            # A round of the Dialer's own would come before httpx's.
            client = through(flavor.ours, retries=1, dialer=Dialer(policy=None))
            assert flavor.ask(client, f"http://{HOST}:{outage.port}/") == ["once"]
            assert fault.triggered == 1

    def test_is_dialed_again_by_the_dialer(self, dialing, force, steering):
        with testing.Outage(serve_once) as outage:
            outage.stop()
            force(outage.port, times=1)
            dialer = Dialer(on_event=lambda event: outage.state == "up" or outage.start())
            assert dialing.ask(through(dialing.ours, dialer=dialer), f"http://{HOST}:{outage.port}/") == ["once"]


class TestErrors:
    def test_are_httpxs_own(self, flavor):
        soon = httpx.Timeout(5, connect=0.05)
        with testing.refused_port() as refused, faults.full_listener() as full, web.serve("https") as untrusted:
            for url, trusting, expected in [
                ("http://no-such-name.invalid/", verify(), httpx.ConnectError),
                ("https://no-such-name.invalid/", verify(), httpx.ConnectError),
                (f"http://{HOST}:{refused}/", verify(), httpx.ConnectError),
                (f"http://{HOST}:{full.getsockname()[1]}/", verify(), httpx.ConnectTimeout),
                (f"https://{HOST}:{full.getsockname()[1]}/", verify(), httpx.ConnectTimeout),
                (untrusted.url, True, httpx.ConnectError),
            ]:
                clients = [library.Client(transport=library.Transport(verify=trusting)) for library in flavor.both]
                limit = soon if str(full.getsockname()[1]) in url else 5  # TLS, or a name server, takes longer
                said = [type(flavor.failure(client, url, timeout=limit)) for client in clients]
                assert said[0] is said[1], url
                assert said[1] is expected or issubclass(said[1], ssl.SSLError), url

    def test_invalid_host(self, flavor):
        """Blocking httpx raises the resolver's own error."""
        said = []
        for library in flavor.both:
            with pytest.raises((httpx.ConnectError, UnicodeError)) as caught:
                flavor.ask(library.Client(transport=library.Transport()), f"http://{'a' * 64}.example/")
            said.append(type(caught.value))
        assert said[0] is said[1]

    def test_refused_is_retried_until_the_server_is_up(self, flavor, impatient):
        with testing.Outage(serve_once) as outage:
            outage.refuse_for(dials=2)
            assert flavor.ask(through(flavor.ours, retries=2), f"http://{HOST}:{outage.port}/") == ["once"]

    def test_exhausted_ports_are_no_connection(self, dialing, server):
        port = server.getsockname()[1]
        with testing.ports_exhausted(port):
            error = dialing.failure(through(dialing.ours, dialer=Dialer(policy=None)), f"http://{HOST}:{port}/")
        assert type(error) is httpx.ConnectError

    @pytest.mark.parametrize(
        "make",
        [
            lambda: ours.SafeHTTPTransport(dialer=3),
            lambda: ours.SafeAsyncHTTPTransport(dialer=3),
            lambda: ours.protect(CLIENT, dialer=3),
        ],
    )
    def test_wrong_dialer(self, make):
        with pytest.raises(TypeError, match=r"dialer must be a safedial\.Dialer or None, not 3"):
            make()

    def test_wrong_client(self):
        with pytest.raises(TypeError, match=r"client must be an httpx\.Client or AsyncClient, not 3"):
            ours.protect(3)

    def test_unknown_transport(self):
        class Theirs(httpx.BaseTransport):
            pass

        with pytest.raises(TypeError, match=r"client: safedial does not know how .*Theirs.* dials"):
            ours.protect(httpx.Client(verify=verify(), mounts={"http://a": Theirs()}))

    def test_old_anyio(self, monkeypatch):
        monkeypatch.delattr(SocketStream, "from_socket")
        with pytest.raises(ImportError, match=r"anyio 4\.10"):
            ours.SafeAsyncHTTPTransport()
        ours.SafeHTTPTransport(verify=verify())


CLIENT = httpx.Client(verify=verify())


class TestNormalUse:
    def test_reuses_connections(self, flavor):
        with web.serve() as server:
            assert flavor.ask(through(flavor.ours), *[server.url] * 3) == ["hello"] * 3
            assert server.connections == 1

    def test_notices_a_connection_that_the_server_closed(self, flavor):
        closed = threading.Semaphore(0)

        def breaks_its_promise(sock, *_):
            if sock.recv(65536):
                sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nonce")
                sock.shutdown(socket.SHUT_RDWR)
                closed.release()

        with testing.Outage(breaks_its_promise) as outage:
            urls = [f"http://{HOST}:{outage.port}/"] * 3
            assert flavor.ask(through(flavor.ours), *urls, look=lambda _: closed.acquire(timeout=5)) == [True] * 3

    def test_pool_is_limited(self, dialing):
        limits = httpx.Limits(max_connections=1)
        with web.serve() as server:
            client = through(dialing.ours, limits=limits)
            url, timeout = server.url, httpx.Timeout(5, pool=0.01)
            if dialing.run is None:
                with client, client.stream("GET", url), pytest.raises(httpx.PoolTimeout):
                    client.get(url, timeout=timeout)
                return

            async def main():
                async with client, client.stream("GET", url):
                    with pytest.raises(httpx.PoolTimeout):
                        await client.get(url, timeout=timeout)

            dialing.run(main)

    def test_tls(self, flavor):
        with web.serve("https") as server:
            urls = [f"https://{host}:{server.port}/" for host in (HOST, "localhost")]
            assert flavor.ask(through(flavor.ours), *urls) == ["hello"] * 2

    def test_proxy(self, flavor):
        with web.serve() as plain, web.serve("https") as tls, web.serve() as proxy:
            for client in (
                through(flavor.ours, proxy=proxy.url),
                flavor.ours.safe(flavor.ours.Client(verify=verify(), proxy=proxy.url)),
            ):
                assert flavor.ask(client, plain.url, tls.url) == ["hello"] * 2
            assert [seen[0] for seen in proxy.seen] == ["GET", "CONNECT"] * 2

    def test_proxy_over_tls(self, flavor):
        with web.serve("https") as proxy:
            clients = [through(each, proxy=httpx.Proxy(proxy.url, ssl_context=verify())) for each in flavor.both]
            try:
                expected = flavor.ask(clients[0], FAR)
            except (httpx.ConnectError, ssl.SSLError):  # httpx 0.27.0, async: the context is not passed on
                pytest.skip("this httpx knows no TLS proxy with a context of its own")
            assert flavor.ask(clients[1], FAR) == expected == ["hello"]

    def test_unix_socket_is_left_alone(self, flavor, tmp_path):
        with unix_server(str(tmp_path / "web")) as path:
            assert flavor.ask(through(flavor.ours, uds=path), "http://unix.invalid/") == ["once"]

    def test_dead_first_address_is_skipped(self, flavor):
        with web.serve() as server, pytest.MonkeyPatch.context() as patch:
            real = socket.getaddrinfo

            def both(host, port, *args, **kwds):
                known = host in ("two.invalid", b"two.invalid")
                return [faults.tcp("::1", port), faults.tcp(HOST, port)] if known else real(host, port, *args, **kwds)

            patch.setattr(socket, "getaddrinfo", both)
            # uvloop resolves in C, and trio does not use a Dialer.
            dialer = Dialer(resolver=both) if flavor is FLAVORS.get("uvloop") else None
            client = through(flavor.ours, dialer=dialer)
            assert flavor.ask(client, f"http://two.invalid:{server.port}/") == ["hello"]

    def test_silent_first_address_is_raced(self, dialing):
        with faults.black_hole_and_server() as (_, listening), contextlib.ExitStack() as stack:
            port = listening.getsockname()[1]
            listening.close()
            stack.enter_context(web.serve(port=port))
            addresses = [faults.tcp("::1", port), faults.tcp(HOST, port)]
            dialer = Dialer(resolver=lambda *args, **kwds: addresses, happy_eyeballs_delay=0.01)
            assert dialing.ask(through(dialing.ours, dialer=dialer), f"http://two.invalid:{port}/") == ["hello"]

    def test_test_doubles_stay(self):
        for double in (httpx.MockTransport(lambda request: httpx.Response(200)), httpx.WSGITransport(print)):
            with ours.protect(httpx.Client(transport=double)) as client:
                assert client._transport is double

    def test_no_proxy_is_no_transport(self, flavor):
        with web.serve() as server, web.serve() as proxy:
            library = flavor.ours
            given = {"all://": library.Transport(proxy=proxy.url), f"all://{HOST}": None}
            assert flavor.ask(library.safe(library.Client(verify=verify(), mounts=given)), server.url) == ["hello"]
            assert not proxy.seen


@contextlib.contextmanager
def unix_server(path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()

        def serve():
            sock, _ = listening.accept()
            with sock:
                serve_once(sock)

        thread = threading.Thread(target=serve)
        thread.start()
        yield path
        thread.join(5)


def dialed(flavor, *, timeout=None, **given):
    """Return the Dialer of one request, and (host, TCP_NODELAY, SO_KEEPALIVE) of its socket."""
    used, socks = [], []

    class Noting(Dialer):
        def dial(self, address, **kwds):
            used.append(self)
            return super().dial(address, **kwds)

        def dial_async(self, address, **kwds):
            used.append(self)
            return super().dial_async(address, **kwds)

    def look(response):
        sock = response.extensions["network_stream"].get_extra_info("socket")
        nodelay = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        socks.append((sock.getsockname()[0], nodelay, sock.getsockopt(*KEEPALIVE)))

    given["dialer"] = Noting(**given.pop("dialer", {}))
    with web.serve() as server:
        flavor.ask(through(flavor.ours, **given), server.url, look=look, timeout=timeout)
    return used[0], socks[0]


KEEPALIVE = (socket.SOL_SOCKET, socket.SO_KEEPALIVE)


class TestSettings:
    """httpx's settings come first, then the Dialer's."""

    def test_timeout(self, dialing):
        for timeout, dialers, each, total in [
            (None, {}, None, None),
            (None, {"timeout": 5}, 5, None),
            (3, {"timeout": 5}, 3, 3),
            (3, {"total_timeout": 9}, 3, 9),
            (5, {"timeout": 4}, 4, None),  # 5 is httpx's default
        ]:
            used, _ = dialed(dialing, timeout=timeout, dialer=dialers)
            assert used.timeout == each
            assert used.total_timeout == (dialers.get("total_timeout") if dialing.run is None else total)

    def test_source_address(self, dialing):
        for given, expected in [
            ({}, HOST),
            ({"local_address": "127.0.0.2"}, "127.0.0.2"),
            ({"dialer": {"source_address": ("127.0.0.3", 0)}}, "127.0.0.3"),
            ({"local_address": "127.0.0.2", "dialer": {"source_address": ("127.0.0.3", 0)}}, "127.0.0.2"),
        ]:
            assert dialed(dialing, **given)[1][0] == expected

    def test_socket_options(self, dialing):
        for given, expected in [
            ({}, (1, 0)),
            ({"socket_options": [(*KEEPALIVE, 1)]}, (1, 1)),
            ({"socket_options": [(*KEEPALIVE, bytearray(b"\1\0\0\0"))]}, (1, 1)),
            ({"dialer": {"socket_options": [(*KEEPALIVE, 1)]}}, (1, 1)),
        ]:
            assert dialed(dialing, **given)[1][1:] == expected

    def test_socket_options_are_set_by_the_dialer(self, dialing):
        """Before the connect, and the last, so that they count."""
        used, _ = dialed(dialing, socket_options=[(*KEEPALIVE, 1)], dialer={"socket_options": [(*KEEPALIVE, 0)]})
        assert used.socket_options[-2:] == ((*KEEPALIVE, 0), (*KEEPALIVE, 1))

    def test_socket_option_that_a_dialer_does_not_take(self, dialing):
        """httpcore's fourth form: no value and its length, which only some options take."""
        device = (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, None, 0)
        with web.serve() as server:
            assert dialing.ask(through(dialing.ours, socket_options=[device]), server.url)
            client = through(dialing.ours, socket_options=[(socket.SOL_SOCKET, 9999, None, 0)])
            assert type(dialing.failure(client, server.url)) is httpx.ConnectError

    def test_option_that_fails_leaves_nothing(self, dialing):
        with web.serve() as server:
            client = through(dialing.ours, socket_options=[(socket.SOL_SOCKET, 9999, 1)])
            assert type(dialing.failure(client, server.url)) is httpx.ConnectError

    def test_reset_before_the_stream_is_made(self, monkeypatch):
        async def reset(sock):
            raise ValueError("the socket must be connected")

        monkeypatch.setattr(SocketStream, "from_socket", reset)
        flavor = FLAVORS["asyncio"]
        with web.serve() as server:
            assert type(flavor.failure(through(flavor.ours), server.url)) is httpx.ConnectError


def test_missing_library_names_the_extra():
    code = "import sys; sys.modules['httpx'] = None; import safedial.adapters.httpx"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "ImportError: safedial.adapters.httpx needs httpx: pip install 'safedial[httpx]'" in done.stderr
