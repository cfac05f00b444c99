"""urllib3 with a Dialer, compared with plain urllib3: only self-connects differ."""

import contextlib
import socket
import subprocess
import sys

import pytest
import urllib3
from urllib3.contrib.socks import SOCKSProxyManager
from urllib3.exceptions import ConnectTimeoutError, EmptyPoolError, HTTPError, MaxRetryError, NewConnectionError

from safedial import Dialer, SelfConnectError, reconnect, testing
from safedial._retry import transient
from safedial.adapters import urllib3 as ours
from tests.support import faults, web

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def _shared_pool_classes_stay():
    before = dict(urllib3.poolmanager.pool_classes_by_scheme)
    yield
    assert urllib3.poolmanager.pool_classes_by_scheme == before


def types(error):
    """Return the types of *error* and of the errors that urllib3 says are behind it."""
    found = [type(error)]
    while reason := getattr(error, "reason", None) or getattr(error, "original_error", None):
        found.append(type(reason))
        error = reason
    return found


def failure(make, method="GET", *, url, **given):
    """Return the error of one request, after the types of it and of the errors behind it."""
    given = {"retries": False, **given}
    with make() as http, pytest.raises(HTTPError) as caught:
        http.request(method, url, **given)
    return types(caught.value), caught.value


def spurious(error):
    return any(isinstance(each, SelfConnectError) for each in transient.errors_of(error))


def class_of(library, name):
    return getattr(library, f"Safe{name}" if library is ours else name)


@contextlib.contextmanager
def a_pool(library, scheme, port):
    pool = class_of(library, "HTTPSConnectionPool" if scheme == "https" else "HTTPConnectionPool")
    with pool(HOST, port) as made:
        yield made


@contextlib.contextmanager
def mixed(library, port):
    """A pool of another library, with a connection class of its own."""

    class Theirs(urllib3.connection.HTTPConnection):
        pass

    class Mixed(ours.SafeHTTPConnection, Theirs):
        pass

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Theirs if library is urllib3 else Mixed

    with Pool(HOST, port) as pool:
        yield pool


@contextlib.contextmanager
def made_safe(library):
    with urllib3.PoolManager() as http:
        if library is not urllib3:
            assert ours.protect(http) is http
        yield http


# Each way to dial a port: (a function that makes a client, the URL of the request).
WAYS = {
    "manager": (lambda library, port: class_of(library, "PoolManager")(), "http://127.0.0.1:{port}/"),
    "manager, TLS": (lambda library, port: class_of(library, "PoolManager")(), "https://127.0.0.1:{port}/"),
    "made safe": (lambda library, port: made_safe(library), "http://127.0.0.1:{port}/"),
    "pool": (lambda library, port: a_pool(library, "http", port), "/"),
    "pool, TLS": (lambda library, port: a_pool(library, "https", port), "/"),
    "mixed": (mixed, "/"),
    "proxy": (lambda library, port: class_of(library, "ProxyManager")(f"http://{HOST}:{port}"), "http://far.invalid/"),
    "proxy, tunnel": (
        lambda library, port: class_of(library, "ProxyManager")(f"http://{HOST}:{port}"),
        "https://far.invalid/",
    ),
    "proxy, TLS": (
        lambda library, port: class_of(library, "ProxyManager")(f"https://{HOST}:{port}"),
        "http://far.invalid/",
    ),
}


class TestSelfConnect:
    @pytest.mark.parametrize("way", WAYS)
    def test_is_urllib3s_own_refused(self, way, force, steering, dead_port):
        make, url = WAYS[way]
        with testing.refused_port() as refused:
            expected, _ = failure(lambda: make(urllib3, refused), "POST", url=url.format(port=refused))
        fault = force(dead_port)
        for method in ("GET", "POST"):
            found, error = failure(lambda: make(ours, dead_port), method, url=url.format(port=dead_port))
            assert found == expected
            assert found[-1] is NewConnectionError
            assert spurious(error)
        assert fault.triggered
        testing.assert_no_self_connects()
        faults.assert_server_can_bind(HOST, dead_port)

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_is_retried_by_urllib3s_own_retry(self, method, force, steering):
        with (
            testing.Outage(web.serve_once) as outage,
            ours.SafePoolManager(dialer=Dialer(policy=None), retries=urllib3.Retry(3)) as http,
        ):
            outage.refuse_for(dials=1)
            fault = force(outage.port, times=2)
            assert http.request(method, f"http://{HOST}:{outage.port}/", body=b"once").data == b"once"
            assert fault.triggered == 2

    def test_is_dialed_again_by_the_dialer(self, force, steering):
        with testing.Outage(web.serve_once) as outage, ours.SafePoolManager(retries=False) as http:
            outage.stop()
            force(outage.port, times=1)
            ours.protect(http, dialer=Dialer(on_event=lambda event: outage.start()))
            assert http.request("POST", f"http://{HOST}:{outage.port}/", body=b"once").data == b"once"


class TestErrors:
    @pytest.mark.parametrize("url", ["http://no-such-name.invalid/", "https://no-such-name.invalid/", "http://a..b/"])
    @pytest.mark.parametrize("retries", [False, 1])
    def test_of_names_are_urllib3s_own(self, url, retries):
        assert (
            failure(ours.SafePoolManager, url=url, retries=retries)[0]
            == failure(urllib3.PoolManager, url=url, retries=retries)[0]
        )

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_connect_timeout_is_urllib3s_own(self, scheme):
        with faults.full_listener() as server:
            url = f"{scheme}://{HOST}:{server.getsockname()[1]}/"
            said = [failure(class_of(library, "PoolManager"), url=url, timeout=0.05) for library in (ours, urllib3)]
        assert said[0][0] == said[1][0] == [ConnectTimeoutError]
        theirs, mine = (str(error).partition(">")[2] for _, error in said)
        assert theirs == mine

    def test_total_timeout_is_a_connect_timeout(self):
        with faults.full_listener() as server:
            make = lambda: ours.SafePoolManager(dialer=Dialer(total_timeout=0.05))  # noqa: E731
            assert failure(make, url=f"http://{HOST}:{server.getsockname()[1]}/")[0] == [ConnectTimeoutError]

    def test_refused_is_urllib3s_own(self):
        with testing.refused_port() as port:
            said = [
                failure(class_of(library, "PoolManager"), url=f"http://{HOST}:{port}/", retries=urllib3.Retry(1))
                for library in (ours, urllib3)
            ]
        assert said[0][0] == said[1][0] == [MaxRetryError, NewConnectionError]
        assert [type(error.reason.__cause__) for _, error in said] == [ConnectionRefusedError] * 2

    def test_refused_is_retried_until_the_server_is_up(self):
        with testing.Outage(web.serve_once) as outage, ours.SafePoolManager(retries=urllib3.Retry(2)) as http:
            outage.refuse_for(dials=2)
            assert http.request("POST", f"http://{HOST}:{outage.port}/", body=b"once").data == b"once"

    def test_policy_that_waits_works_without_urllib3s_retry(self):
        with (
            testing.Outage(web.serve_once) as outage,
            testing.fast_retries(),
            ours.SafePoolManager(dialer=Dialer(policy=reconnect(within=10)), retries=urllib3.Retry(connect=0)) as http,
        ):
            outage.refuse_for(dials=2)
            assert http.request("POST", f"http://{HOST}:{outage.port}/", body=b"once").data == b"once"

    def test_exhausted_ports_are_no_new_connection(self, server):
        port = server.getsockname()[1]
        with testing.ports_exhausted(port):
            said = failure(lambda: ours.SafePoolManager(dialer=Dialer(policy=None)), url=f"http://{HOST}:{port}/")
        assert said[0] == [NewConnectionError]

    @pytest.mark.parametrize(
        "make",
        [
            lambda: ours.SafePoolManager(dialer=3),
            lambda: ours.SafeProxyManager("http://proxy", dialer=3),
            lambda: ours.SafeHTTPConnection(HOST, dialer=3),
            lambda: ours.protect(urllib3.PoolManager(), dialer=3),
        ],
    )
    def test_wrong_dialer(self, make):
        with pytest.raises(TypeError, match=r"dialer must be a safedial\.Dialer or None, not 3"):
            make()


class TestProtect:
    def test_pool(self, force, dead_port):
        fault = force(dead_port)
        for pool in (urllib3.HTTPConnectionPool, urllib3.HTTPSConnectionPool):
            _, error = failure(lambda pool=pool: ours.protect(pool(HOST, dead_port)), url="/")
            assert spurious(error)
        assert fault.triggered

    def test_pool_that_has_connections(self):
        with web.serve() as server, urllib3.HTTPConnectionPool(HOST, server.port) as pool:
            pool.request("GET", "/")
            with pytest.raises(ValueError, match="before it is used"):
                ours.protect(pool)

    def test_pools_of_a_manager_are_dropped(self):
        events = []
        with web.serve() as server, urllib3.PoolManager() as http:
            http.request("GET", server.url)
            ours.protect(http, dialer=Dialer(on_event=events.append)).request("GET", server.url)
        assert len(events) == 1

    def test_the_last_dialer_counts(self):
        first, last = [], []
        with web.serve() as server, urllib3.PoolManager() as http:
            for events in (first, last):
                ours.protect(http, dialer=Dialer(on_event=events.append))
            http.request("GET", server.url)
        assert (len(first), len(last)) == (0, 1)

    def test_classes_of_others(self):
        class Theirs(urllib3.connection.HTTPConnection):
            pass

        class Pool(urllib3.HTTPConnectionPool):
            ConnectionCls = Theirs

        with SOCKSProxyManager("socks5://127.0.0.1:1") as socks:
            for pool in (socks, Pool(HOST)):
                with pytest.raises(TypeError, match=r"pool: safedial does not know how \w+ dials"):
                    ours.protect(pool)
        with mixed(ours, 1) as pool:
            before = pool.ConnectionCls
            assert ours.protect(pool).ConnectionCls is before


class TestNormalUse:
    def test_reuses_connections(self):
        with web.serve() as server, ours.SafePoolManager() as http:
            assert [http.request("GET", server.url).data for _ in range(3)] == [b"hello"] * 3
            assert server.connections == 1

    def test_pool_is_limited(self):
        with web.serve() as server, ours.SafePoolManager(maxsize=1, block=True, retries=False) as http:
            first = http.request("GET", server.url, preload_content=False)
            with pytest.raises(EmptyPoolError):
                http.request("GET", server.url, pool_timeout=0.01)
            assert first.data == b"hello"
            first.release_conn()
            assert http.request("GET", server.url).status == 200

    @pytest.mark.parametrize("host", [HOST, "localhost"])
    def test_tls(self, host):
        with web.serve("https") as server, ours.SafePoolManager(ssl_context=web.client_context()) as http:
            assert http.request("POST", f"https://{host}:{server.port}/", body=b"x").data == b"x"

    def test_tls_is_verified(self):
        with web.serve("https") as server:
            assert failure(ours.SafePoolManager, url=server.url)[0] == failure(urllib3.PoolManager, url=server.url)[0]

    def test_ipv6_in_brackets(self):
        with web.serve(host="::1") as server, ours.SafePoolManager() as http:
            assert http.request("GET", server.url).data == b"hello"
        with (
            web.serve(host="::1") as server,
            contextlib.closing(ours.SafeHTTPConnection("[::1]", server.port)) as alone,
        ):
            alone.request("GET", "/")
            assert alone.getresponse().data == b"hello"

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_proxy(self, scheme):
        with (
            web.serve(scheme) as server,
            web.serve() as proxy,
            ours.SafeProxyManager(proxy.url, ssl_context=web.client_context()) as http,
        ):
            assert http.request("GET", server.url).data == b"hello"
            assert [seen[0] for seen in proxy.seen] == ["CONNECT" if scheme == "https" else "GET"]

    def test_proxy_over_tls(self):
        context = web.client_context()
        with (
            web.serve("https") as proxy,
            ours.SafeProxyManager(proxy.url, proxy_ssl_context=context, ssl_context=context) as http,
        ):
            assert http.request("GET", "http://far.invalid/").data == b"hello"

    def test_silent_first_address_is_raced(self):
        with faults.black_hole_and_server() as (_, listening):
            port = listening.getsockname()[1]
            addresses = [faults.tcp("::1", port), faults.tcp(HOST, port)]
            dialer = Dialer(resolver=lambda *args, **kwds: addresses, happy_eyeballs_delay=0.01)
            with contextlib.closing(ours.SafeHTTPConnection("two.invalid", port, dialer=dialer)) as alone:
                alone.connect()
                assert alone.sock.getpeername() == (HOST, port)

    def test_dead_first_address_is_skipped(self):
        with web.serve() as server:
            addresses = [faults.tcp("::1", server.port), faults.tcp(HOST, server.port)]
            with ours.SafePoolManager(dialer=Dialer(resolver=lambda *args, **kwds: addresses)) as http:
                assert http.request("GET", f"http://two.invalid:{server.port}/").data == b"hello"

    def test_socks_is_left_alone(self):
        before = dict(SOCKSProxyManager.pool_classes_by_scheme)
        with ours.SafePoolManager(), SOCKSProxyManager("socks5://127.0.0.1:1") as socks:
            assert socks.pool_classes_by_scheme == before


@pytest.fixture
def connected(server):
    """Return a function that makes a connection with the given arguments and connects it."""
    with contextlib.ExitStack() as stack:

        def connect(library=ours, host=HOST, **given):
            made = urllib3.connection.HTTPConnection if library is urllib3 else ours.SafeHTTPConnection
            alone = stack.enter_context(contextlib.closing(made(host, server.getsockname()[1], **given)))
            alone.connect()
            return alone

        yield connect


class TestSettings:
    """The connection's settings come first, then the Dialer's."""

    @pytest.mark.parametrize(
        ("given", "dialers", "expected"),
        [({}, {}, None), ({"timeout": 3}, {"timeout": 5}, 3), ({"timeout": None}, {"timeout": 5}, 5)],
    )
    def test_timeout(self, connected, given, dialers, expected):
        assert connected(**given, dialer=Dialer(**dialers)).sock.gettimeout() == expected

    def test_no_limit_is_no_limit(self, connected):
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(7)
        try:
            for given in ({}, {"timeout": None}):
                assert connected(**given).sock.gettimeout() == connected(urllib3, **given).sock.gettimeout()
        finally:
            socket.setdefaulttimeout(before)

    @pytest.mark.parametrize(
        ("given", "dialers", "expected"),
        [
            ({"source_address": ("127.0.0.2", 0)}, {}, "127.0.0.2"),
            ({}, {"source_address": ("127.0.0.3", 0)}, "127.0.0.3"),
            ({"source_address": ("127.0.0.2", 0)}, {"source_address": ("127.0.0.3", 0)}, "127.0.0.2"),
        ],
    )
    def test_source_address(self, connected, given, dialers, expected):
        assert connected(**given, dialer=Dialer(**dialers)).sock.getsockname()[0] == expected

    def test_source_address_of_a_manager(self):
        with web.serve() as server, ours.SafePoolManager(source_address=("127.0.0.2", 0)) as http:
            http.request("GET", server.url)
            assert server.seen[0][2] == "127.0.0.2"

    @pytest.mark.parametrize(
        ("given", "expected"),
        [({}, (1, 1)), ({"socket_options": None}, (0, 1)), ({"socket_options": []}, (0, 1))],
    )
    def test_socket_options(self, connected, given, expected):
        dialer = Dialer(socket_options=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)])
        sock = connected(**given, dialer=dialer).sock
        options = (socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert tuple(sock.getsockopt(*option) for option in options) == expected

    @pytest.mark.parametrize("family", [socket.AF_UNSPEC, socket.AF_INET])
    def test_asks_the_resolver_as_urllib3_does(self, connected, server, monkeypatch, family):
        asked = []

        def resolve(host, port, family=0, *args, **kwds):
            asked.append((host, port, family))
            return [faults.tcp(HOST, port)]

        monkeypatch.setattr(urllib3.util.connection, "allowed_gai_family", lambda: family)
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        for library in (ours, urllib3):
            assert connected(library, "db.invalid.").host == "db.invalid"
        assert asked[0] == asked[1]
        assert (asked[0][0], asked[0][2]) == ("db.invalid.", family)

    def test_raises_the_audit_event(self, connected, server, monkeypatch):
        raised = []
        monkeypatch.setattr(sys, "audit", lambda *args: raised.append(args))
        made = [connected(library) for library in (ours, urllib3)]
        events = [("http.client.connect", each, HOST, server.getsockname()[1]) for each in made]
        assert raised in (events, events[:1])  # urllib3 2.0.0 has none


def test_missing_library_names_the_extra():
    code = "import sys; sys.modules['urllib3'] = None; import safedial.adapters.urllib3"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "ImportError: safedial.adapters.urllib3 needs urllib3: pip install 'safedial[urllib3]'" in done.stderr
