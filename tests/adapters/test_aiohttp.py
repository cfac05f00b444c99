"""aiohttp under the guard, compared with plain aiohttp, on asyncio's loop and on uvloop."""

import functools
import gc
import socket
import subprocess
import sys
import weakref

import aiohttp
import pytest
import tenacity
from aiohttp.abc import AbstractResolver

import safedial
from safedial import SelfConnectError, testing
from safedial.adapters.aiohttp import SafeTCPConnector, protect
from tests.support import dials, faults, web

HOST = "127.0.0.1"
FAR = "http://far.invalid/"

verify = functools.cache(web.client_context)


def serve_once(sock, *_):
    """An HTTP server that answers one request on each connection."""
    if sock.recv(65536):
        sock.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nonce")


class Addresses(AbstractResolver):
    """A resolver that gives the same addresses for every name."""

    def __init__(self, *hosts):
        self.hosts = hosts
        self.asked = 0

    async def resolve(self, host, port=0, family=socket.AF_INET):
        self.asked += 1
        infos = [faults.tcp(each, port) for each in self.hosts]
        return [
            {"hostname": host, "host": each, "port": port, "family": info[0], "proto": info[2], "flags": 0}
            for each, info in zip(self.hosts, infos, strict=True)
        ]

    async def close(self):
        pass


def fetch(loop_factory, *urls, connector=SafeTCPConnector, given=None, **kwds):
    """Return the bodies of *urls*, fetched in one session. *given* are the arguments of *connector*."""
    kwds = {"ssl": verify(), **kwds}

    async def main():
        async with aiohttp.ClientSession(connector=connector(**(given or {}))) as session:
            bodies = []
            for url in urls:
                async with session.get(url, **kwds) as response:
                    bodies.append(await response.text())
        return bodies

    return dials.run(main(), loop_factory)


def failure(loop_factory, url, **kwds):
    with pytest.raises((aiohttp.ClientError, TimeoutError)) as caught:
        fetch(loop_factory, url, **kwds)
    return caught.value


# Each way to dial a port: (the URL, the arguments of the request).
WAYS = {
    "plain": ("http://{host}:{port}/", {}),
    "TLS": ("https://{host}:{port}/", {}),
    "name": ("http://localhost:{port}/", {}),
    "proxy": (FAR, {"proxy": "http://{host}:{port}"}),
    "tunnel": ("https://far.invalid/", {"proxy": "http://{host}:{port}"}),
}


def to(port, way):
    url, given = WAYS[way]
    return url.format(host=HOST, port=port), {name: value.format(host=HOST, port=port) for name, value in given.items()}


class TestSelfConnect:
    def test_is_aiohttps_own_refused(self, loop_factory, force, steering):
        for way in WAYS:
            with testing.refused_port() as refused:
                url, kwds = to(refused, way)
                expected = failure(loop_factory, url, connector=aiohttp.TCPConnector, **kwds)
            port = testing.dead_port()
            fault = force(port)
            url, kwds = to(port, way)
            error = failure(loop_factory, url, **kwds)
            assert fault.triggered, way
            assert type(error) is type(expected), way
            assert isinstance(error, aiohttp.ClientConnectorError), way
            assert error.errno == expected.errno, way
            assert (error.host, error.port) == (expected.host, port if expected.port == refused else expected.port), way
            testing.assert_no_self_connects()
            faults.assert_server_can_bind(HOST, port)

    def test_has_the_self_connect_as_its_cause(self, loop_factory, force, dead_port):
        force(dead_port)
        error = failure(loop_factory, f"https://{HOST}:{dead_port}/")
        assert type(error.os_error) is SelfConnectError

    def test_websocket(self, loop_factory, force, steering, dead_port):
        fault = force(dead_port)

        async def main():
            async with aiohttp.ClientSession(connector=SafeTCPConnector()) as session:
                with pytest.raises(aiohttp.ClientConnectorError):
                    await session.ws_connect(f"ws://{HOST}:{dead_port}/")

        dials.run(main(), loop_factory)
        assert fault.triggered
        faults.assert_server_can_bind(HOST, dead_port)

    def test_nothing_is_patched_afterwards(self, loop_factory):
        before = vars(socket.socket).get("connect")
        with web.serve() as server:
            fetch(loop_factory, server.url)
        assert vars(socket.socket).get("connect") is before


class TestErrors:
    def test_are_aiohttps_own(self, loop_factory):
        soon = aiohttp.ClientTimeout(sock_connect=0.05)
        with testing.refused_port() as refused, faults.full_listener() as full, web.serve("https") as untrusted:
            for url, expected, given in [
                ("http://no-such-name.invalid/", aiohttp.ClientConnectorError, {}),
                (f"http://{HOST}:{refused}/", aiohttp.ClientConnectorError, {}),
                (FAR, aiohttp.ClientProxyConnectionError, {"proxy": f"http://{HOST}:{refused}"}),
                (f"http://{HOST}:{full.getsockname()[1]}/", aiohttp.ServerTimeoutError, {"timeout": soon}),
                (f"https://{HOST}:{full.getsockname()[1]}/", aiohttp.ServerTimeoutError, {"timeout": soon}),
                (untrusted.url, aiohttp.ClientConnectorCertificateError, {"ssl": True}),
            ]:
                said = [failure(loop_factory, url, connector=each, **given) for each in BOTH]
                assert type(said[0]) is type(said[1]), url
                assert isinstance(said[1], expected), url
                assert getattr(said[0], "errno", None) == getattr(said[1], "errno", None), url

    def test_exhausted_ports_are_no_connection(self, server):
        port = server.getsockname()[1]
        with testing.ports_exhausted(port):
            error = failure(None, f"http://{HOST}:{port}/", given={"policy": None})
        assert isinstance(error.os_error, safedial.PortsExhaustedError)

    def test_wrong_policy(self):
        with pytest.raises(TypeError, match=r"policy must be a tenacity\.Retrying"):
            SafeTCPConnector(policy=3)


BOTH = (aiohttp.TCPConnector, SafeTCPConnector)


class TestProtect:
    def protected(self, loop_factory, port, of=lambda session: session, **policy):
        """Protect a plain session, or the part of it that *of* returns, and fetch from *port*."""

        async def main():
            async with aiohttp.ClientSession() as session:
                assert protect(of(session), **policy) is of(session)
                async with session.get(f"http://{HOST}:{port}/") as response:
                    return await response.text()

        return dials.run(main(), loop_factory)

    @pytest.mark.parametrize("of", [lambda session: session, lambda session: session.connector])
    def test_session_and_connector(self, loop_factory, force, of, dead_port):
        fault = force(dead_port)
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            self.protected(loop_factory, dead_port, of)
        assert type(caught.value.os_error) is SelfConnectError
        assert fault.triggered
        with web.serve() as server:
            assert self.protected(loop_factory, server.port, of) == "hello"

    def test_policy(self, loop_factory):
        with testing.Outage(serve_once) as outage:
            outage.refuse_for(dials=2)
            assert (
                self.protected(loop_factory, outage.port, policy=safedial.reconnect(within=10, first=0.001)) == "once"
            )

    def test_the_last_policy_counts(self, loop_factory):
        """Policies of two calls do not multiply."""
        dials = []
        policy = tenacity.Retrying(
            retry=safedial.retry_if_transient, stop=tenacity.stop_after_attempt(3), before=dials.append
        )
        with testing.refused_port() as port, pytest.raises(aiohttp.ClientConnectorError):
            self.protected(loop_factory, port, lambda session: protect(session, policy=policy), policy=policy)
        assert 0 < len(dials) <= 3

    def test_useless_arguments(self):
        async def main():
            session = aiohttp.ClientSession()
            with pytest.raises(TypeError, match="policy must be"):
                protect(session, policy=3)
            await session.close()
            with pytest.raises(TypeError, match=r"session must be an open ClientSession or an aiohttp\.TCPConnector"):
                protect(session)

        dials.run(main(), None)


class TestPolicy:
    def test_dials_until_the_server_is_up(self, loop_factory, steering):
        policy = safedial.reconnect(within=10, first=0.001)
        with testing.Outage(serve_once) as outage:
            outage.refuse_for(dials=2)
            assert fetch(loop_factory, f"http://{HOST}:{outage.port}/", given={"policy": policy}) == ["once"]

    def test_dials_again_after_a_self_connect(self, loop_factory, force, steering):
        with testing.Outage(serve_once) as outage:
            outage.stop()
            policy = tenacity.AsyncRetrying(
                retry=safedial.retry_if_transient,
                stop=tenacity.stop_after_attempt(2),
                before_sleep=lambda state: outage.start(),
            )
            fault = force(outage.port, times=1)
            assert fetch(loop_factory, f"http://{HOST}:{outage.port}/", given={"policy": policy}) == ["once"]
            assert fault.triggered == 1

    def test_resolves_the_name_in_each_dial(self, loop_factory):
        policy = tenacity.Retrying(retry=safedial.retry_if_transient, stop=tenacity.stop_after_attempt(3))
        resolver = Addresses(HOST)
        with testing.refused_port() as port:
            given = {"policy": policy, "resolver": resolver, "use_dns_cache": False}
            failure(loop_factory, f"http://one.invalid:{port}/", given=given)
        assert resolver.asked == 3

    def test_is_bounded_by_the_session(self, loop_factory):
        with testing.refused_port() as port:
            given = {"policy": safedial.reconnect(within=60, first=5, cap=5)}
            timeout = aiohttp.ClientTimeout(connect=0.05)
            error = failure(loop_factory, f"http://{HOST}:{port}/", given=given, timeout=timeout)
        assert isinstance(error, aiohttp.ServerTimeoutError)


class TestNormalUse:
    def test_reuses_connections(self, loop_factory):
        with web.serve() as server:
            assert fetch(loop_factory, *[server.url] * 3) == ["hello"] * 3
            assert server.connections == 1

    def test_pool_is_limited(self, loop_factory):
        timeout = aiohttp.ClientTimeout(connect=0.01)

        async def main(url):
            async with aiohttp.ClientSession(connector=SafeTCPConnector(limit=1)) as session, session.get(url):
                with pytest.raises(TimeoutError):
                    await session.get(url, timeout=timeout)

        with testing.Outage(serve_half) as outage:
            dials.run(main(f"http://{HOST}:{outage.port}/"), loop_factory)

    def test_tls(self, loop_factory):
        with web.serve("https") as server:
            urls = [f"https://{host}:{server.port}/" for host in (HOST, "localhost")]
            assert fetch(loop_factory, *urls) == ["hello"] * 2

    def test_proxy(self, loop_factory):
        with web.serve() as plain, web.serve("https") as tls, web.serve() as proxy:
            assert fetch(loop_factory, plain.url, tls.url, proxy=proxy.url) == ["hello"] * 2
            assert [seen[0] for seen in proxy.seen] == ["GET", "CONNECT"]

    def test_source_address(self, loop_factory):
        with web.serve() as server:
            fetch(loop_factory, server.url, given={"local_addr": ("127.0.0.2", 0)})
            assert server.seen[0][2] == "127.0.0.2"

    def test_small_packets_go_at_once(self, loop_factory):
        found = []

        class Noting(SafeTCPConnector):
            async def _create_connection(self, *args):
                made = await super()._create_connection(*args)
                sock = made.transport.get_extra_info("socket")
                found.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                return made

        with web.serve() as server:
            fetch(loop_factory, server.url, connector=Noting)
        assert found == [1]

    def test_dead_first_address_is_skipped(self, loop_factory):
        with web.serve() as server:
            given = {"resolver": Addresses("::1", HOST)}
            assert fetch(loop_factory, f"http://two.invalid:{server.port}/", given=given) == ["hello"]

    def test_silent_first_address_is_raced(self, loop_factory):
        with faults.black_hole_and_server() as (_, listening):
            port = listening.getsockname()[1]
            listening.close()
            given = {"resolver": Addresses("::1", HOST), "happy_eyeballs_delay": 0.01}
            with web.serve(port=port):
                assert fetch(loop_factory, f"http://two.invalid:{port}/", given=given) == ["hello"]


def serve_half(sock, *_):
    """An HTTP server that sends half of its answer."""
    if sock.recv(65536):
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\non")
        sock.recv(1)


def test_missing_library_names_the_extra():
    code = "import sys; sys.modules['aiohttp'] = None; import safedial.adapters.aiohttp"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "ImportError: safedial.adapters.aiohttp needs aiohttp: pip install 'safedial[aiohttp]'" in done.stderr


def test_connector_leaves_no_reference_cycle():
    async def main():
        connector = SafeTCPConnector()
        await connector.close()
        return weakref.ref(connector)

    gc.disable()
    try:
        assert dials.run(main())() is None
    finally:
        gc.enable()
