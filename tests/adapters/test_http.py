"""The stdlib's clients of HTTP, SMTP and FTP, with servers of a few lines each."""

import contextlib
import errno
import ftplib
import functools
import http.client
import inspect
import io
import smtplib
import socket
import ssl
import sys
import urllib.error
import urllib.request

import pytest

import safedial
from safedial import testing
from safedial.adapters import http as adapter
from tests.support import faults, web

HOST = "127.0.0.1"
MAIL = "From: a@example.org\r\nTo: b@example.org\r\n\r\nhello\r\n"


@pytest.fixture(autouse=True)
def _no_proxy_of_the_systems(monkeypatch):
    for name in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@functools.cache
def context():
    return web.client_context()


@functools.cache
def server_context():
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    web.authority().issue_cert("localhost", HOST).configure_cert(made)
    return made


def smtp_server(connection, got=None, tls=False):
    """Serve enough of SMTP to take a message, with TLS from the beginning or after STARTTLS."""
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: connection.close())
        if tls:
            connection = server_context().wrap_socket(connection, server_side=True)
        connection.sendall(b"220 ready\r\n")
        while line := _line(connection):
            word = line.split()[0].upper()
            if word == "DATA":
                connection.sendall(b"354 go on\r\n")
                body = list(iter(functools.partial(_line, connection), ".\r\n"))
                if got is not None:
                    got.append("".join(body))
            answers = {"EHLO": "250-hello\r\n250 STARTTLS", "STARTTLS": "220 go on", "QUIT": "221 bye"}
            connection.sendall((answers.get(word, "250 ok") + "\r\n").encode())
            if word == "STARTTLS":
                connection = server_context().wrap_socket(connection, server_side=True)
            elif word == "QUIT":
                return


def ftp_server(connection, data_port=None):
    """Serve enough of FTP to send one file. Clients are told to connect to *data_port*, if given, for the data."""
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: connection.close())
        host = connection.getsockname()[0]
        listener, protected = None, False
        connection.sendall(b"220 ready\r\n")
        while line := _line(connection):
            word = line.split()[0]
            if word == "AUTH":
                connection.sendall(b"234 go on\r\n")
                connection = server_context().wrap_socket(connection, server_side=True)
            elif word == "PASV":
                port = data_port
                if port is None:
                    listener = stack.enter_context(socket.create_server((host, 0)))
                    port = listener.getsockname()[1]
                numbers = f"{host.replace('.', ',')},{port >> 8},{port & 255}"
                connection.sendall(f"227 Entering Passive Mode ({numbers}).\r\n".encode())
            elif word in ("RETR", "LIST"):
                data, _ = listener.accept()
                connection.sendall(b"150 here it comes\r\n")
                if protected:
                    data = server_context().wrap_socket(data, server_side=True)
                with data:
                    data.sendall(b"hello")
                    if protected:
                        data.unwrap().close()
                connection.sendall(b"226 done\r\n")
            elif word == "QUIT":
                connection.sendall(b"221 bye\r\n")
                return
            else:
                protected = protected or line == "PROT P\r\n"
                answers = {"USER": "331 password?", "PASS": "230 welcome"}
                connection.sendall((answers.get(word, "200 ok") + "\r\n").encode())


def _line(connection):
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := connection.recv(1)):
            raise ConnectionAbortedError("the client went away")
        line += byte
    return line.decode()


# Each client, ours or the stdlib's, returns what it got from host and port.


def class_of(ours, module, name):
    return getattr(adapter, f"Safe{name}") if ours else getattr(module, name)


def http_get(ours, host, port, cls="HTTPConnection", **kwds):
    made = class_of(ours, http.client, cls)(host, port, **{"timeout": 5, **kwds})
    with contextlib.closing(made) as connection:
        connection.request("GET", "/")
        return connection.getresponse().read()


def https_get(ours, host, port, **kwds):
    return http_get(ours, host, port, "HTTPSConnection", context=context(), **kwds)


def opened(ours, host, port, scheme="http", path="", timeout=5):
    opener = adapter.build_opener(context=context()) if ours else urllib.request.build_opener()
    with opener.open(f"{scheme}://{host}:{port}/{path}", timeout=timeout) as response:
        return response.read()


def opened_https(ours, host, port, **kwds):
    return opened(ours, host, port, "https", **kwds)


def opened_ftp(ours, host, port, **kwds):
    return opened(ours, host, port, "ftp", "file", **kwds)


def mailed(ours, host, port, cls="SMTP", starttls=False, **kwds):
    with class_of(ours, smtplib, cls)(host, port, local_hostname="client", **{"timeout": 5, **kwds}) as smtp:
        if starttls:
            smtp.starttls(context=context())
            assert isinstance(smtp.sock, ssl.SSLSocket)
        return smtp.sendmail("a@example.org", "b@example.org", MAIL)


def mailed_over_tls(ours, host, port, **kwds):
    return mailed(ours, host, port, "SMTP_SSL", context=context(), **kwds)


def fetched(ours, host, port, cls="FTP", **kwds):
    with class_of(ours, ftplib, cls)(timeout=5) as ftp:
        ftp.connect(host, port, **kwds)
        ftp.login("ada", "secret")
        if cls == "FTP_TLS":
            ftp.prot_p()
        got = io.BytesIO()
        ftp.retrbinary("RETR file", got.write)
        return got.getvalue()


def fetched_over_tls(ours, host, port, **kwds):
    return fetched(ours, host, port, "FTP_TLS", **kwds)


WAYS = [http_get, https_get, opened, opened_https, opened_ftp, mailed, mailed_over_tls, fetched, fetched_over_tls]


def failure(way, ours, host, port, **kwds):
    """Return the type of the error that is raised, and the kernel's error behind it."""
    with pytest.raises(OSError) as caught:  # noqa: PT011  # compared
        way(ours, host, port, **kwds)
    error = caught.value
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, urllib.error.URLError):
        reason = reason.reason
    if isinstance(reason, str):
        assert way is opened_ftp
        assert sys.version_info >= (3, 14)
        reason = error.__cause__
    return type(error), reason


class TestEveryWay:
    def test_is_never_connected_to_itself(self, force, steering):
        for way in WAYS:
            fault = force(port := testing.dead_port())
            kind, reason = failure(way, True, HOST, port)
            assert isinstance(reason, ConnectionRefusedError), way
            assert issubclass(kind, ConnectionRefusedError) or kind is urllib.error.URLError, way
            assert fault.triggered, way
            faults.assert_server_can_bind(HOST, port)
        testing.assert_no_self_connects()

    def test_stays_refused(self, steering):
        with testing.refused_port() as port:
            for way in WAYS:
                ours, theirs = failure(way, True, HOST, port), failure(way, False, HOST, port)
                assert ours[0] is theirs[0], way
                assert type(ours[1]) is type(theirs[1]) is ConnectionRefusedError, way
                assert ours[1].errno == theirs[1].errno == errno.ECONNREFUSED, way

    def test_unknown_host(self):
        for way in WAYS:
            ours, theirs = (failure(way, which, "no-such-name.invalid", 80) for which in (True, False))
            assert ours[0] is theirs[0], way
            assert type(ours[1]) is type(theirs[1]) is socket.gaierror, way

    def test_times_out(self):
        with faults.full_listener() as server:
            for way in WAYS:
                ours, theirs = (failure(way, which, *server.getsockname(), timeout=0.02) for which in (True, False))
                assert ours[0] is theirs[0], way
                assert type(ours[1]) is type(theirs[1]) is TimeoutError, way


@pytest.mark.parametrize("scheme", ["http", "https"])
class TestHTTP:
    def test_name_with_two_addresses(self, scheme):
        with web.serve(scheme) as server:
            way = {"http": http_get, "https": https_get}[scheme]
            assert way(True, "localhost", server.port) == b"hello"
            assert opened(True, "localhost", server.port, scheme) == b"hello"

    def test_one_connection_serves_many_requests(self, scheme):
        more = {"context": context()} if scheme == "https" else {}
        cls = {"http": adapter.SafeHTTPConnection, "https": adapter.SafeHTTPSConnection}[scheme]
        with web.serve(scheme) as server, contextlib.closing(cls(HOST, server.port, **more)) as connection:
            for body in (b"one", b"two"):
                connection.request("POST", "/", body)
                assert connection.getresponse().read() == body
            assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert server.connections == 1

    def test_source_address(self, scheme):
        with web.serve(scheme) as server:
            way = {"http": http_get, "https": https_get}[scheme]
            way(True, HOST, server.port, source_address=("127.0.0.2", 0))
            way(True, HOST, server.port, dialer=safedial.Dialer(source_address=("127.0.0.3", 0)))
            assert [seen[2] for seen in server.seen] == ["127.0.0.2", "127.0.0.3"]

    def test_tunnel(self, scheme):
        more = {"context": context()} if scheme == "https" else {}
        cls = {"http": adapter.SafeHTTPConnection, "https": adapter.SafeHTTPSConnection}[scheme]
        with web.serve(scheme) as server, web.serve() as proxy:
            with contextlib.closing(cls(HOST, proxy.port, **more)) as connection:
                connection.set_tunnel("localhost", server.port)
                connection.request("GET", "/")
                assert connection.getresponse().read() == b"hello"
            assert proxy.seen[0][:2] == ("CONNECT", f"localhost:{server.port}")


class TestSettings:
    def test_timeout(self, server):
        for kwds, expected in [
            ({}, None),
            ({"timeout": 7}, 7),
            ({"dialer": safedial.Dialer(timeout=8)}, 8),
            ({"dialer": safedial.Dialer(timeout=8), "timeout": 7}, 7),
            ({"dialer": safedial.Dialer(timeout=8), "timeout": None}, None),
        ]:
            with contextlib.closing(adapter.SafeHTTPConnection(*server.getsockname(), **kwds)) as connection:
                connection.connect()
                assert connection.sock.gettimeout() == expected

    def test_options_and_events(self, server):
        events = []
        keepalive = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        dialer = safedial.Dialer(socket_options=[keepalive], on_event=events.append)
        with contextlib.closing(adapter.SafeHTTPConnection(*server.getsockname(), dialer=dialer)) as connection:
            connection.connect()
            assert connection.sock.getsockopt(*keepalive[:2])
        assert events

    def test_bad_arguments(self):
        for cls in (adapter.SafeHTTPConnection, adapter.SafeHTTPSConnection, adapter.SafeSMTP, adapter.SafeSMTP_SSL):
            with pytest.raises(TypeError, match="dialer"):
                cls(HOST, 1, dialer=5)
        for bad in ({"dialer": 5}, {"context": 5}):
            with pytest.raises(TypeError, match=next(iter(bad))):
                adapter.build_opener(**bad)

    def test_policy_recovers(self):
        policy = safedial.reconnect(within=5, first=0.001, cap=0.01)
        dialer = safedial.Dialer(policy=policy)
        with testing.Outage(smtp_server) as server:
            server.refuse_for(dials=2)
            assert mailed(True, *server.address, dialer=dialer) == {}

    def test_ftp_recovers_when_wrapped(self):
        policy = safedial.reconnect(within=5, first=0.001, cap=0.01)
        with testing.Outage(ftp_server) as server:
            server.refuse_for(dials=2)
            assert safedial.wrap(fetched, policy=policy)(True, *server.address) == b"hello"


class TestOpener:
    def test_dials_with_its_dialer(self):
        for scheme in ("http", "https"):
            events = []
            opener = adapter.build_opener(dialer=safedial.Dialer(on_event=events.append), context=context())
            with web.serve(scheme) as server, opener.open(server.url, timeout=5) as response:
                assert response.read() == b"hello"
            assert [event.port for event in events] == [server.port]

    def test_proxy(self):
        with web.serve("https") as server, web.serve() as proxy:
            handler = urllib.request.ProxyHandler({"https": proxy.url})
            opener = adapter.build_opener(handler, context=context())
            with opener.open(f"https://localhost:{server.port}/", timeout=5) as response:
                assert response.read() == b"hello"
            assert [seen[0] for seen in proxy.seen] == ["CONNECT"]

    def test_dead_proxy(self, force, steering):
        for scheme in ("http", "https"):
            force(port := testing.dead_port())
            opener = adapter.build_opener(urllib.request.ProxyHandler({scheme: f"http://{HOST}:{port}"}))
            with pytest.raises(urllib.error.URLError) as caught:
                opener.open(f"{scheme}://no-such-name.invalid/", timeout=5)
            assert isinstance(caught.value.reason, safedial.SelfConnectError)
            faults.assert_server_can_bind(HOST, port)

    def test_handlers_of_the_caller_replace_ours_and_are_guarded(self, force, dead_port):
        class Theirs(urllib.request.HTTPHandler):
            def http_open(self, req):
                calls.append(req.full_url)
                return super().http_open(req)

        calls = []
        force(dead_port)
        for theirs in (Theirs, Theirs()):
            with pytest.raises(urllib.error.URLError, match="refused"):
                adapter.build_opener(theirs).open(f"http://{HOST}:{dead_port}/")
        assert len(calls) == 2
        faults.assert_server_can_bind(HOST, dead_port)

    def test_has_all_handlers_of_urllibs_opener(self):
        ours, theirs = adapter.build_opener(), urllib.request.build_opener()
        bases = [base for base in map(type, theirs.handlers) if base.__name__ != "UnknownHandler"]
        assert all(any(isinstance(handler, base) for handler in ours.handlers) for base in bases)
        assert len(ours.handlers) == len(theirs.handlers)
        assert inspect.signature(ours.open) == inspect.signature(theirs.open)


class TestMail:
    def test_normal_use(self, steering):
        starttls = functools.partial(mailed, starttls=True)
        for way, tls in ((mailed, False), (mailed_over_tls, True), (starttls, False)):
            got = []
            with testing.Outage(functools.partial(smtp_server, got=got, tls=tls)) as server:
                assert way(True, "localhost", server.port) == {}
                assert way(True, HOST, server.port, source_address=("127.0.0.2", 0)) == {}
            assert got == [MAIL] * 2

    def test_no_timeout_of_0(self):
        words = []
        for ours in (True, False):
            with pytest.raises(ValueError, match="timeout=0") as caught:
                mailed(ours, HOST, 1, timeout=0)
            words.append(str(caught.value))
        assert words[0] == words[1]

    def test_prints_the_address_for_debugging(self, capsys):
        told = []
        with testing.refused_port() as port:
            for ours in (True, False):
                smtp = class_of(ours, smtplib, "SMTP")()
                smtp.set_debuglevel(1)
                with pytest.raises(ConnectionRefusedError):
                    smtp.connect(HOST, port)
                told.append(capsys.readouterr().err)
        assert told[0] == told[1] != ""


class TestFiles:
    def test_normal_use(self, steering):
        with testing.Outage(ftp_server) as server:
            for way in (fetched, fetched_over_tls, opened_ftp):
                assert way(True, "localhost", server.port) == b"hello"
            assert fetched(True, *server.address, source_address=("127.0.0.2", 0)) == b"hello"

    def test_data_connection_is_never_connected_to_itself(self, force, steering):
        """Without urllib's ftp://, which leaks its control connection if the data connection is refused."""
        for way in (fetched, fetched_over_tls):
            fault = force(port := testing.dead_port())
            with testing.Outage(functools.partial(ftp_server, data_port=port)) as server:
                _, reason = failure(way, True, *server.address)
            assert isinstance(reason, ConnectionRefusedError)
            assert fault.triggered
            faults.assert_server_can_bind(HOST, port)
