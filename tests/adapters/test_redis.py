"""The adapters of redis and valkey on real servers: blocking and asyncio, plain and TLS."""

import asyncio
import contextlib
import functools
import inspect
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis.asyncio
import tenacity

import safedial
from safedial import testing
from safedial._tcp import steering
from safedial.adapters import needs
from safedial.adapters import redis as adapter
from tests.support import dials, faults, namespace, redis_server
from tests.support.redis_clients import Kind, done, kinds

HOST = redis_server.HOST
TREES = Path(inspect.getfile(needs)).parent


@pytest.fixture(params=kinds(), ids=lambda kind: kind.name)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    """A server for tests that do not stop it."""
    with redis_server.server(tmp_path_factory.mktemp("redis")) as outage:
        yield outage


@pytest.fixture(scope="module")
def up_tls(tmp_path_factory):
    outage, ca = redis_server.tls_server(tmp_path_factory.mktemp("tls"))
    with outage:
        yield outage, {"ssl": True, "ssl_ca_certs": ca, "ssl_check_hostname": True}


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sentinel")
    with redis_server.server(directory) as master, redis_server.sentinel(directory, master.port) as watcher:
        yield watcher


@pytest.fixture(scope="module")
def widowed(tmp_path_factory):
    """A Sentinel whose master has just died, and the master's port."""
    directory = tmp_path_factory.mktemp("widowed")
    with redis_server.server(directory) as master, redis_server.sentinel(directory, master.port) as watcher:
        master.kill()
        yield watcher, master.port


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with redis_server.cluster(tmp_path_factory.mktemp("cluster")) as node:
        yield node


def in_chain(error, kind):
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None


class TestSelfConnect:
    def test_is_refused_and_the_port_is_free(self, kind, force, steering, dead_port):
        with testing.refused_port() as refused:
            expected = kind.error(lambda: kind.client(refused))
        fault = force(dead_port)
        error = kind.error(lambda: kind.safe(dead_port))
        assert fault.triggered
        assert type(error) is type(expected) is kind.library.ConnectionError
        assert "refused" in str(error)
        assert in_chain(error, safedial.SelfConnectError)
        faults.assert_server_can_bind(HOST, dead_port)
        testing.assert_no_self_connects()

    def test_every_way_to_make_a_safe_client(self, kind, self_connect, dead_port):
        self_connect(dead_port)
        for way in ("client", "TLS", "pool", "BlockingConnectionPool", "connection_class", "from_url"):
            error = kind.error(functools.partial(self.written, way, kind, dead_port))
            assert type(error) is kind.library.ConnectionError, way
            assert in_chain(error, safedial.SelfConnectError), way
            testing.assert_no_self_connects()

    def written(self, way, kind, port):
        where = {"host": HOST, "port": port, "socket_timeout": 5}
        if way in ("client", "TLS"):
            return kind.safe(port, ssl=way == "TLS")
        if way == "connection_class":
            pool = kind.module.ConnectionPool(connection_class=kind.connection_class, **where)
        elif way == "from_url":
            url = f"{kind.library.__name__}://{HOST}:{port}"
            pool = kind.module.ConnectionPool.from_url(url, connection_class=kind.connection_class)
        else:
            pool_class = "ConnectionPool" if way == "pool" else way
            pool = kind.adapter.protect(getattr(kind.module, pool_class)(**where))
        return kind.module.Redis(connection_pool=pool)

    def test_is_dialed_again(self, kind, force, dead_port, tmp_path):
        """The default policy hides a single self-connect."""
        events = []
        with contextlib.ExitStack() as stack:

            def heard(event):
                if not events:
                    stack.enter_context(redis_server.server(tmp_path, port=dead_port))
                events.append(event)

            force(dead_port, 1)
            assert kind.use(lambda: kind.safe(dead_port, safedial.Dialer(on_event=heard))) == [True]
        assert isinstance(events[0].error, safedial.SelfConnectError)


class TestNormalUse:
    def test_right_data(self, kind, up):
        answers = kind.use(lambda: kind.safe(up.port, decode_responses=True), ("SET", "a", "1"), ("GET", "a"))
        assert answers == [True, "1"]

    def test_tls(self, kind, up_tls, steering):
        outage, options = up_tls
        assert kind.use(lambda: kind.safe(outage.port, host="localhost", **options)) == [True]

    def test_tls_without_trust_is_the_same_error(self, kind, up_tls):
        outage, _ = up_tls
        expected = kind.error(lambda: kind.client(outage.port, ssl=True))
        error = kind.error(lambda: kind.safe(outage.port, ssl=True))
        assert type(error) is type(expected)
        assert "certificate verify failed" in str(error)

    def test_connections_are_reused(self, kind, up):
        dialed = []

        def make():
            pool = kind.module.ConnectionPool(
                connection_class=kind.connection_class,
                dialer=safedial.Dialer(on_event=dialed.append, socket_options=[]),
                host=HOST,
                port=up.port,
                max_connections=1,
            )
            return kind.module.Redis(connection_pool=pool)

        ids = kind.use(make, *[("CLIENT", "ID")] * 5)
        assert len(set(ids)) == 1
        assert [event.kind for event in dialed].count("connected") <= 1

    def test_socket_is_set_up_as_by_the_library(self, kind, up):
        more = {"socket_keepalive": True, "socket_keepalive_options": {socket.TCP_KEEPIDLE: 77}, "socket_timeout": 3}
        more["socket_connect_timeout"] = 4
        # redis 5.1 and valkey need the name of the command.
        command = inspect.signature(kind.module.ConnectionPool.get_connection).parameters["command_name"]
        wanted = ["PING"] if command.default is inspect.Parameter.empty else []

        async def look(client):
            connection = await done(client.connection_pool.get_connection(*wanted))
            sock = connection._writer.get_extra_info("socket") if kind.asynchronous else connection._sock
            nodelay = bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            alive = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            idle = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            await done(client.connection_pool.release(connection))
            await kind.close(client)
            return sock.gettimeout(), nodelay, alive, idle

        async def both():
            return await look(kind.client(up.port, **more)), await look(kind.safe(up.port, **more))

        plain, safe = asyncio.run(both())
        assert plain == safe == (0 if kind.asynchronous else 3, True, True, 77)

    def test_given_dialer(self, kind, up):
        """Its source address counts, and its resolver, whose first address is dead."""
        with testing.refused_port("::1"):
            dialer = safedial.Dialer(
                source_address=("127.0.0.2", 0),
                resolver=lambda host, port, **more: [faults.tcp("::1", up.port), faults.tcp(HOST, up.port)],
            )
            [addresses] = kind.use(
                lambda: kind.safe(up.port, dialer, host="db.invalid", decode_responses=True), ("CLIENT", "INFO")
            )
        assert addresses["addr"].startswith("127.0.0.2:") if isinstance(addresses, dict) else "127.0.0.2" in addresses

    def test_name_with_a_dead_first_address(self, kind, up, monkeypatch):
        real = socket.getaddrinfo

        def both(host, port, *args, **kwargs):
            if host != "two.invalid":
                return real(host, port, *args, **kwargs)
            return [faults.tcp("::1", up.port), faults.tcp(HOST, up.port)]

        monkeypatch.setattr(socket, "getaddrinfo", both)
        assert kind.use(lambda: kind.safe(up.port, host="two.invalid")) == [True]

    def test_family_of_the_connection(self, up):
        """redis gives its socket_type to getaddrinfo() as the family."""
        pool = redis.ConnectionPool(
            connection_class=adapter.SafeConnection, host="localhost", port=up.port, socket_type=socket.AF_INET
        )
        assert redis.Redis(connection_pool=pool).ping()
        pool.disconnect()

    def test_any_event_loop(self, up, self_connect, dead_port, loop_factory):
        async def use(port):
            client = Kind("", adapter, redis, True).safe(port)
            try:
                return await client.ping()
            finally:
                await client.aclose()

        assert dials.run(use(up.port), loop_factory)
        self_connect(dead_port)
        with pytest.raises(redis.ConnectionError):
            dials.run(use(dead_port), loop_factory)

    def test_url_with_tls_gets_a_safe_class_with_tls(self, kind):
        url = f"{kind.library.__name__}s://localhost"
        given = [kind.adapter.protect(kind.module.ConnectionPool.from_url(url)).connection_class]
        if not kind.asynchronous:
            given.append(kind.adapter.SafeConnectionPool.from_url(url).connection_class)
        for each in given:
            assert issubclass(each, kind.module.SSLConnection)
            assert getattr(kind.adapter, each.__name__) is each
            assert issubclass(each, kind.connection_class)

    def test_unix_socket_is_left_alone(self, kind):
        def make():
            client = kind.adapter.protect(kind.module.Redis(unix_socket_path="/no/such/socket", retry=kind.retry()))
            assert client.connection_pool.connection_class.__name__ == "UnixDomainSocketConnection"
            return client

        assert isinstance(kind.error(make), kind.library.ConnectionError)


def refused(stack):
    return {"port": stack.enter_context(testing.refused_port())}


def timed_out(stack):
    server = stack.enter_context(faults.full_listener())
    return {"port": server.getsockname()[1], "socket_connect_timeout": 0.1}


def unknown_host(stack):
    return {"host": "no-such-name.invalid", "port": 6379}


def no_hello(stack):
    """A server that sends nothing."""
    server = stack.enter_context(faults.listener())
    return {"port": server.getsockname()[1], "socket_timeout": 0.1, "socket_connect_timeout": 5}


def no_tls(stack):
    return no_hello(stack) | {"ssl": True, "socket_connect_timeout": 0.1}


@pytest.mark.parametrize(
    "fault", [refused, timed_out, unknown_host, no_hello, no_tls], ids=lambda fault: fault.__name__
)
def test_errors_are_the_librarys_own(kind, fault):
    with contextlib.ExitStack() as stack:
        where = fault(stack)
        plain = kind.error(lambda: kind.client(**where))
        safe = kind.error(lambda: kind.safe(**where))
    assert type(safe) is type(plain)
    assert isinstance(safe, kind.library.RedisError if hasattr(kind.library, "RedisError") else Exception)
    assert str(safe) == str(plain)


class TestRetries:
    def test_the_librarys_own_outlasts_an_outage(self, kind, tmp_path):
        with redis_server.server(tmp_path) as outage:
            outage.refuse_for(dials=2)
            retry = {"retry": kind.retry(3), "retry_on_error": [ConnectionRefusedError]}
            assert kind.use(lambda: kind.safe(outage.port, **retry)) == [True]
            assert outage.state == "up"

    def test_protect_keeps_the_clients(self, kind):
        client = kind.client(1, retry=kind.retry(7))
        kept = client.connection_pool.connection_kwargs["retry"]
        assert kind.adapter.protect(client) is client
        assert client.connection_pool.connection_kwargs["retry"] is kept

    def test_a_policy_inside_multiplies(self, kind):
        """The docstring warns of this."""
        dials = []
        policy = tenacity.Retrying(retry=safedial.retry_if_transient, stop=tenacity.stop_after_attempt(3), reraise=True)
        dialer = safedial.Dialer(policy=policy, on_event=lambda event: dials.append(event.kind))
        retry = {"retry": kind.retry(2), "retry_on_error": [ConnectionRefusedError]}
        with testing.refused_port() as port:
            kind.error(lambda: kind.safe(port, dialer, **retry))
        assert dials.count("failed") == 3 * 3


class TestSentinel:
    """The client asks Sentinel for the host."""

    def closing(self, kind, port, protected="Sentinel"):
        """Return a client for the master that also closes its Sentinel's clients."""
        manager = kind.module.Sentinel([(HOST, port)], sentinel_kwargs={"retry": kind.retry()})
        if protected == "Sentinel":
            kind.adapter.protect(manager)
        master = manager.master_for("mymaster", retry=kind.retry())
        if protected == "master":
            kind.adapter.protect(master)
        name = "aclose" if kind.asynchronous else "close"
        close = getattr(master, name)

        def all_closed():
            others = [getattr(each, name)() for each in manager.sentinels]
            return asyncio.gather(close(), *others) if kind.asynchronous else close()

        setattr(master, name, all_closed)
        return master

    def test_finds_the_master(self, kind, watched):
        answers = kind.use(lambda: self.closing(kind, watched.port), ("SET", "s", "1"), ("GET", "s"))
        assert answers == [True, b"1"]

    def test_dead_master(self, kind, widowed, self_connect, steering):
        watcher, port = widowed
        fault = self_connect(port)
        error = kind.error(lambda: self.closing(kind, watcher.port))
        assert fault.triggered
        assert type(error) is kind.library.ConnectionError
        testing.assert_no_self_connects()

    @pytest.mark.parametrize("protected", ["Sentinel", "master"])
    def test_dead_sentinel(self, kind, self_connect, dead_port, protected):
        fault = self_connect(dead_port)
        error = kind.error(lambda: self.closing(kind, dead_port, protected))
        assert fault.triggered
        assert type(error).__name__ == "MasterNotFoundError"


class TestCluster:
    def make(self, kind, port):
        if kind.asynchronous:
            return kind.adapter.protect(kind.module.RedisCluster(host=HOST, port=port))
        url = f"{kind.library.__name__}://{HOST}:{port}"
        return kind.module.RedisCluster.from_url(url, connection_pool_class=kind.adapter.SafeConnectionPool)

    def test_answers(self, kind, node):
        assert kind.use(lambda: self.make(kind, node.port)) == [True]

    def test_dialer(self, kind, node):
        """It dials the startup nodes, and the nodes that the cluster reports."""
        told = []

        def make():
            dialer = safedial.Dialer(on_event=told.append)
            if kind.asynchronous:
                return kind.adapter.protect(kind.module.RedisCluster(host=HOST, port=node.port), dialer=dialer)
            pool = functools.partial(kind.adapter.SafeConnectionPool, dialer=dialer)
            return kind.module.RedisCluster.from_url(f"{kind.name}://{HOST}:{node.port}", connection_pool_class=pool)

        assert kind.use(make) == [True]
        assert {event.address for event in told} == {node.address}
        assert len(told) > 1

    @pytest.mark.parametrize("kind", [kind for kind in kinds() if not kind.asynchronous], ids=lambda kind: kind.name)
    def test_blocking_cluster_has_dialed_already(self, kind, node):
        with contextlib.closing(kind.module.RedisCluster(host=HOST, port=node.port)) as client:
            with pytest.raises(TypeError, match=r"dialed already\. Use \w+\.\w+\.from_url\(url, connection_pool"):
                kind.adapter.protect(client)
            client.disconnect_connection_pools()

    def test_dead_node(self, kind, self_connect, steering, dead_port):
        fault = self_connect(dead_port)
        error = kind.error(lambda: self.make(kind, dead_port))
        assert fault.triggered
        assert type(error).__name__.endswith("ClusterException")
        testing.assert_no_self_connects()
        faults.assert_server_can_bind(HOST, dead_port)


class TestPrecedence:
    """How a given value is told from a default; the rest is in test_precedence.py."""

    def settings(self, kind, dialer=None, **given):
        client = kind.adapter.protect(kind.module.Redis(**given), dialer=safedial.Dialer(**(dialer or {})))
        return client.connection_pool.make_connection()._settings()

    def test_timeout_that_equals_the_default_was_not_given(self, kind):
        default = inspect.signature(kind.module.Redis).parameters["socket_connect_timeout"].default
        assert self.settings(kind, {"timeout": 3}, socket_connect_timeout=default).timeout == 3

    def test_socket_timeout_is_not_a_given_connect_timeout(self, kind):
        assert self.settings(kind, {"timeout": 3}, socket_timeout=7).timeout == 3

    def test_keepalive(self, kind):
        option = (socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        default = bool(kind.module.Connection().socket_keepalive)
        for given, dialer, expected in [
            ({}, [], default),
            ({}, [(*option, not default)], not default),
            ({"socket_keepalive": not default}, [(*option, default)], not default),
        ]:
            options = self.settings(kind, {"socket_options": dialer}, **given).socket_options
            assert {each[:2]: each[2] for each in options}[option] == expected

    @pytest.mark.parametrize("kind", [kind for kind in kinds() if kind.asynchronous], ids=lambda kind: kind.name)
    def test_a_dialers_timeout_is_for_each_attempt(self, kind):
        """The library's limit for the whole dial does not count if it was not given."""
        events = []
        policy = tenacity.AsyncRetrying(retry=safedial.retry_if_transient, stop=tenacity.stop_after_attempt(3))
        dialer = safedial.Dialer(timeout=0.05, policy=policy, on_event=events.append)

        async def connect(port):
            connection = kind.connection_class(host=HOST, port=port, dialer=dialer)
            connection.socket_connect_timeout = 0.07  # a short default
            with pytest.raises(TimeoutError):
                await connection._connect()

        with faults.full_listener() as full:
            asyncio.run(connect(full.getsockname()[1]))
        assert [event.kind for event in events].count("failed") == 3


class TestArguments:
    def test_dialer(self, kind):
        with pytest.raises(TypeError, match=r"dialer must be a safedial\.Dialer or None, not 5"):
            kind.adapter.protect(kind.client(1), dialer=5)
        with pytest.raises(TypeError, match="dialer must be"):
            kind.connection_class(dialer="x")

    def test_client(self, kind):
        with pytest.raises(TypeError, match="client must be a client"):
            kind.adapter.protect("redis://")

    def test_client_that_has_connections(self, kind, up):
        def make():
            return kind.client(up.port)

        def late(client):
            with pytest.raises(ValueError, match="before it is used"):
                kind.adapter.protect(client)

        if kind.asynchronous:

            async def use():
                client = make()
                await client.ping()
                late(client)
                await client.aclose()

            asyncio.run(use())
        else:
            client = make()
            client.ping()
            late(client)
            client.close()

    def test_twice_is_once(self, kind):
        client = kind.safe(1)
        safe = client.connection_pool.connection_class
        assert kind.adapter.protect(client).connection_pool.connection_class is safe is kind.connection_class


# The kernel draws from 64 ports, and one of them is the server's.
PORT_RANGE = (40000, 40063)
ENOUGH = 20


class Seen:
    """What a client's loop has seen."""

    def __init__(self):
        self.right = 0
        self.refused = 0
        self.odd = []


async def turns(kind, make, seen, over):
    """Write and read until *over* is set, whatever happens."""
    client = make()
    await done(client.execute_command("SET", "before", "kept"))
    while not over.is_set():
        word = b"turn %d" % (seen.right + seen.refused)
        try:
            await done(client.execute_command("SET", "now", word))
            got = [await done(client.execute_command("GET", key)) for key in ("now", "before")]
        except kind.library.ConnectionError:
            seen.refused += 1
        except Exception as error:
            seen.odd.append(repr(error))
        else:
            if got == [word, b"kept"]:
                seen.right += 1
            else:
                seen.odd.append(repr(got))
    await kind.close(client)


def until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"not true within {seconds} s")
        time.sleep(0.005)


def come_back(outage, tries):
    """Start the server again. Without steering, a client may briefly have the port, so try *tries* times."""
    for _ in range(tries - 1):
        with contextlib.suppress(OSError):
            return outage.start()
    return outage.start()


def live_through(name, directory, refusals, safely, steered):
    """Run a client's loop on a server that is killed and comes back; return how that went."""
    kind = next(each for each in kinds() if each.name == name)
    seen, over = Seen(), threading.Event()
    make = kind.safe if safely else kind.client
    with redis_server.server(directory, port=PORT_RANGE[0], durable=True) as outage:
        if not steered:  # from now on: the first start is over
            steering._steerable = False
        loop = threading.Thread(target=lambda: asyncio.run(turns(kind, lambda: make(outage.port), seen, over)))
        loop.start()
        try:
            until(lambda: seen.right >= ENOUGH)
            outage.kill()
            before = seen.refused
            until(lambda: seen.refused >= before + refusals or seen.odd)
            if seen.odd:
                return {"odd": seen.odd}
            start, before = come_back(outage, 1 if steered else 20), seen.right
            until(lambda: seen.right >= before + ENOUGH or seen.odd)
        finally:
            over.set()
            loop.join()
    return {"odd": seen.odd, "binds": start.binds, "holders": start.holders}


class TestOutage:
    """A client's loop survives it, on a port that the kernel draws for one connect in 32."""

    def live_through(self, *args):
        namespace.require()
        redis_server.require()
        return namespace.call(live_through, *args, port_range=PORT_RANGE)

    @pytest.mark.parametrize("name", ["redis", "redis.asyncio"])
    def test_server_comes_back_and_data_is_right(self, name, tmp_path):
        found = self.live_through(name, tmp_path, 2000, True, True)
        assert not found["odd"]
        if faults.kernel_steers():
            assert found["binds"] == 1, found["holders"]

    @pytest.mark.parametrize("name", ["redis", pytest.param("redis.asyncio", marks=pytest.mark.storm)])
    def test_data_is_right_unsteered(self, name, tmp_path):
        assert not self.live_through(name, tmp_path, 300, True, False)["odd"]

    @pytest.mark.storm
    def test_a_plain_client_does_not_survive_it(self, tmp_path):
        assert self.live_through("redis.asyncio", tmp_path, 3000, False, True)["odd"]


def test_a_missing_library_is_named():
    code = "import sys; sys.modules['redis'] = None; import safedial.adapters.redis"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: safedial.adapters.redis needs redis: pip install 'safedial[redis]'" in ended.stderr
