"""The verdict on what other servers answer to a client's handshake: TLS, HTTP, messages, mail, SSH, gRPC, proxies."""

import asyncio
import contextlib
import ftplib
import http.client
import logging
import smtplib
import ssl
import struct
import threading
import urllib.request
import warnings
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import anyio
import grpc
import httpx
import nats
import paramiko
import pika
import pymongo
import pytest
import redis
import redis.asyncio
import requests
import socks
import trio
import urllib3
import valkey
import websockets
import websockets.sync.client
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support import web
from tests.support.verdicts import HOST, hang_up, judged, serving

# Some drivers leave the socket of a failed login to the collector.
pytestmark = [pytest.mark.storm, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it uses old names of pyasn1
    import ldap3

CERTIFICATE = ("PERMANENT", "certificate_error")
CLOSED = ("TRANSIENT", "connection_closed")
DENIED = ("PERMANENT", "authentication_error")
NO_TLS = ("UNKNOWN", "tls_error")
REFUSED = ("TRANSIENT", "connection_refused")
RESET = ("TRANSIENT", "connection_reset")
UNAVAILABLE = ("TRANSIENT", "server_unavailable")


# --- TLS -------------------------------------------------------------------------------------------------


async def aiohttp_(port):
    async with aiohttp.ClientSession() as session:
        await session.get(f"https://localhost:{port}/")


async def httpx_async(port):
    async with httpx.AsyncClient() as client:
        await client.get(f"https://localhost:{port}/")


def redis_(port):
    with contextlib.closing(redis.Redis("localhost", port, ssl=True, retry=Retry(NoBackoff(), 0))) as client:
        client.ping()


async def redis_async(port):
    once = redis.asyncio.retry.Retry(NoBackoff(), 0)
    async with redis.asyncio.Redis(host="localhost", port=port, ssl=True, retry=once) as client:
        await client.ping()


def valkey_(port):
    with contextlib.closing(valkey.Valkey("localhost", port, ssl=True)) as client:
        client.ping()


async def trio_(port):
    # A name would be resolved in a thread, which lives on.
    async with await trio.open_ssl_over_tcp_stream(HOST, port) as stream:
        await stream.do_handshake()


def http_client(port):
    with contextlib.closing(http.client.HTTPSConnection("localhost", port, timeout=5)) as connection:
        connection.request("GET", "/")


def urllib3_(port):
    with urllib3.PoolManager(retries=0) as pool:
        pool.request("GET", f"https://localhost:{port}/")


def ldap3_(port):
    tls = ldap3.Tls(validate=ssl.CERT_REQUIRED)
    ldap3.Connection(ldap3.Server("localhost", port, use_ssl=True, tls=tls)).bind()


def pika_(port):
    options = pika.SSLOptions(ssl.create_default_context(), "localhost")
    pika.BlockingConnection(pika.ConnectionParameters("localhost", port, ssl_options=options))


def grpc_(port):
    with grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials()) as channel:
        channel.unary_unary("/service/method")(b"", timeout=5)


OVER_TLS = {
    "asyncio": lambda port: asyncio.open_connection("localhost", port, ssl=True),
    "urllib.request": lambda port: urllib.request.urlopen(f"https://localhost:{port}/"),
    "http.client": http_client,
    "smtplib": lambda port: smtplib.SMTP_SSL("localhost", port, context=ssl.create_default_context()),
    "requests": lambda port: requests.get(f"https://localhost:{port}/"),
    "urllib3": urllib3_,
    "httpx": lambda port: httpx.get(f"https://localhost:{port}/"),
    "httpx, async": httpx_async,
    "aiohttp": aiohttp_,
    "websockets": lambda port: websockets.sync.client.connect(f"wss://localhost:{port}/", proxy=None),
    "websockets, async": lambda port: websockets.connect(f"wss://localhost:{port}/", proxy=None),
    "redis": redis_,
    "redis, async": redis_async,
    "valkey": valkey_,
    "trio": lambda port: trio.run(trio_, port),
    "anyio": lambda port: anyio.connect_tcp("localhost", port, tls=True),
    "ldap3": ldap3_,
    "pika": pika_,
}


def over_tls(port, **more):
    return {name: judged(lambda dial=dial: dial(port)) for name, dial in (OVER_TLS | more).items()}


class TestTLS:
    def test_certificate(self):
        with web.serve("https") as server:
            found = over_tls(server.port, grpc=grpc_)
        assert set(found.values()) == {CERTIFICATE}, found

    def test_server_speaks_no_tls(self):
        with serving(None, b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
            found = over_tls(port)
        assert set(found.values()) == {NO_TLS}, found

    def test_server_hangs_up(self):
        with serving(hang_up) as port:
            found = over_tls(port)
        assert set(found.values()) <= {CLOSED, RESET, ("TRANSIENT", "broken_pipe")}, found


# --- Scripted servers ------------------------------------------------------------------------------------


def http_status(status):
    return f"HTTP/1.1 {status} Reason\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()


async def aiohttp_websocket(port):
    async with aiohttp.ClientSession() as session:
        await session.ws_connect(f"http://{HOST}:{port}/")


WEBSOCKETS = {
    "websockets": lambda port: websockets.sync.client.connect(f"ws://{HOST}:{port}/", proxy=None),
    "websockets, async": lambda port: websockets.connect(f"ws://{HOST}:{port}/", proxy=None),
    "aiohttp": aiohttp_websocket,
}


@pytest.mark.parametrize("name", WEBSOCKETS)
@pytest.mark.parametrize(
    ("status", "expected"), [(500, UNAVAILABLE), (502, UNAVAILABLE), (503, UNAVAILABLE), (504, UNAVAILABLE)]
)
def test_websocket_that_will_be_served_later(name, status, expected):
    with serving(None, http_status(status)) as port:
        assert judged(lambda: WEBSOCKETS[name](port)) == expected


@pytest.mark.parametrize("name", WEBSOCKETS)
@pytest.mark.parametrize("status", [200, 401, 403, 404, 426, 501])
def test_websocket_that_is_refused(name, status):
    with serving(None, http_status(status)) as port:
        verdict, _ = judged(lambda: WEBSOCKETS[name](port))
    assert verdict == ("PERMANENT" if status in (401, 403) or name != "aiohttp" else "UNKNOWN")


def amqp(class_and_method, *arguments):
    payload = struct.pack(">HH", *class_and_method) + b"".join(arguments)
    return struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce"


def amqp_close(code):
    return amqp((10, 50), struct.pack(">HB", code, 2), b"no", struct.pack(">HH", 0, 0))


# connection.start: version 0-9, no properties, PLAIN, en_US; connection.tune: no limits.
START = amqp((10, 10), b"\0\x09", struct.pack(">I", 0), b"\0\0\0\x05PLAIN", b"\0\0\0\x05en_US")
TUNE = amqp((10, 30), struct.pack(">HIH", 2047, 131072, 60))


async def aio_pika_(port):
    aio_pika = pytest.importorskip("aio_pika")
    await aio_pika.connect(host=HOST, port=port, timeout=5)


AMQP = {
    "pika": lambda port: pika.BlockingConnection(pika.ConnectionParameters(HOST, port)),
    "aio-pika": aio_pika_,
}


# aiormq drops what a broker says instead of connection.open-ok.
UNREADABLE = ("UNKNOWN", "aiormq.exceptions.InvalidFrameError")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        # How RabbitMQ refuses the login of a client that did not say that it reads connection.close; aiormq says so.
        ([None, START, None], {"pika": DENIED, "aio-pika": CLOSED}),
        ([None, START, None, amqp_close(403), None], {"pika": DENIED, "aio-pika": DENIED}),
        (
            [None, START, None, TUNE, None, amqp_close(530), None],
            {"pika": ("PERMANENT", "unknown_database"), "aio-pika": UNREADABLE},
        ),
        ([None, START, None, TUNE, None, amqp_close(320), None], {"pika": UNAVAILABLE, "aio-pika": UNREADABLE}),
        ([hang_up], {"pika": CLOSED, "aio-pika": CLOSED}),
    ],
    ids=["hangs up after the login", "access refused", "not allowed", "connection forced", "hangs up at once"],
)
@pytest.mark.parametrize("name", AMQP)
def test_amqp(name, steps, expected):
    logging.disable(logging.CRITICAL)
    try:
        with serving(*steps) as port:
            assert judged(lambda: AMQP[name](port)) == expected[name]
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize(("code", "expected"), [(3, "TRANSIENT"), (4, "PERMANENT"), (5, "PERMANENT")])
def test_mqtt(code, expected):
    aiomqtt = pytest.importorskip("aiomqtt")

    async def connect():
        async with aiomqtt.Client(HOST, port, timeout=5):
            pass

    with serving(None, bytes([0x20, 2, 0, code])) as port:
        verdict, _ = judged(connect)
    assert verdict == expected


def test_nats_forgets_why():
    async def connect():
        once_more = {"max_reconnect_attempts": 1, "reconnect_time_wait": 0.01}
        await nats.connect(f"nats://{HOST}:{port}", error_cb=quiet, connect_timeout=5, **once_more)

    async def quiet(error):
        pass

    with serving(b'INFO {"auth_required":true}\r\n', None, b"-ERR 'Authorization Violation'\r\n") as port:
        assert judged(connect) == UNAVAILABLE


def ftp(port):
    with ftplib.FTP() as client:
        client.connect(HOST, port, timeout=5)
        client.login("user", "wrong")


def smtp(port):
    with smtplib.SMTP(HOST, port, timeout=5) as client:
        client.login("user", "wrong")


HELLO = b"220 ready\r\n"


@pytest.mark.parametrize(
    ("client", "steps", "expected"),
    [
        (ftp, [b"421 too many connections\r\n"], UNAVAILABLE),
        (ftp, [HELLO, None, b"331 password?\r\n", None, b"530 denied\r\n"], DENIED),
        (smtp, [b"421 try later\r\n"], UNAVAILABLE),
        (smtp, [HELLO, None, b"250-here\r\n250 AUTH PLAIN\r\n", None, b"535 denied\r\n", None], DENIED),
    ],
)
def test_mail_and_files(client, steps, expected):
    with serving(*steps) as port:
        assert judged(lambda: client(port)) == expected


@pytest.mark.parametrize(("code", "expected"), [(49, DENIED), (51, UNAVAILABLE), (52, UNAVAILABLE)])
def test_ldap(code, expected):
    def bind(port):
        server = ldap3.Server(HOST, port, connect_timeout=5)
        connection = ldap3.Connection(server, "cn=user", "wrong", raise_exceptions=True)
        try:
            connection.bind()
        finally:
            connection.unbind()

    def answer(connection):
        number = connection.recv(1000)[4]  # of the request
        connection.sendall(bytes([0x30, 12, 2, 1, number, 0x61, 7, 10, 1, code, 4, 0, 4, 0]))

    with serving(answer, None) as port:
        assert judged(lambda: bind(port)) == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([None, b"\5\0", None, b"\5\5\0\1" + bytes(6)], REFUSED),
        ([None, b"\5\0", None, b"\5\4\0\1" + bytes(6)], ("TRANSIENT", "host_unreachable")),
        ([None, b"\5\0", None, b"\5\3\0\1" + bytes(6)], ("TRANSIENT", "network_unreachable")),
        ([None, b"\5\xff"], DENIED),
        ([None, b"\5\0", None, b"\5\2\0\1" + bytes(6)], ("UNKNOWN", "socks.SOCKS5Error")),
    ],
    ids=["refused", "host", "network", "login", "ruleset"],
)
def test_socks(steps, expected):
    def connect(port):
        with socks.socksocket() as sock:
            sock.set_proxy(socks.SOCKS5, HOST, port)
            sock.connect(("192.0.2.1", 80))

    with serving(*steps) as port:
        verdict, kind = judged(lambda: connect(port))
    assert (verdict, kind) == expected or (verdict, expected[0]) == ("UNKNOWN", "UNKNOWN")


# --- Real servers in Python ------------------------------------------------------------------------------


class DeniesAll(paramiko.ServerInterface):
    def check_auth_password(self, username, password):
        return paramiko.AUTH_FAILED


def test_ssh_login():
    def handle(connection):
        transport = paramiko.Transport(connection)
        transport.add_server_key(paramiko.ECDSAKey.generate())
        transport.start_server(server=DeniesAll())
        over.wait(5)
        transport.close()
        transport.join(5)

    def connect(port):
        with paramiko.SSHClient() as client:
            client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
            client.connect(HOST, port, "user", "wrong", look_for_keys=False, allow_agent=False)

    over = threading.Event()
    with serving(handle) as port:
        try:
            assert judged(lambda: connect(port)) == DENIED
        finally:
            over.set()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, DENIED),
        (grpc.StatusCode.PERMISSION_DENIED, DENIED),
        (grpc.StatusCode.UNAVAILABLE, UNAVAILABLE),
        (grpc.StatusCode.UNIMPLEMENTED, ("UNKNOWN", "grpc._channel._InactiveRpcError")),
    ],
)
def test_grpc(code, expected):
    def answer(request, context):
        context.abort(code, "no")

    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        handler = grpc.method_handlers_generic_handler(
            "service", {"method": grpc.unary_unary_rpc_method_handler(answer)}
        )
        server.add_generic_rpc_handlers([handler])
        port = server.add_insecure_port(f"{HOST}:0")
        server.start()
        try:
            with grpc.insecure_channel(f"{HOST}:{port}") as channel:
                assert judged(lambda: channel.unary_unary("/service/method")(b"", timeout=5)) == expected
        finally:
            server.stop(None).wait()


@pytest.mark.parametrize(
    ("code", "expected"),
    [(18, "PERMANENT"), (13, "PERMANENT"), (91, "TRANSIENT"), (11600, "TRANSIENT"), (1, "UNKNOWN")],
)
def test_mongodb_code(code, expected):
    def fail():
        raise pymongo.errors.OperationFailure("no", code)

    assert judged(fail)[0] == expected
