"""One look at a server, on real sockets."""

import asyncio
import contextlib
import errno
import os
import re
import socket
import ssl
import threading
import time
from types import SimpleNamespace

import pytest
import trustme

import safedial
from safedial.cli.wait import http, probe, threads, words
from safedial.cli.wait.progress import NotReady
from safedial.cli.wait.targets import Target
from tests.support import faults, handlers
from tests.support.handlers import serving
from tests.support.plain import eventually

unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")


def look(target, **asked):
    """Look once, with every task and transport closed at the end: the loop reports those that are not."""
    steps = []
    if isinstance(target, int):
        target = Target("", "127.0.0.1", target)
    asyncio.run(asyncio.wait_for(probe.probe(target, steps.append, probe.Asked(**asked)), 30), debug=True)
    return steps


@pytest.fixture
def impatient(monkeypatch):
    for limit in ("_ANSWER", "_CONNECT"):
        monkeypatch.setattr(probe, limit, 0.05)


@pytest.fixture
def certificates(tmp_path):
    """A server's context, and the file of the authority that signed its certificate."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return context, str(tmp_path / "ca.pem")


def test_accepts(server, steering):
    look(server.getsockname()[1])


def test_name(server):
    look(Target("", "localhost", server.getsockname()[1]))


def test_refused(dead_port):
    with pytest.raises(ConnectionRefusedError):
        look(dead_port)


def test_self_connect_is_not_ready(means, dead_port, steering):
    """One round alone: `run` begins the next."""
    with faults.self_connect(means, dead_port) as fault, pytest.raises(safedial.SelfConnectError):
        look(dead_port)
    assert fault.triggered == 1
    faults.assert_server_can_bind("127.0.0.1", dead_port)


def test_silent_address(black_hole, impatient):
    with pytest.raises(TimeoutError, match="timed out"):
        look(black_hole.getsockname()[1])


def test_names_other_address_is_not_kept_waiting_by_a_silent_one(monkeypatch):
    with faults.black_hole_and_server() as (silent, server):
        both = [faults.tcp(*each.getsockname()[:2]) for each in (silent, server)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: both)
        monkeypatch.setattr(probe, "_CONNECT", 60)
        target = Target("", "db", server.getsockname()[1])
        asyncio.run(asyncio.wait_for(probe.probe(target, print, probe.Asked()), 10))


@pytest.mark.parametrize("handler", [handlers.close, handlers.half_close], ids=lambda handler: handler.__name__)
def test_stays_sees_a_forwarder_close_again(handler):
    with serving(handler) as port:
        look(port)
        with pytest.raises(NotReady, match="closed it again") as caught:
            look(port, stays=20)
    assert caught.value.hint == words.BEHIND


def test_stays_sees_a_reset():
    with serving(handlers.reset) as port, pytest.raises(ConnectionResetError):
        look(port, stays=20)


@pytest.mark.parametrize("handler", [handlers.wait, handlers.flood], ids=lambda handler: handler.__name__)
def test_stays(handler):
    with serving(handler) as port:
        (step,) = look(port, stays=0.05)
        assert str(step) == "connected; waiting to see whether it stays so"
        assert look(port) == []


def test_connection_that_the_kernel_gave_up():
    """Its error is a TimeoutError, as that of a time limit is."""

    async def read():
        reader = asyncio.StreamReader()
        reader.set_exception(OSError(errno.ETIMEDOUT, "Connection timed out"))  # as a transport does
        await probe._stays(reader, 20)

    with pytest.raises(TimeoutError, match="Connection timed out"):
        asyncio.run(read())


def test_expect():
    with serving(handlers.say(b"SSH-2", b".0-Open", b"SSH_9.2\r\n")) as port:
        look(port, expect="SSH-2.0-")
        look(port, expect="SSH-2.0-", stays=0.05)


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"220 mail\x1b[2J\r\n", r"it sent '220 mail\x1b[2J\r\n', not 'SSH-'"),
        (b"x" * 4096 + b"SSH-", "it sent '" + "x" * 60 + "', not 'SSH-'"),
        (b"", "it sent nothing, not 'SSH-'"),
    ],
    ids=["another", "too late", "nothing"],
)
@pytest.mark.parametrize("closes", [False, True], ids=["silent then", "closed then"])
def test_expected_text_is_not_sent(sent, says, closes, impatient):
    handler = (lambda sock: sock.sendall(sent)) if closes else handlers.say(sent)
    with serving(handler) as port, pytest.raises(NotReady, match=f"^{re.escape(says)}$") as caught:
        look(port, expect="SSH-")
    assert "Another server" in caught.value.hint


def test_banner_that_drips_has_an_end(impatient):
    def drip(sock):
        while True:
            sock.sendall(b"x")
            time.sleep(0.01)

    with serving(drip) as port, pytest.raises(NotReady, match=r"it sent 'x+', not 'SSH-'"):
        look(port, expect="SSH-")


def test_server_that_says_something_else_is_not_listened_to_for_long(monkeypatch):
    monkeypatch.setattr(probe, "_PAUSE", 0.01)
    with serving(handlers.say(b"220 mail\r\n")) as port, pytest.raises(NotReady, match="it sent '220 mail"):
        look(port, expect="SSH-")


def test_tls(certificates):
    there, ca = certificates
    with serving(handlers.tls(there, handlers.say(b"+OK"))) as port:
        look(port, tls=True, ca=ca, expect="+OK", stays=0.05)
        look(Target("", "127.0.0.1", port, tls=True), ca=ca)
        look(port, tls=True, insecure=True)
        with pytest.raises(ssl.SSLCertVerificationError):
            look(port, tls=True)


def test_tls_has_an_end(certificates):
    there, ca = certificates
    read = []

    def handler(sock):
        with there.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as inner:
            try:
                read.append(inner.recv(1))
            except OSError as error:
                read.append(error)

    with serving(handler) as port:
        look(port, tls=True, ca=ca)
        assert eventually(lambda: read)
    assert read == [b""]


@pytest.mark.parametrize("host", ["localhost.", "::1%lo"])
def test_tls_knows_no_trailing_dot_and_no_scope(tmp_path, monkeypatch, host):
    authority, there = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "::1").configure_cert(there)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with serving(handlers.tls(there, handlers.wait)) as port:
        # Not each resolver knows these names.
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [faults.tcp("127.0.0.1", port)])
        look(Target("", host, port), tls=True, ca=str(tmp_path / "ca.pem"))


def test_server_that_speaks_no_tls():
    with serving(handlers.say(b"220 mail\r\n")) as port, pytest.raises(ssl.SSLError):
        look(port, tls=True, insecure=True)


def test_tls_server_that_is_silent(impatient):
    with serving(handlers.wait) as port, pytest.raises(NotReady, match="no TLS handshake within") as caught:
        look(port, tls=True, insecure=True)
    assert caught.value.errno == errno.ETIMEDOUT
    assert "Does it speak TLS" in caught.value.hint


def test_ca_that_is_none(tmp_path, dead_port):
    (tmp_path / "empty").touch()
    for file in ("empty", "none"):
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / file))):
            look(dead_port, tls=True, ca=str(tmp_path / file))


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "asked"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", {}),
        (b"HTTP/1.0 200 OK\n\n", {}),
        (b"HTTP/1.1 302 Found\r\nlocation: /login\r\n\r\n", {}),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", {"statuses": {404}}),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 None\r\n\r\n", {}),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", {"statuses": {101}}),
        (b'HTTP/1.1 200 OK\r\n\r\n{"status": "UP"}', {"expect": '"UP"'}),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"UP"', {"expect": '"UP"'}),
        (CHUNKED + b'3\r\n"UP\r\n1\r\n"\r\n0\r\n\r\n', {"expect": '"UP"'}),
        (CHUNKED + b'ffff\r\n"UP"', {"expect": '"UP"'}),
    ],
    ids=["200", "lines end with LF", "redirect", "wanted", "interim", "101", "body", "length", "chunks", "chunk"],
)
def test_http(head, asked):
    with serving(handlers.answer(head)) as port:
        look(port, http="/health", **asked)


@pytest.mark.parametrize(
    ("head", "asked", "says", "hint"),
    [
        (b"HTTP/1.1 503 Unavailable\r\n\r\n", {}, "HTTP status 503", "says that it is not ready"),
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", {}, "HTTP status 401", "is --status 401 enough?"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", {}, "HTTP status 404", "has no such path"),
        (b"HTTP/1.1 200 OK\r\n\r\n", {"statuses": {204}}, "HTTP status 200", "--status 200"),
        (b"HTTP/2.0 200 OK\r\n\r\n", {}, r"no answer in HTTP: HTTP/2.0 200 OK\r\n\r\n", "It speaks HTTP, but not as"),
        (b"SSH-2.0-\x1b[2J\r\n\r\n", {}, r"no answer in HTTP: SSH-2.0-\x1b[2J\r\n\r\n", "https:// or --tls"),
        (b"", {}, "it closed the connection without an answer", words.BEHIND),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000, {}, "the head of its answer is larger than 64 KiB", ""),
        (b"HTTP/1.1 200 OK\r\na: " + b"b" * 200_000, {}, "the head of its answer is larger than 64 KiB", ""),
        (
            b'HTTP/1.1 200 OK\r\n\r\n{"status": "DOWN"}',
            {"expect": '"UP"'},
            """it sent '{"status": "DOWN"}', not '"UP"'""",
            "Another server",
        ),
    ],
    ids=["503", "401", "404", "not wanted", "HTTP/2", "no HTTP", "nothing", "many headers", "long header", "body"],
)
def test_http_answer_that_is_not_wanted(head, asked, says, hint):
    with serving(handlers.answer(head)) as port, pytest.raises(NotReady, match=f"^{re.escape(says)}$") as caught:
        look(port, http="/", **asked)
    assert hint in caught.value.hint


@pytest.mark.parametrize("head", [b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Le"], ids=len)
def test_http_answer_that_is_cut(head):
    with serving(handlers.answer(head)) as port, pytest.raises(NotReady, match="before its answer was whole") as caught:
        look(port, http="/")
    assert caught.value.hint == words.BEHIND


def test_text_that_is_no_utf_8():
    text = b"caf\xe9".decode(errors="surrogateescape")  # as Python has it in sys.argv
    with serving(handlers.say(b"in a caf\xe9")) as port:
        look(port, expect=text)


def test_http_server_that_is_silent(impatient):
    with (
        serving(handlers.say(b"HTTP/1.1 200 OK\r\n")) as port,
        pytest.raises(NotReady, match="no answer in HTTP within") as caught,
    ):
        look(port, http="/")
    assert caught.value.errno == errno.ETIMEDOUT
    assert "still starting" in caught.value.hint


def test_request():
    requests = []
    with serving(handlers.answer(b"HTTP/1.1 200 OK\r\n\r\n", requests=requests)) as port:
        look(Target("", "localhost", port, http="/of/the/url"))
        look(Target("", "localhost", port, http="/of/the/url"), http="/health?full=1")
    for request, path in zip(requests, ["/of/the/url", "/health?full=1"], strict=True):
        first, *headers = request.decode().removesuffix("\r\n\r\n").split("\r\n")
        assert first == f"GET {path} HTTP/1.1"
        assert {f"Host: localhost:{port}", "Connection: close"} <= set(headers)


@pytest.mark.parametrize(("tls", "port", "host"), [(False, 80, "web"), (True, 443, "web"), (True, 80, "web:80")])
def test_host_header_has_no_port_that_is_the_default(tls, port, host):
    sent = []

    async def ask():
        reader, writer = asyncio.StreamReader(), SimpleNamespace(write=sent.append)
        reader.feed_data(b"HTTP/1.1 200 OK\r\n\r\n")
        await http.ask(reader, writer, "web", port, "/", tls=tls)

    asyncio.run(ask())
    assert f"\r\nHost: {host}\r\n".encode() in sent[0]


def test_https(certificates):
    there, ca = certificates
    with serving(handlers.tls(there, handlers.answer(b"HTTP/1.1 200 OK\r\n\r\n"))) as port:
        look(Target("", "localhost", port, tls=True, http="/"), ca=ca)


def test_stays_asks_an_http_server_once_more():
    """It may close each connection after its answer."""
    handler = handlers.answer(b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
    with serving(handler) as port, pytest.raises(NotReady, match="HTTP status 502"):
        look(port, http="/", stays=0.01)


def test_path_that_is_none():
    with serving(handlers.wait) as port, pytest.raises(ValueError, match="can't contain control characters"):
        look(port, http="/a b\r\n")


@contextlib.contextmanager
def unix_server(path, backlog=8):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(backlog)
        yield server


@unix
def test_unix_socket(tmp_path):
    path = str(tmp_path / "s")
    with unix_server(path):
        look(Target("", path=path), stays=0.01)
    with pytest.raises(ConnectionRefusedError):  # the file is still there
        look(Target("", path=path))


@unix
def test_unix_socket_with_http(tmp_path):
    path, requests = str(tmp_path / "s"), []
    with unix_server(path) as server:

        def serve():
            with server.accept()[0] as accepted:
                handlers.answer(b"HTTP/1.1 200 OK\r\n\r\n", requests=requests)(accepted)

        thread = threading.Thread(target=serve)
        thread.start()
        look(Target("", path=path, http="/info"))
        thread.join()
    assert requests[0].startswith(b"GET /info HTTP/1.1\r\nHost: localhost\r\n")


@unix
def test_unix_socket_with_tls(tmp_path, certificates):
    there, ca = certificates
    path, names = str(tmp_path / "s"), []
    there.sni_callback = lambda _, name, *__: names.append(name)
    with unix_server(path) as server:

        async def both():
            looking = asyncio.create_task(probe.probe(Target("", path=path), print, probe.Asked(tls=True, ca=ca)))
            accepted, _ = await asyncio.to_thread(server.accept)
            await asyncio.to_thread(handlers.tls(there, lambda inner: inner.recv(1)), accepted)
            await looking

        asyncio.run(both())
    assert names == ["localhost"]


@unix
def test_unix_socket_that_is_not_there_yet(tmp_path):
    with pytest.raises(NotReady) as caught:
        look(Target("", path=str(tmp_path / "s")))
    assert caught.value.errno == errno.ENOENT
    assert "shared with its container?" in caught.value.hint


@unix
@pytest.mark.skipif("os.geteuid() != 0", reason="root makes a socket that another user may not use")
def test_unix_socket_that_is_not_open_to_this_user_yet(tmp_path):
    """php-fpm, docker and others bind their socket first, and set its rights then."""
    path = str(tmp_path / "s")
    with unix_server(path):
        os.chmod(path, 0o600)
        os.seteuid(65534)
        try:
            with pytest.raises((NotReady, PermissionError)) as caught:
                look(Target("", path=path))
        finally:
            os.seteuid(0)
    assert caught.value.errno == errno.EACCES
    assert isinstance(caught.value, NotReady)
    assert f"see the rights of {path}" in caught.value.hint


@unix
@pytest.mark.skipif("sys.platform != 'linux'", reason="Linux's answer of a full backlog is EAGAIN")
def test_unix_socket_with_a_full_backlog(tmp_path):
    path = str(tmp_path / "s")
    with unix_server(path, backlog=0), contextlib.ExitStack() as stack:
        filler = stack.enter_context(socket.socket(socket.AF_UNIX))
        filler.connect(path)
        with pytest.raises(NotReady) as caught:
            look(Target("", path=path))
    assert caught.value.errno == errno.EAGAIN
    assert "busy" in caught.value.hint


def test_name_that_does_not_resolve(monkeypatch):
    def resolve(*_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(threads, "_asked", {})  # a wait that was cut short leaves its question
    with pytest.raises(socket.gaierror, match="Name or service not known"):
        look(Target("", "db", 5432))
    assert not threads._asked


def test_name_server_that_is_slow_is_asked_once(monkeypatch, server):
    """An answer that comes after the look that asked is the next look's."""
    go, asked = threading.Event(), []

    def resolve(*question):
        asked.append(question)
        go.wait()
        return [faults.tcp(*server.getsockname())]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(threads, "_asked", {})  # a wait that was cut short leaves its question
    monkeypatch.setattr(threads, "_PATIENCE", 0.01)
    target = Target("", "db", server.getsockname()[1])
    for _ in range(3):
        with pytest.raises(socket.gaierror, match="the name server does not answer") as caught:
            look(target)
        assert caught.value.errno == socket.EAI_AGAIN
    go.set()
    monkeypatch.setattr(threads, "_PATIENCE", 60)
    look(target)
    assert len(asked) == 1
    assert not threads._asked
