"""The two kinds of server: a function's threads, and a command."""

import contextlib
import errno
import os
import shutil
import signal
import socket
import sys
import threading
import time

import freezegun
import pytest

from safedial import testing
from safedial.testing import servers
from tests.support import left
from tests.support.plain import answers, ask, eventually

HTTP = [sys.executable, "-m", "http.server", "--bind", "{host}", "{port}"]


def assert_answers_after_start_only(server, sock, answer):
    sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        sock.recv(10)
    server.start()
    sock.settimeout(10)
    assert sock.recv(10) == answer


class TestFunction:
    @pytest.mark.parametrize("how", ["stop", "kill"])
    def test_handlers_that_do_not_end(self, how):
        over = threading.Event()
        blocks = [lambda connection: over.wait(60), lambda connection: connection.sendall(bytes(10**8))]
        for handler in blocks:
            with testing.Outage(handler) as server, socket.create_connection(server.address, 10) as sock:
                sock.recv(1) if handler is blocks[1] else time.sleep(0.05)
                getattr(server, how)()
                with contextlib.suppress(ConnectionResetError):
                    while sock.recv(2**20):
                        pass
            over.set()

    def test_a_handler_may_end_its_own_server(self):
        def handler(connection):
            connection.recv(1)
            server.kill()

        with testing.Outage(handler) as server, socket.create_connection(server.address, 10) as sock:
            sock.sendall(b"x")
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""

    def test_a_handler(self):
        with testing.Outage(lambda connection: connection.sendall(b"220 ready")) as server:
            assert ask(server) == b"220 ready"

    @pytest.mark.parametrize("latency", [None, 0.001], ids=["at once", "late"])
    @pytest.mark.parametrize("end", ["reads", "stops it", "closes"])
    def test_what_a_handler_raises_is_raised_at_the_end(self, latency, end):
        def handler(connection):
            assert connection.recv(10) == b"HELLO", "not polite"

        server = testing.Outage(handler, latency=latency).__enter__()
        with socket.create_connection(server.address, 10) as sock:
            sock.sendall(b"hello")
            if end == "reads":
                assert sock.recv(1) == b""
        if end == "stops it":
            server.stop()
        with pytest.raises(AssertionError, match="not polite") as caught:
            server.__exit__(None, None, None)
        assert caught.value.__notes__ == [f"safedial: raised by the server on port {server.port}"]
        with server:  # the next time, nothing is left of it
            pass

    def test_what_a_handler_raises_is_an_error_of_its_test(self, pytester, monkeypatch):
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        pytester.makepyfile(
            """
            import socket

            def serve(connection):
                assert connection.recv(10) == b"HELLO"

            def test_it(outage):
                with socket.create_connection(outage(serve).address) as sock:
                    sock.sendall(b"hello")
            """
        )
        result = pytester.runpytest_subprocess("-W", "error", "-p", "safedial.pytest_plugin")
        result.assert_outcomes(passed=1, errors=1)
        result.stdout.fnmatch_lines(["*ERROR at teardown of test_it*", '*assert connection.recv(10) == b"HELLO"'])

    def test_an_end_of_file_that_comes_from_the_end_is_no_error_of_a_handler(self):
        """The connection of a client that lives on."""

        def handler(connection):
            while True:
                assert connection.recv(5) == b"hello"
                connection.sendall(b"hello")

        for end in ("stop", "kill", "__exit__"):
            with testing.Outage(handler) as server, socket.create_connection(server.address, 10) as sock:
                sock.sendall(b"hello")
                assert sock.recv(5) == b"hello"
                sock.sendall(b"hello" * 3)
                getattr(server, end)(*[None] * 3) if end == "__exit__" else getattr(server, end)()

    def test_beside_another_error_a_handler_s_is_told_as_of_a_thread(self, monkeypatch):
        told = []
        monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_value))
        failure = ZeroDivisionError()

        def handler(connection):
            raise failure

        server = testing.Outage(handler).__enter__()
        assert answers(server)
        server.__exit__(LookupError, LookupError(), None)
        assert told == [failure]
        server.start()  # not as a context manager: nobody would raise it
        assert answers(server)
        assert eventually(lambda: len(told) == 2)
        server.kill()

    def test_open_connections_freeze(self):
        with testing.Outage() as server, socket.create_connection(server.address, 10) as sock:
            for _ in range(2):
                sock.sendall(b"one")
                assert sock.recv(10) == b"one"
                server.freeze()
                sock.sendall(b"two")
                assert_answers_after_start_only(server, sock, b"two")

    def test_a_handler_that_was_busy_does_not_answer_while_frozen(self):
        def handler(connection):
            busy.set()
            done.wait(60)
            connection.sendall(b"220 ready")

        busy, done = threading.Event(), threading.Event()
        with testing.Outage(handler) as server, socket.create_connection(server.address, 10) as sock:
            busy.wait(10)
            server.freeze()
            done.set()
            assert_answers_after_start_only(server, sock, b"220 ready")

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_a_frozen_handler_ends_with_its_server(self, end):
        """It does not see what had come meanwhile."""
        seen = []
        with testing.Outage(lambda connection: seen.append(connection.recv(10))) as server:
            sock = socket.create_connection(server.address, 10)
            assert eventually(lambda: server._server._open)
            server.freeze()
            sock.sendall(b"two")
            (thread,) = server._server._open.values()
            getattr(server, end)()
            thread.join()
            sock.close()
        assert not seen

    def test_a_backlog_that_cannot_be_filled(self, monkeypatch):
        monkeypatch.setattr(servers, "_MOST", 0)
        with testing.Outage() as server:
            with pytest.raises(OSError, match="did not fill the backlog"):
                server.freeze()
            assert ask(server) == b"hello"

    def test_connections_have_no_timeout(self):
        """Neither the default timeout nor the listener's applies to a handler."""
        found = []
        socket.setdefaulttimeout(5)
        try:
            with testing.Outage(lambda sock: found.append(sock.gettimeout())) as server:
                assert answers(server)
                assert eventually(lambda: found)
        finally:
            socket.setdefaulttimeout(None)
        assert found == [None]

    def test_ended_connections_are_forgotten(self):
        with testing.Outage() as server:
            for _ in range(5):
                assert ask(server) == b"hello"
            assert eventually(lambda: not server._server._open)

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of descriptors")
    def test_clients_wait_while_no_descriptor_is_free(self, monkeypatch):
        """accept() fails at once, and the client stays in the backlog."""
        import resource

        failed = []
        accept = socket.socket.accept

        def counting(sock):
            try:
                return accept(sock)
            except OSError as error:
                if error.errno == errno.EMFILE:
                    failed.append(error)
                raise

        monkeypatch.setattr(socket.socket, "accept", counting)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with testing.Outage() as server, socket.socket() as sock:
            lowest = os.dup(sock.fileno())  # the lowest number that is free
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                sock.connect(server.address)
                for _ in range(10):
                    time.sleep(0.02)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            sock.settimeout(10)
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        assert 1 <= len(failed) < 50


class TestCommand:
    def test_a_command(self):
        with testing.Outage([sys.executable, "-m", "http.server", "--bind", "{host}", "{port}"], within=30) as server:
            assert ask(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")
            server.freeze()
            with pytest.raises(TimeoutError):
                socket.create_connection(server.address, 0.05)
            server.start()
            server.kill()
            with pytest.raises(ConnectionRefusedError):
                ask(server)
            server.start()
            server.stop()

    def test_a_command_that_fails_is_quoted(self):
        code = "print('cannot open the database'); raise SystemExit(3)"
        with pytest.raises(OSError, match="ended with status 3: cannot open the database"):
            testing.Outage([sys.executable, "-c", code, "{port}"], within=30).start()
        with pytest.raises(TimeoutError, match=r"did not listen within 0.1 s: it printed nothing"):
            testing.Outage([sys.executable, "-c", "import time; time.sleep(3600)", "{port}"], within=0.1).start()

    def test_a_password_in_the_command_is_not_shown(self):
        command = [sys.executable, "-c", "raise SystemExit(3)", "s3cret", "{port}"]
        with pytest.raises(TypeError) as wrong:
            testing.Outage([*command, 3])
        with pytest.raises(OSError, match="ended with status 3") as failed:
            testing.Outage(command, within=30).start()
        with pytest.raises(TimeoutError) as late:
            testing.Outage([sys.executable, "-c", "import time; time.sleep(3600)", *command[3:]], within=0.1).start()
        with pytest.raises(ValueError, match="server has no word") as nowhere:
            testing.Outage(command[:-1])
        outage = testing.Outage(command, port=4000)
        assert repr(outage) == "<Outage on port 4000>"
        for each in (wrong.value, failed.value, late.value, nowhere.value):
            assert "s3cret" not in str(each)

    def test_a_port_that_another_server_has(self, server):
        port = server.getsockname()[1]
        command = [sys.executable, "-m", "http.server", "--bind", "{host}", "{port}"]
        with pytest.raises(OSError, match="in use") as caught:
            testing.Outage(command, port=port, within=0).start()
        assert "is held: LISTEN, of process" in caught.value.__notes__[0]

    def test_a_command_that_died_can_be_started_again(self):
        command = [sys.executable, "-m", "http.server", "--bind", "{host}", "{port}"]
        with testing.Outage(command, within=30) as server:
            server._server._process.kill()
            server._server._process.wait()
            first = server.started
            assert server.start() is not first
            assert ask(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")

    def test_that_fails_is_run_only_once(self, tmp_path):
        log = tmp_path / "runs"
        code = f"open({str(log)!r}, 'a').write('run '); raise SystemExit(3)"
        with pytest.raises(OSError, match="ended with status 3"):
            testing.Outage([sys.executable, "-c", code, "{port}"], within=10).start()
        assert log.read_text() == "run "

    def test_that_is_frozen_can_be_stopped(self):
        """SIGTERM ends it, not SIGKILL: so it was resumed first."""
        with testing.Outage(HTTP, within=30) as server:
            process = server._server._process
            server.freeze()
            server.stop()
            assert process.returncode == -signal.SIGTERM

    def test_that_does_not_end_is_killed_even_while_time_stands_still(self, monkeypatch):
        monkeypatch.setattr(servers, "_PATIENCE", 0.1)
        command = ["sh", "-c", "trap '' TERM; \"$@\" & wait", "sh", *HTTP]
        with freezegun.freeze_time("2026-01-01"), testing.Outage(command, within=30) as server:
            process = server._server._process
            server.stop()
            assert process.returncode == -signal.SIGKILL

    def test_that_is_stopped_takes_its_children_along(self, tmp_path):
        """redis-server, PostgreSQL and others have child processes."""
        code = (
            "import os, runpy, sys, time\n"
            "if (child := os.fork()) == 0: time.sleep(3600)\n"
            "open(sys.argv.pop(1), 'w').write(str(child))\n"
            "runpy.run_module('http.server', run_name='__main__')"
        )
        pid = tmp_path / "child"
        command = [sys.executable, "-c", code, str(pid), "--bind", "{host}", "{port}"]
        with testing.Outage(command, within=30) as server:
            child = int(pid.read_text())
            server.stop()
            assert eventually(lambda: left.has_ended(child))

    @pytest.mark.skipif(
        not shutil.which("redis-server"), reason="redis-server is not installed: apt-get install redis-server"
    )
    def test_redis(self, tmp_path):
        command = ["redis-server", "--bind", "{host}", "--port", "{port}", "--save", "", "--dir", str(tmp_path)]
        with testing.Outage(command, within=30) as server:
            assert ask(server, b"PING\r\n") == b"+PONG\r\n"
            for end in (server.stop, server.kill):
                end()
                assert not answers(server)
                server.start()
                assert ask(server, b"PING\r\n") == b"+PONG\r\n"
            server.freeze()
            with contextlib.closing(socket.socket()) as sock:
                sock.settimeout(0.05)
                with pytest.raises(TimeoutError):
                    sock.connect(server.address)
            server.start()
            server.refuse_for(dials=2)
            assert [answers(server) for _ in range(3)] == [False, False, True]
