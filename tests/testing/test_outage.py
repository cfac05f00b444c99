"""Servers that go and come back: what a refusal counts, what ends it, and what a command is told."""

import contextlib
import errno
import os
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from safedial import testing
from safedial._tcp import steering
from safedial.testing import intercept
from safedial.testing import outage as testing_outage
from tests.support import faults

HTTP = [sys.executable, "-m", "http.server", "--bind", "{host}", "{port}"]


def dial(server):
    """Whether a dial was answered."""
    with socket.socket() as sock:
        # A port that bind() draws, of the other parity: connect() may draw the server's own while it is down.
        sock.bind((server.host, 0))
        code = sock.connect_ex(server.address)
    assert code in (0, errno.ECONNREFUSED)
    return code == 0


def ask(server, words=b"hello"):
    with socket.create_connection(server.address, 5, (server.host, 0)) as sock:
        sock.sendall(words)
        return sock.recv(100)


def eventually(condition):
    for _ in range(1000):
        if condition():
            return True
        time.sleep(0.01)
    return False


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"port": "x"}, TypeError, "port must be a number, not 'x'"),
            ({"port": "80"}, TypeError, "port must be a number"),
            ({"port": True}, TypeError, "port must be a number"),
            ({"port": 0}, ValueError, "port must be from 1 to 65535, not 0"),
            ({"port": 65536}, ValueError, "port must be from 1 to 65535"),
            ({"server": [1]}, TypeError, "server must be a function or a list of words"),
            ({"server": ["redis-server", 6379]}, TypeError, "server must be"),
            ({"server": b"redis-server"}, TypeError, "server must be"),
            ({"host": 5}, TypeError, "host must be a numeric address, not 5"),
            ({"host": None}, TypeError, "host must be"),
            ({"host": b"127.0.0.1"}, TypeError, "host must be"),
            ({"host": "localhost"}, ValueError, "host must be a numeric address, not 'localhost'"),
            ({"host": "localhost", "port": 80}, ValueError, "host must be"),
            ({"host": ""}, ValueError, "host must be"),
            ({"within": "x"}, TypeError, "within"),
            ({"within": -1}, ValueError, "within"),
        ],
        ids=repr,
    )
    def test_are_checked_before_anything_is_bound(self, options, error, words, monkeypatch):
        monkeypatch.setattr(testing_outage, "dead_port", lambda host: pytest.fail("a port was looked for"))
        with pytest.raises(error, match=words):
            testing.Outage(**options)

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "0.0.0.0"])
    def test_numeric_hosts(self, host):
        with testing.Outage(host=host) as server, socket.create_connection(server.address) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"


class TestRefusal:
    @pytest.mark.parametrize("refusal", [{"attempts": 3}, {"seconds": 3600}], ids=repr)
    def test_a_start_ends_it(self, refusal):
        with testing.Outage() as server:
            server.refuse_for(**refusal)
            assert not dial(server)
            server.start()
            assert server.state == "up"
            assert "connect" not in vars(socket.socket)
            assert dial(server)
            server.stop()
            assert not any(dial(server) for _ in range(5))

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_a_dial_under_way_does_not_bring_back_what_was_stopped(self, end):
        """A dial of another thread that knew of the refusal before it ended, and is counted after."""
        with testing.Outage() as server:
            server.refuse_for(attempts=1)
            (fault,) = intercept._interceptors
            assert not dial(server)
            getattr(server, end)()
            with socket.socket() as late:
                fault(late, server.address, lambda: None)
            assert server.state == "down"
            assert not dial(server)

    def test_nor_is_it_counted_for_the_next_refusal(self):
        with testing.Outage() as server:
            server.refuse_for(attempts=1)
            (old,) = intercept._interceptors
            assert not dial(server)
            server.refuse_for(attempts=2)
            with socket.socket() as late:
                old(late, server.address, lambda: None)
            assert [dial(server) for _ in range(3)] == [False, False, True]

    def test_a_timer_that_fires_late_does_not_bring_back_what_was_stopped(self, monkeypatch):
        timers = []

        class Late(threading.Timer):
            """One that has fired, and has not come to its end when the refusal does."""

            def start(self):
                timers.append(self)

            def join(self, timeout=None):
                pass

        monkeypatch.setattr(testing_outage.threading, "Timer", Late)
        with testing.Outage() as server:
            server.refuse_for(seconds=0)
            server.stop()
            timers[0].function(*timers[0].args)
            assert server.state == "down"
            assert not dial(server)

    def test_its_timer_is_joined(self, monkeypatch):
        class Slow(threading.Timer):
            """One that takes its time to end when it is cancelled."""

            def run(self):
                super().run()
                time.sleep(0.2)

        monkeypatch.setattr(testing_outage.threading, "Timer", Slow)
        with testing.Outage() as server:
            server.refuse_for(seconds=3600)
            server.stop()
            assert not any(isinstance(thread, Slow) for thread in threading.enumerate())

    def test_a_socket_that_asks_more_than_once_is_one_dial(self):
        with testing.Outage(port=faults.port_never_drawn()) as server:
            server.refuse_for(attempts=2)
            with socket.socket() as sock:
                sock.setblocking(False)
                for _ in range(6):
                    assert sock.connect_ex(server.address) in (errno.EINPROGRESS, errno.ECONNREFUSED)
            assert server.state == "down"
            assert [dial(server) for _ in range(2)] == [False, True]

    def test_each_socket_is_a_dial_though_its_place_in_memory_is_anothers_of_before(self):
        with testing.Outage() as server:
            server.refuse_for(attempts=50)
            assert [dial(server) for _ in range(51)] == [False] * 50 + [True]


class TestConnections:
    def test_have_no_timeout(self):
        """A handler waits as long as it likes, whatever the default and the listener's own."""
        found = []
        socket.setdefaulttimeout(5)
        try:
            with testing.Outage(lambda sock: found.append(sock.gettimeout())) as server:
                assert dial(server)
                assert eventually(lambda: found)
        finally:
            socket.setdefaulttimeout(None)
        assert found == [None]

    def test_are_forgotten_when_they_end(self):
        with testing.Outage() as server:
            for _ in range(5):
                assert ask(server) == b"hello"
            assert eventually(lambda: not server._server._open)

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of descriptors")
    def test_the_server_waits_while_no_descriptor_is_free(self, monkeypatch):
        """accept() fails at once then, and the client stays in the backlog."""
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


class TestStart:
    def test_of_a_free_port(self):
        with testing.Outage() as server:
            assert (server.started.binds, server.started.holders) == (1, ())

    def test_names_who_held_the_port_at_first(self, dead_port):
        """Not who holds it when the last attempt fails."""
        server = testing.Outage(port=dead_port, within=30)
        with socket.create_server(("127.0.0.1", dead_port)) as first, socket.socket() as client:
            client.connect(first.getsockname())
            accepted, _ = first.accept()

            def go():
                eventually(lambda: looked)
                time.sleep(0.1)  # for more attempts that fail
                accepted.close()
                first.close()

            looked = []
            with pytest.MonkeyPatch.context() as patch:
                real = testing_outage.holders

                def look(port):
                    found = real(port)
                    looked.append(port)
                    return found

                patch.setattr(testing_outage, "holders", look)
                thread = threading.Thread(target=go)
                thread.start()
                found = server.start()
                thread.join()
        server.kill()
        assert looked == [dead_port]
        assert found.binds > 1
        assert sorted(holder.partition(",")[0] for holder in found.holders) == ["ESTABLISHED", "LISTEN"]
        assert all(f"of process {os.getpid()} (" in holder for holder in found.holders)


class TestCommand:
    def test_that_fails_is_run_once_only(self, tmp_path):
        log = tmp_path / "runs"
        code = f"open({str(log)!r}, 'a').write('run '); raise SystemExit(3)"
        with pytest.raises(OSError, match="ended with status 3"):
            testing.Outage([sys.executable, "-c", code], within=10).start()
        assert log.read_text() == "run "

    def test_that_is_frozen_can_be_stopped(self):
        """It is told to end, and not killed: a stopped process would not hear of it."""
        with testing.Outage(HTTP, within=30) as server:
            process = server._server._process
            server.freeze()
            server.stop()
            assert process.returncode == -signal.SIGTERM

    def test_that_is_stopped_leaves_nobody_of_its_group(self, tmp_path):
        """redis-server, PostgreSQL and others have children."""
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
            assert eventually(lambda: _has_ended(child))

    @pytest.mark.skipif(
        not shutil.which("redis-server"), reason="redis-server is not installed: apt-get install redis-server"
    )
    def test_redis(self, tmp_path):
        command = ["redis-server", "--bind", "{host}", "--port", "{port}", "--save", "", "--dir", str(tmp_path)]
        with testing.Outage(command, within=30) as server:
            assert ask(server, b"PING\r\n") == b"+PONG\r\n"
            for end in (server.stop, server.kill):
                end()
                assert not dial(server)
                server.start()
                assert ask(server, b"PING\r\n") == b"+PONG\r\n"
            server.freeze()
            with contextlib.closing(socket.socket()) as sock:
                sock.settimeout(0.05)
                with pytest.raises(TimeoutError):
                    sock.connect(server.address)
            server.start()
            server.refuse_for(attempts=2)
            assert [dial(server) for _ in range(3)] == [False, False, True]


def _has_ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_dead_port_is_the_default():
    low, high = steering.read_range()
    assert low <= testing.Outage().port <= high
