"""The package of adapters: its documentation, how adapters load, and what they say about wrong arguments."""

import asyncio
import contextlib
import copy
import ftplib
import http.client
import inspect
import logging
import pickle
import re
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import aiohttp
import httpx
import pytest
import redis
import requests
import urllib3
import valkey
from sqlalchemy.orm import Session

import safedial.adapters
from safedial import testing
from tests.support import faults, web
from tests.support.drivers import retrying

HOST = "127.0.0.1"
ADAPTERS = sorted(path.stem for path in Path(safedial.adapters.__file__).parent.glob("[a-z]*.py"))
EXAMPLES = re.findall(r"::\n\n((?:    .*\n|\n)+)", safedial.adapters.__doc__)


def example(number):
    """Run an example of the docstring and return its names."""
    names = {"__name__": "example"}
    exec(textwrap.dedent(EXAMPLES[number]), names)
    return names


def fresh(code):
    """Run *code* in a new interpreter and return its output."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


class TestExampleOfADialer:
    @pytest.fixture
    def handler(self):
        with contextlib.ExitStack() as stack:

            def make(port, **kwds):
                return stack.enter_context(contextlib.closing(example(0)["SafeSocketHandler"](HOST, port, **kwds)))

            yield make

    def test_dials(self, handler):
        got = []

        def receive(sock, *_):
            size = struct.unpack(">L", sock.recv(4, 0x100))[0]  # MSG_WAITALL
            got.append(pickle.loads(sock.recv(size, 0x100))["msg"])

        with testing.Outage(receive) as server:
            handler(server.port).emit(logging.makeLogRecord({"msg": "hello"}))
        assert got == ["hello"]

    def test_is_never_connected_to_itself(self, handler, force, steering, dead_port):
        fault = force(dead_port)
        with pytest.raises(ConnectionRefusedError):
            handler(dead_port).makeSocket()
        assert fault.triggered
        faults.assert_server_can_bind(HOST, dead_port)

    def test_dialers_timeout_comes_before_the_librarys(self, handler, server):
        for dialer, timeout in ((None, 1), (safedial.Dialer(timeout=3), 3)):
            with handler(server.getsockname()[1], dialer=dialer).makeSocket() as sock:
                assert sock.gettimeout() == timeout

    def test_wrong_arguments(self, handler):
        with pytest.raises(TypeError, match="dialer must be"):
            handler(1, dialer=5)
        with pytest.raises(TypeError, match=r"takes dialer=safedial\.Dialer\(policy=\.\.\.\), not policy="):
            handler(1, policy=None)


class TestExampleOfAWrap:
    def protect(self, *args, **kwds):
        return example(1)["protect"](*args, **kwds)

    def test_dials_until_the_server_is_up(self):
        with testing.Outage(lambda sock, *_: sock.sendall(b"220 ready\r\n")) as server:
            server.refuse_for(dials=2)
            client = self.protect(ftplib.FTP(), policy=safedial.reconnect(within=5, first=0.001))
            assert client.connect(HOST, server.port, timeout=5) == "220 ready"
            client.close()

    def test_is_never_connected_to_itself(self, force, steering, dead_port):
        fault = force(dead_port)
        with pytest.raises(ConnectionRefusedError):
            self.protect(ftplib.FTP()).connect(HOST, dead_port)
        assert fault.triggered
        faults.assert_server_can_bind(HOST, dead_port)

    def test_wrong_arguments(self):
        with pytest.raises(TypeError, match=r"client must be an ftplib\.FTP, not a str"):
            self.protect("ftp://ada:secret@db")
        with pytest.raises(TypeError, match="takes policy=, not dialer="):
            self.protect(ftplib.FTP(), dialer=safedial.Dialer())
        assert self.protect(ftplib.FTP(), dialer=None)


def test_there_are_two_examples():
    assert len(EXAMPLES) == 2


class TestLoading:
    @pytest.mark.parametrize("name", ADAPTERS)
    def test_an_adapter_is_loaded_when_it_is_touched(self, name):
        code = f"import sys, safedial; print('safedial.adapters' in sys.modules, safedial.adapters.{name})"
        assert fresh(code).startswith(f"False <module 'safedial.adapters.{name}' ")

    def test_touching_the_package_loads_no_adapter(self):
        code = "import sys, safedial; safedial.adapters; print(*sys.modules)"
        assert not [name for name in fresh(code).split() if name.startswith("safedial.adapters.")]

    def test_a_missing_library_is_named(self):
        code = "import sys, safedial; sys.modules['valkey'] = None; safedial.adapters.valkey"
        assert "ImportError: safedial.adapters.valkey needs valkey: pip install 'safedial[valkey]'" in fresh(code)

    def test_a_missing_module_of_its_own_is_named(self):
        code = "import sys, safedial; sys.modules['safedial.adapters._mistakes'] = None; safedial.adapters.redis"
        assert "ModuleNotFoundError: import of safedial.adapters._mistakes halted" in fresh(code)

    @pytest.mark.parametrize("name", ["nonsense", "__wrapped__", "_nonsense"])
    def test_unknown_name(self, name):
        with pytest.raises(AttributeError, match=f"'safedial.adapters' has no attribute '{name}'"):
            getattr(safedial.adapters, name)


TAKE_A_DIALER = {
    "requests": lambda **kwds: safedial.adapters.requests.protect(requests.Session(), **kwds),
    "requests adapter": lambda **kwds: safedial.adapters.requests.SafeHTTPAdapter(**kwds),
    "urllib3": lambda **kwds: safedial.adapters.urllib3.protect(urllib3.PoolManager(), **kwds),
    "urllib3 manager": lambda **kwds: safedial.adapters.urllib3.SafePoolManager(**kwds),
    "urllib3 connection": lambda **kwds: safedial.adapters.urllib3.SafeHTTPConnection(HOST, **kwds),
    "httpx": lambda **kwds: safedial.adapters.httpx.protect(httpx.Client(), **kwds).close(),
    "httpx transport": lambda **kwds: safedial.adapters.httpx.SafeHTTPTransport(**kwds),
    "httpx async transport": lambda **kwds: safedial.adapters.httpx.SafeAsyncHTTPTransport(**kwds),
    "redis": lambda **kwds: safedial.adapters.redis.protect(redis.Redis(), **kwds),
    "redis connection": lambda **kwds: safedial.adapters.redis.SafeConnection(**kwds),
    "http": lambda **kwds: safedial.adapters.http.SafeHTTPSConnection(HOST, **kwds),
    "SMTP": lambda **kwds: safedial.adapters.http.SafeSMTP(**kwds),
    "urllib.request": lambda **kwds: safedial.adapters.http.build_opener(**kwds),
    "asyncio": lambda **kwds: safedial.adapters.asyncio.new_event_loop(**kwds).close(),
}


class TestArguments:
    def test_a_url_in_the_wrong_place_tells_no_secret(self):
        for name in ("aiohttp", "urllib3", "redis", "valkey"):
            with pytest.raises(TypeError, match="not a str") as caught:
                getattr(safedial.adapters, name).protect("redis://:secret@127.0.0.1:1")
            assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("name", TAKE_A_DIALER)
    def test_policy_belongs_into_a_dialer(self, name):
        with pytest.raises(TypeError, match=r"\(\) takes dialer=safedial\.Dialer\(policy=\.\.\.\), not policy="):
            TAKE_A_DIALER[name](policy=safedial.redial())

    @pytest.mark.parametrize("name", TAKE_A_DIALER)
    def test_dialer_that_is_none_or_wrong(self, name):
        TAKE_A_DIALER[name](dialer=None)
        with pytest.raises(TypeError, match=r"dialer must be a safedial\.Dialer or None, not 5"):
            TAKE_A_DIALER[name](dialer=5)

    def test_aiohttp_takes_a_policy(self):
        for take in (safedial.adapters.aiohttp.SafeTCPConnector, safedial.adapters.aiohttp.protect):
            with pytest.raises(TypeError, match=r"\(\) takes policy=, not dialer="):
                take(dialer=safedial.Dialer())

    def test_signatures_can_be_read(self):
        parameters = inspect.signature(safedial.adapters.httpx.protect).parameters
        assert list(parameters) == ["client", "dialer"]


# Each safe class, and the library's class of the same name.
CLASSES = [
    (safe, plain)
    for adapter, modules in {
        "aiohttp": [aiohttp],
        "http": [http.client, __import__("smtplib"), ftplib],
        "httpx": [httpx],
        "redis": [redis],
        "valkey": [valkey],
        "requests": [requests.adapters],
        "urllib3": [urllib3, urllib3.connection],
    }.items()
    for name, safe in vars(getattr(safedial.adapters, adapter)).items()
    for plain in [next((vars(m)[name[4:]] for m in modules if name[4:] in vars(m)), None)]
    if name.startswith("Safe") and "Async" not in name and isinstance(safe, type) and name != "SafeDial"
]


@pytest.mark.parametrize(("safe", "plain"), CLASSES, ids=lambda each: f"{each.__module__}.{each.__name__}")
def test_a_class_is_named_after_the_librarys_and_is_one(safe, plain):
    assert issubclass(safe, plain)
    assert pickle.loads(pickle.dumps(safe)) is safe


async def missing_await():
    """Make a client in a coroutine that nobody awaits."""


# Each natural mistake: (the adapter, what it is given, what its message says).
MISTAKES = {
    "redis, url": (
        "redis",
        lambda: "redis://:secret@db",
        r"not a str\. Write protect\(redis\.Redis\.from_url\(url\)\)",
    ),
    "redis, class": ("redis", lambda: redis.Redis, r"not the class Redis\. Write protect\(redis\.Redis"),
    "redis, valkey": ("redis", valkey.Valkey, r"valkey\.Valkey\. Write safedial\.adapters\.valkey\.protect\(\.\.\.\)"),
    "valkey, url": ("valkey", lambda: b"valkey://:secret@db", r"not a bytes\. Write protect\(valkey\.Valkey\.from_url"),
    "requests, url": ("requests", lambda: "https://secret", r"not a str\. Write protect\(requests\.Session\(\)\)"),
    "requests, module": ("requests", lambda: requests, "not the module requests"),
    "requests, httpx": ("requests", httpx.Client, r"not httpx\.Client\. Write safedial\.adapters\.httpx\.protect"),
    "requests, async": ("requests", httpx.AsyncClient, r"AsyncClient\. Write safedial\.adapters\.httpx\.protect"),
    "httpx, requests": ("httpx", requests.Session, r"requests\.sessions|Write safedial\.adapters\.requests\.protect"),
    "httpx, class": ("httpx", lambda: httpx.AsyncClient, r"not the class AsyncClient\. Write protect\(httpx\.Client"),
    "urllib3, requests": ("urllib3", requests.Session, r"Write safedial\.adapters\.requests\.protect"),
    "aiohttp, url": ("aiohttp", lambda: "https://secret", r"not a str\. Write protect\(aiohttp\.ClientSession\(\)\)"),
    "sqlalchemy, url": (
        "sqlalchemy",
        lambda: "postgresql://:secret@db",
        r"not a str\. Write protect\(create_engine\(url",
    ),
    "sqlalchemy, session": (
        "sqlalchemy",
        lambda: Session(),
        r"Session\. Write protect\(create_engine\(url\)\), before",
    ),
    "sqlalchemy, None": ("sqlalchemy", lambda: None, "not None"),
}


class TestMistakes:
    @pytest.mark.parametrize("name", MISTAKES)
    def test_message_names_the_right_line(self, name):
        adapter, make, says = MISTAKES[name]
        with pytest.raises(TypeError, match=says) as caught:
            getattr(safedial.adapters, adapter).protect(make())
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("adapter", ["aiohttp", "httpx", "redis", "requests", "sqlalchemy", "urllib3", "valkey"])
    def test_missing_await(self, adapter):
        coroutine = missing_await()
        with contextlib.closing(coroutine), pytest.raises(TypeError, match=r"not a coroutine\. Write protect\(await"):
            getattr(safedial.adapters, adapter).protect(coroutine)

    def test_dialer_by_position(self):
        for adapter, given in (
            (safedial.adapters.requests, requests.Session()),
            (safedial.adapters.redis, redis.Redis()),
        ):
            with pytest.raises(
                TypeError, match=r"protect\(\) takes one client, and dialer=safedial\.Dialer\(.*by name"
            ):
                adapter.protect(given, safedial.Dialer())
        with pytest.raises(TypeError, match=r"protect\(\) takes one client, and policy= by name"):
            safedial.adapters.sqlalchemy.protect("x", safedial.redial())

    def test_policy_as_the_dialer(self):
        with pytest.raises(TypeError, match=r"for a policy give safedial\.Dialer\(policy=\.\.\.\)"):
            safedial.adapters.requests.protect(requests.Session(), dialer=safedial.reconnect())


class TestSecondTime:
    """A second protect() replaces what the first one set: policies don't multiply, hooks are not called twice."""

    def test_dialers(self):
        def asked(client, get, protect):
            calls = []
            for _ in range(2):
                protect(client, dialer=safedial.Dialer(policy=retrying(2), on_event=calls.append))
            with testing.refused_port() as port, pytest.raises(Exception, match="refused"):
                get(client, f"http://{HOST}:{port}/")
            client.close() if hasattr(client, "close") else client.clear()
            return [event.kind for event in calls]

        get = lambda client, url: client.get(url)  # noqa: E731
        adapters = safedial.adapters
        session = requests.Session()
        session.trust_env = False
        once = ["failed", "retry", "failed", "gave_up"]
        assert asked(session, get, adapters.requests.protect) == once
        assert asked(httpx.Client(trust_env=False), get, adapters.httpx.protect) == once
        get = lambda client, url: client.request("GET", url, retries=False)  # noqa: E731
        assert asked(urllib3.PoolManager(), get, adapters.urllib3.protect) == once

    def test_redis(self):
        calls = []
        pool = redis.ConnectionPool(host=HOST)
        for _ in range(2):
            dialer = safedial.Dialer(policy=retrying(2), on_event=calls.append)
            safedial.adapters.redis.protect(redis.Redis(connection_pool=pool), dialer=dialer)
        with testing.refused_port() as port:
            pool.connection_kwargs["port"] = port
            with pytest.raises(redis.ConnectionError):
                pool.make_connection().connect()
        assert [event.kind for event in calls] == ["failed", "retry", "failed", "gave_up"]

    @pytest.mark.parametrize("kind", [aiohttp.TCPConnector, safedial.adapters.aiohttp.SafeTCPConnector])
    def test_aiohttp(self, kind):
        async def main():
            connector = kind()
            for calls in (first, last):
                safedial.adapters.aiohttp.protect(connector, policy=retrying(2), on_event=calls.append)
            async with aiohttp.ClientSession(connector=connector) as session:
                with testing.refused_port() as port, pytest.raises(aiohttp.ClientConnectorError):
                    await session.get(f"http://{HOST}:{port}/")

        first, last = [], []
        asyncio.run(main())
        assert first == []
        assert [event.kind for event in last] == ["failed", "retry", "failed", "gave_up"]


class TestInUse:
    """A client that has open connections: they stay, and later ones are safe."""

    @pytest.mark.parametrize("name", ["requests", "httpx"])
    def test_blocking(self, name, events):
        client = {"requests": requests.Session, "httpx": lambda: httpx.Client(trust_env=False)}[name]()
        with contextlib.closing(client), web.serve() as server:
            client.get(server.url)
            getattr(safedial.adapters, name).protect(client, dialer=safedial.Dialer(on_event=events.append))
            with web.serve() as other:
                client.get(other.url)
        assert [event.port for event in events] == [other.port]

    def test_aiohttp(self, events):
        async def main():
            async with aiohttp.ClientSession() as session:
                await (await session.get(server.url)).read()
                safedial.adapters.aiohttp.protect(session, on_event=events.append)
                await (await session.get(server.url)).read()
                assert not events
                await (await session.get(other.url)).read()

        with web.serve() as server, web.serve() as other:
            asyncio.run(main())
        assert [event.kind for event in events] == ["connected"]

    def test_copies_of_a_session_are_safe(self, force, dead_port):
        session = safedial.adapters.requests.protect(requests.Session())
        session.trust_env = False
        fault = force(dead_port)
        for each in (copy.copy(session), copy.deepcopy(session), pickle.loads(pickle.dumps(session))):
            with contextlib.closing(each), pytest.raises(requests.ConnectionError, match="refused"):
                each.get(f"http://{HOST}:{dead_port}/")
        assert fault.triggered
        faults.assert_server_can_bind(HOST, dead_port)
