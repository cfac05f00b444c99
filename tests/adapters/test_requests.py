"""requests with a Dialer, compared with plain requests: only self-connects differ."""

import contextlib
import pickle
import socket
import subprocess
import sys

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry
from urllib3.contrib.socks import SOCKSProxyManager

import safedial
from safedial import Dialer, testing
from safedial._retry import transient
from safedial.adapters.requests import SafeHTTPAdapter, protect
from tests.support import faults, web

HOST = "127.0.0.1"


@contextlib.contextmanager
def session(change=protect):
    """A session that *change* was applied to, without this system's proxies."""
    with requests.Session() as made:
        made.trust_env = False
        yield change(made) or made


def plain(made):
    """Leave a session as it is."""


def pickled(made):
    return pickle.loads(pickle.dumps(protect(made)))


def failure(change, method="GET", *, url, **given):
    """Return the error of one request, and the types of it and of the errors behind it."""
    with session(change) as made, pytest.raises((requests.RequestException, ValueError)) as caught:
        made.request(method, url, **given)
    error = caught.value
    behind = error.args[0] if error.args else None
    return [type(error), type(behind), type(getattr(behind, "reason", None))], error


# Each way to dial a port: (the URL, the arguments of the request).
WAYS = {
    "http": ("http://127.0.0.1:{port}/", {}),
    "https": ("https://127.0.0.1:{port}/", {}),
    "proxy": ("http://far.invalid/", {"proxies": {"http": "http://127.0.0.1:{port}"}}),
    "tunnel": ("https://far.invalid/", {"proxies": {"https": "http://127.0.0.1:{port}"}}),
}


def reached(way, port):
    url, given = WAYS[way]
    proxies = {scheme: proxy.format(port=port) for scheme, proxy in given.get("proxies", {}).items()}
    return {"url": url.format(port=port), "proxies": proxies}


class TestSelfConnect:
    @pytest.mark.parametrize("way", WAYS)
    def test_is_requests_own_refused(self, way, force, steering, dead_port):
        with testing.refused_port() as refused:
            expected, _ = failure(plain, "POST", **reached(way, refused))
        fault = force(dead_port)
        found, error = failure(protect, "POST", **reached(way, dead_port))
        assert fault.triggered
        assert found == expected
        assert isinstance(error, requests.ConnectionError)
        assert any(isinstance(each, safedial.SelfConnectError) for each in transient.errors_of(error))
        testing.assert_no_self_connects()
        faults.assert_server_can_bind(HOST, dead_port)

    @pytest.mark.parametrize("way", WAYS)
    def test_is_refused_after_pickling(self, way, force, dead_port):
        fault = force(dead_port)
        _, error = failure(pickled, **reached(way, dead_port))
        assert fault.triggered
        assert any(isinstance(each, safedial.SelfConnectError) for each in transient.errors_of(error))

    def test_is_retried_by_the_adapters_own_retry(self, force, steering):
        change = lambda made: protect(made, dialer=Dialer(policy=None), max_retries=3)  # noqa: E731
        with testing.Outage(web.serve_once) as outage, session(change) as made:
            outage.refuse_for(dials=1)
            fault = force(outage.port, times=2)
            assert made.post(f"http://{HOST}:{outage.port}/", data=b"once").text == "once"
            assert fault.triggered == 2

    def test_is_dialed_again_by_the_dialer(self, force):
        with testing.Outage(web.serve_once) as outage, session() as made:
            outage.stop()
            force(outage.port, times=1)
            made.mount("http://", SafeHTTPAdapter(dialer=Dialer(on_event=lambda event: outage.start())))
            assert made.post(f"http://{HOST}:{outage.port}/", data=b"once").text == "once"


class TestErrors:
    @pytest.mark.parametrize("url", ["http://no-such-name.invalid/", "https://no-such-name.invalid/", "http://a..b/"])
    def test_of_names_are_requests_own(self, url):
        assert failure(protect, url=url)[0] == failure(plain, url=url)[0]

    @pytest.mark.parametrize("way", WAYS)
    def test_connect_timeout_is_requests_own(self, way):
        with faults.full_listener() as server:
            given = reached(way, server.getsockname()[1])
            said = [failure(change, timeout=(0.05, 1), **given)[0] for change in (protect, plain)]
        assert said[0] == said[1]
        assert issubclass(said[0][0], (requests.ConnectTimeout, requests.exceptions.ProxyError))

    def test_read_timeout_is_requests_own(self, server):
        url = f"http://{HOST}:{server.getsockname()[1]}/"
        said = [failure(change, url=url, timeout=(1, 0.02))[0] for change in (protect, plain)]
        assert said[0] == said[1]
        assert said[0][0] is requests.ReadTimeout

    def test_refused_is_retried_until_the_server_is_up(self):
        change = lambda made: protect(made, max_retries=Retry(2))  # noqa: E731
        with testing.Outage(web.serve_once) as outage, session(change) as made:
            outage.refuse_for(dials=2)
            assert made.post(f"http://{HOST}:{outage.port}/", data=b"once").text == "once"

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: SafeHTTPAdapter(dialer=3), "dialer must be a safedial.Dialer or None, not 3"),
            (lambda: protect(requests.Session(), dialer=3), "dialer must be"),
            (lambda: protect(3), "session must be a requests.Session, not 3"),
            (lambda: protect(requests.Session(), color=3), "color"),
        ],
    )
    def test_wrong_arguments(self, make, message):
        with pytest.raises(TypeError, match=message):
            make()


class TestNormalUse:
    def test_tls_verified_by_a_file(self, tmp_path):
        with web.trust_file(tmp_path) as path, web.serve("https") as server, session() as made:
            for host in (HOST, "localhost"):
                assert made.get(f"https://{host}:{server.port}/", verify=path).text == "hello"
            with pytest.raises(requests.exceptions.SSLError):
                made.get(server.url)

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_proxy(self, scheme, tmp_path):
        with web.trust_file(tmp_path) as path, web.serve(scheme) as server, web.serve() as proxy, session() as made:
            assert made.get(server.url, proxies={scheme: proxy.url}, verify=path).text == "hello"
            assert [seen[0] for seen in proxy.seen] == ["CONNECT" if scheme == "https" else "GET"]

    def test_reuses_connections(self):
        with web.serve() as server, session() as made:
            assert [made.post(server.url, data=b"x").text for _ in range(3)] == ["x"] * 3
            assert server.connections == 1

    def test_pool_is_limited(self):
        change = lambda made: protect(made, pool_connections=2, pool_maxsize=3, pool_block=True)  # noqa: E731
        with web.serve() as server, session(change) as made:
            adapter = made.get_adapter(server.url)
            pool = adapter.poolmanager.connection_from_url(server.url)
            assert (pool.pool.maxsize, pool.block, adapter.poolmanager.pools._maxsize) == (3, True, 2)

    def test_settings_of_the_replaced_adapter_stay(self):
        made = requests.Session()
        made.mount("http://", HTTPAdapter(pool_connections=2, pool_maxsize=3, max_retries=Retry(5)))
        protect(made, max_retries=4).close()
        adapter = made.get_adapter("http://a/")
        assert (adapter._pool_connections, adapter._pool_maxsize, adapter.max_retries.total) == (2, 3, 4)
        assert protect(made).get_adapter("http://a/").max_retries.total == 4
        assert made.get_adapter("https://a/")._pool_maxsize == requests.adapters.DEFAULT_POOLSIZE

    def test_unknown_adapter_is_rejected(self):
        class Theirs(HTTPAdapter):
            pass

        made = requests.Session()
        made.mount("https://", Theirs())
        with pytest.raises(TypeError, match="does not know how Theirs dials"):
            protect(made)

    def test_dials_with_the_dialer(self):
        with web.serve() as server:
            addresses = [faults.tcp("::1", server.port), faults.tcp(HOST, server.port)]  # the first one is dead
            with session(lambda made: protect(made, dialer=Dialer(resolver=lambda *args, **kwds: addresses))) as made:
                assert made.get(f"http://two.invalid:{server.port}/").text == "hello"
            with session(lambda made: protect(made, dialer=Dialer(source_address=("127.0.0.2", 0)))) as made:
                made.get(server.url)
                assert server.seen[-1][2] == "127.0.0.2"

    def test_socks_is_left_alone(self):
        with contextlib.closing(SafeHTTPAdapter()) as adapter:
            manager = adapter.proxy_manager_for(f"socks5://{HOST}:1")
            assert isinstance(manager, SOCKSProxyManager)
            assert manager.pool_classes_by_scheme is SOCKSProxyManager.pool_classes_by_scheme

    def test_adapters_of_longer_prefixes_stay(self):
        with session(plain) as made:
            made.mount("https://one.example/", own := HTTPAdapter())
            assert protect(made) is made
            assert made.get_adapter("https://one.example/x") is own
            assert type(made.get_adapter("https://two.example/")) is SafeHTTPAdapter
            assert made.get_adapter("https://two.example/") is not made.get_adapter("http://two.example/")

    def test_mixes_with_other_adapters(self):
        """For example with an adapter that sets an SSLContext."""

        class KeepAlive(HTTPAdapter):
            def init_poolmanager(self, *args, **kwds):
                options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
                super().init_poolmanager(*args, **kwds, socket_options=options)

        class Mixed(SafeHTTPAdapter, KeepAlive):
            pass

        events = []
        with web.serve() as server, session(plain) as made:
            made.mount("http://", Mixed(dialer=Dialer(on_event=events.append)))
            assert made.get(server.url).text == "hello"
            manager = made.get_adapter(server.url).poolmanager
            assert "socket_options" in manager.connection_pool_kw
        assert events


@pytest.mark.parametrize("name", ["none", "redial", "reconnect"])
def test_pickles_with_its_dialer(name):
    policy = {"none": None, "redial": safedial.redial(), "reconnect": safedial.reconnect(within=1)}[name]
    if not picklable(policy):
        policy = None  # policies of tenacity 9.0 can't be pickled
    adapter = SafeHTTPAdapter(dialer=Dialer(policy=policy, total_timeout=3), max_retries=Retry(5), pool_maxsize=7)
    again = pickle.loads(pickle.dumps(adapter))
    assert (again.dialer.total_timeout, again.max_retries.total, again._pool_maxsize) == (3, 5, 7)
    assert type(again.dialer.policy) is type(policy)


def test_missing_library_names_the_extra():
    code = "import sys; sys.modules['requests'] = None; import safedial.adapters.requests"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "ImportError: safedial.adapters.requests needs requests: pip install 'safedial[requests]'" in done.stderr


def picklable(policy):
    try:
        pickle.dumps(policy)
    except TypeError:
        return False
    return True
