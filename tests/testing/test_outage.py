"""A server that goes away and comes back: in which states it is, what a refusal counts, and what ends it."""

import contextlib
import errno
import os
import socket
import threading
import time

import freezegun
import pytest

import safedial
from safedial import testing
from safedial.testing import intercept, servers
from safedial.testing import outage as testing_outage
from tests.support import faults, interrupts
from tests.support.forked import ends_well
from tests.support.plain import answers, ask, ends_of, eventually


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"port": "x"}, TypeError, "port must be a whole number, not 'x'"),
            ({"port": "80"}, TypeError, "port must be a whole number"),
            ({"port": True}, TypeError, "port must be a whole number"),
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
            ({"within": True}, TypeError, "within must be a number of seconds, not True"),
            ({"unused": "no"}, ValueError, "unused must be one of"),
            ({"server": ["redis-server"]}, ValueError, r"server has no word with \{port\}"),
            ({"server": ["redis-server", "--port", "{PORT}"]}, ValueError, r"server has no word with \{port\}"),
        ],
        ids=repr,
    )
    def test_are_checked_before_a_port_is_bound(self, options, error, words, monkeypatch):
        monkeypatch.setattr(testing_outage, "dead_port", lambda host: pytest.fail("a port was looked for"))
        with pytest.raises(error, match=words):
            testing.Outage(**options)

    @pytest.mark.parametrize("make", [testing.Outage, lambda server: testing.hanging_up(1, server)])
    def test_an_async_function_would_never_be_awaited(self, make):
        async def serve(connection):
            pass

        with pytest.raises(TypeError, match="server must be a plain function, not an async one"):
            make(serve)

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "0.0.0.0"])
    def test_numeric_hosts(self, host):
        with testing.Outage(host=host) as server, socket.create_connection(server.address) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"

    @pytest.mark.parametrize("server", ["redis-server", [], 7, None], ids=repr)
    def test_bad_servers(self, server):
        with pytest.raises(TypeError, match="server must be"):
            testing.Outage(server)


class TestStates:
    def test_stops_and_starts_on_its_port(self):
        with testing.Outage() as server:
            port = server.port
            for end in (server.stop, server.kill):
                assert ask(server) == b"hello"
                end()
                with pytest.raises(ConnectionRefusedError):
                    ask(server)
                end()  # twice is fine
                assert server.start().binds == 1
                assert (server.port, server.state) == (port, "up")
            assert server.start() is server.started  # up already
        with pytest.raises(ConnectionRefusedError):
            ask(server)

    def test_stop_closes_and_kill_resets(self):
        with testing.Outage() as server:
            with socket.create_connection(server.address) as sock:
                server.stop()
                assert sock.recv(1) == b""
            server.start()
            with socket.create_connection(server.address) as sock:
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
                server.kill()
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_freezes_and_thaws(self, host):
        with testing.Outage(host=host) as server:
            server.freeze()
            server.freeze()  # twice is fine
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    socket.create_connection(server.address, 0.05)
            server.start()
            assert ask(server) == b"hello"
            server.freeze()
            server.kill()
            with pytest.raises(RuntimeError, match="down"):
                server.freeze()

    def test_a_freeze_that_fails_leaves_the_server_up(self, monkeypatch):
        def fail(address):
            raise OSError(errno.ENOBUFS, "as it was")

        monkeypatch.setattr(testing_outage, "fill", fail)
        with testing.Outage() as server:
            with pytest.raises(OSError, match="as it was"):
                server.freeze()
            assert server.state == "up"
            assert ask(server) == b"hello"

    def test_its_own_connects_bypass_faults(self):
        with testing.Outage() as server, testing.address_not_available(server.port, unused="ignore") as fault:
            server.freeze()
            assert (fault.triggered, server.state) == (0, "frozen")


class TestRefusal:
    def test_refuses_for_some_dials(self, client):
        with testing.Outage(port=faults.port_never_drawn()) as server:
            server.refuse_for(3)
            for _ in range(3):
                with pytest.raises(OSError, match=r"refused|SO_ERROR|connect_ex|Connect") as caught:
                    client(*server.address)
                assert caught.value.errno == errno.ECONNREFUSED
            client(*server.address)
            assert server.state == "up"

    def test_refuses_for_some_time(self, dial):
        with testing.Outage() as server:
            server.refuse_for(seconds=3600)
            with pytest.raises(ConnectionRefusedError):
                ask(server)
            server.start()
            server.refuse_for(seconds=0.1)
            dial(*server.address, policy=safedial.reconnect(30, 0.01, 0.05))
            server.refuse_for(seconds=3600)  # and its timer goes with it

    @pytest.mark.storm
    def test_a_timer_that_fires_during_a_start(self):
        with testing.Outage() as server:
            for turn in range(200):
                server.refuse_for(seconds=0.0005 if turn % 2 else 1e-9)
                server.start()
            assert ask(server) == b"hello"

    def test_a_stop_ends_a_refusal(self):
        with testing.Outage() as server:
            for refusal in ({"seconds": 0.05}, {"dials": 1, "unused": "ignore"}):
                server.refuse_for(**refusal)
                server.stop()
                time.sleep(0.1)
                for _ in range(3):
                    with pytest.raises(ConnectionRefusedError):
                        ask(server)

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"dials": 0}, ValueError, "dials"),
            ({"dials": "3"}, TypeError, "dials"),
            ({"seconds": -1}, ValueError, "seconds"),
            ({"seconds": 0}, ValueError, "seconds must be more than 0"),
            ({"seconds": "1"}, TypeError, "seconds"),
            ({"dials": 1, "unused": "no"}, ValueError, "unused"),
        ],
    )
    def test_bad_arguments(self, options, error, words):
        with testing.Outage() as server, pytest.raises(error, match=words):
            server.refuse_for(**options)

    @pytest.mark.parametrize("options", [{}, {"dials": 1, "seconds": 1}])
    def test_exactly_one_of_dials_and_seconds_is_needed(self, options):
        with testing.Outage() as server, pytest.raises(TypeError, match="either dials or seconds"):
            server.refuse_for(**options)

    @pytest.mark.parametrize("refusal", [{"dials": 3}, {"seconds": 3600}], ids=repr)
    def test_a_start_ends_it(self, refusal):
        with testing.Outage() as server:
            server.refuse_for(**refusal)
            assert not answers(server)
            server.start()
            assert server.state == "up"
            assert "connect" not in vars(socket.socket)
            assert answers(server)
            server.stop()
            assert not any(answers(server) for _ in range(5))

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_a_late_attempt_does_not_restart_a_stopped_server(self, end):
        """Another thread's attempt began before the refusal ended, and is counted afterwards."""
        with testing.Outage() as server:
            server.refuse_for(dials=1)
            (fault,) = intercept._interceptors()
            assert not answers(server)
            getattr(server, end)()
            with socket.socket() as late:
                fault(late, server.address, lambda: None)
            assert server.state == "down"
            assert not answers(server)

    @pytest.mark.parametrize("back", [testing.Outage.start, answers], ids=["a start", "a dial"])
    def test_a_late_attempt_does_not_thaw_a_server(self, back):
        with testing.Outage() as server:
            server.refuse_for(dials=1)
            (fault,) = intercept._interceptors()
            assert not answers(server)
            assert back(server)
            assert not intercept._interceptors()
            server.freeze()
            with socket.socket() as late:
                fault(late, server.address, lambda: None)
            assert server.state == "frozen"

    @pytest.mark.parametrize("dials", [1, 5])
    def test_concurrent_dials(self, dials):
        """Exactly as many are refused, and the others wait until the server is up, even if a start takes a while."""

        def dial():
            together.wait()
            found.append(answers(server))

        with testing.Outage(port=faults.port_never_drawn()) as server:
            for _ in range(5):
                server.refuse_for(dials)
                found, together = [], threading.Barrier(20)
                threads = [threading.Thread(target=dial) for _ in range(20)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert sorted(found) == [False] * dials + [True] * (20 - dials)

    def test_a_dial_waits_for_the_start_of_another(self, monkeypatch):
        """And one to another port does not."""

        def begin(self):
            second = threading.Thread(target=lambda: found.append(answers(server)))
            second.start()
            threads.append(second)
            elsewhere = threading.Thread(target=lambda: found.append(answers(other)))
            elsewhere.start()
            elsewhere.join()
            second.join(0.1)
            real(self)

        real, found, threads = servers.ThreadServer.begin, [], []
        with testing.Outage() as other, testing.Outage() as server:
            server.refuse_for(1)
            assert not answers(server)
            monkeypatch.setattr(servers.ThreadServer, "begin", begin)
            assert answers(server)
            threads[0].join()
            assert found == [True, True]

    def test_a_watcher_of_dials_sees_a_refused_one(self):
        """An interceptor that is older than the refusal."""
        seen = []
        with testing.Outage() as server, intercept.intercepting(lambda _, address, __: seen.append(address[1])):
            server.refuse_for(1)
            assert [answers(server) for _ in range(2)] == [False, True]
            assert seen == [server.port] * 2

    def test_a_late_attempt_is_not_counted_for_the_next_refusal(self):
        with testing.Outage() as server:
            server.refuse_for(dials=1)
            (old,) = intercept._interceptors()
            assert not answers(server)
            server.refuse_for(dials=2)
            with socket.socket() as late:
                old(late, server.address, lambda: None)
            assert [answers(server) for _ in range(3)] == [False, False, True]

    def test_says_if_nobody_has_dialed(self):
        with testing.Outage() as other:
            port = other.port
            with pytest.raises(
                AssertionError, match=rf"^refuse_for\(2\) hit no connect; dialed instead: .* port {port}$"
            ):
                self._refuse_and_dial(other)
            with pytest.raises(
                AssertionError, match=r"^refuse_for\(2\) hit no connect; no Python connect\(\) was seen"
            ):
                self._refuse_and_dial()
            with pytest.warns(UserWarning, match=r"refuse_for\(2\) hit no connect"):
                self._refuse_and_dial(unused="warn")
            self._refuse_and_dial(unused="ignore")

    def _refuse_and_dial(self, *others, **options):
        with testing.Outage() as server:
            server.refuse_for(2, **options)
            for other in others:
                assert answers(other)

    def test_one_of_several_that_nobody_has_dialed(self):
        """Neither a start nor another refusal makes up for it."""
        server = testing.Outage().__enter__()
        server.refuse_for(2)
        server.start()
        server.refuse_for(1)
        assert [answers(server) for _ in range(2)] == [False, True]
        with pytest.raises(AssertionError, match=r"refuse_for\(2\) hit no connect; start\(\) ended it before a dial$"):
            server.__exit__(None, None, None)

    @pytest.mark.parametrize(
        ("end", "words"),
        [
            (lambda server: server.start(), r"start\(\) ended it before a dial"),
            (lambda server: server.stop(), r"stop\(\) ended it before a dial"),
            (lambda server: server.kill(), r"kill\(\) ended it before a dial"),
            (lambda server: server.refuse_for(seconds=3600), r"another refuse_for\(\) ended it before a dial"),
            (lambda server: None, r"no Python connect\(\) was seen"),
        ],
        ids=["start", "stop", "kill", "refuse_for", "the outage"],
    )
    def test_says_what_ended_it_before_a_dial(self, end, words):
        server = testing.Outage().__enter__()
        server.refuse_for(2)
        end(server)
        with pytest.raises(AssertionError, match=rf"^refuse_for\(2\) hit no connect; {words}"):
            server.__exit__(None, None, None)

    def test_some_time_is_no_time_while_waits_are_not_slept(self):
        with testing.Outage() as server:
            with testing.fast_retries(), pytest.raises(RuntimeError, match="fast_retries is active"):
                server.refuse_for(seconds=3600)
            assert ask(server) == b"hello"
            server.refuse_for(seconds=3600)

    @pytest.mark.parametrize("options", [{}, {"unused": "warn"}])
    def test_unused_is_a_warning_without_a_block(self, options):
        server = testing.Outage()
        server.start()
        server.refuse_for(2, **options)
        server.kill()
        with pytest.warns(UserWarning, match=r"refuse_for\(2\) hit no connect; kill\(\) ended it before a dial"):
            del server

    def test_an_exception_says_more_than_a_refusal_that_nobody_has_dialed(self):
        server = testing.Outage().__enter__()
        server.refuse_for(2)
        server.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        with server:  # the next time, nothing is left of it
            assert answers(server)

    def test_seconds_need_no_dial(self):
        with testing.Outage() as server:
            server.refuse_for(seconds=3600)

    def test_a_late_timer_does_not_restart_a_stopped_server(self, monkeypatch):
        timers = []

        class Late(threading.Timer):
            """A timer that has fired, and is still running when the refusal ends."""

            def start(self):
                timers.append(self)

            def join(self, timeout=None):
                pass

        monkeypatch.setattr(testing_outage.threading, "Timer", Late)
        with testing.Outage() as server:
            server.refuse_for(seconds=3600)
            server.stop()
            timers[0].function(*timers[0].args)
            assert server.state == "down"
            assert not answers(server)

    def test_the_timer_is_joined(self, monkeypatch):
        class Slow(threading.Timer):
            """A timer that needs some time to end after it is cancelled."""

            def run(self):
                super().run()
                time.sleep(0.2)

        monkeypatch.setattr(testing_outage.threading, "Timer", Slow)
        with testing.Outage() as server:
            server.refuse_for(seconds=3600)
            server.stop()
            assert not any(isinstance(thread, Slow) for thread in threading.enumerate())

    def test_connecting_one_socket_again_is_the_same_attempt(self):
        with testing.Outage(port=faults.port_never_drawn()) as server:
            server.refuse_for(dials=2)
            with socket.socket() as sock:
                sock.setblocking(False)
                for _ in range(6):
                    assert sock.connect_ex(server.address) in (errno.EINPROGRESS, errno.ECONNREFUSED)
            assert server.state == "down"
            assert [answers(server) for _ in range(2)] == [False, True]

    def test_a_socket_at_a_reused_memory_address_is_a_new_attempt(self):
        with testing.Outage() as server:
            server.refuse_for(dials=50)
            assert [answers(server) for _ in range(51)] == [False] * 50 + [True]


class TestInterrupts:
    def test_a_start_that_is_interrupted_leaves_nothing(self, monkeypatch):
        """After its thread has begun: it is over, and the port is free."""
        real = threading.Thread.start

        def start(self):
            real(self)
            raise interrupts.Interrupt

        before = threading.active_count()
        for way in ("start", "__enter__"):
            server = testing.Outage()
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", start)
                with pytest.raises(interrupts.Interrupt):
                    getattr(server, way)()
            assert (threading.active_count(), server.state) == (before, "down")
            with server:
                assert ask(server) == b"hello"


class TestForks:
    @faults.forks_among_threads
    def test_a_child_ends_nothing(self):
        with testing.Outage() as server, socket.create_connection(server.address) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            for end in (server.stop, server.kill, lambda: server.__exit__(None, None, None)):
                assert ends_well(end)
            sock.sendall(b"y")
            assert sock.recv(1) == b"y"

    @faults.forks_among_threads
    def test_a_child_that_lives_on_listens_no_more(self):
        """And its dials bring nothing back."""

        def dial():
            assert server.state == "down"
            assert not any(answers(server) for _ in range(3))

        with testing.Outage() as server:
            server.refuse_for(1)
            assert ends_well(dial)
            assert [answers(server) for _ in range(2)] == [False, True]
            ours, childs = socket.socketpair()
            with ours, childs:
                pid = os.fork()
                if not pid:
                    childs.sendall(b"I live")
                    childs.recv(1)
                    os._exit(0)
                ours.recv(6)
                server.stop()
                refused = not answers(server)
                ours.sendall(b"x")
            os.waitpid(pid, 0)
            assert refused


class TestStart:
    def test_on_a_free_port(self):
        with testing.Outage() as server:
            assert (server.started.binds, server.started.holders) == (1, ())

    def test_waits_only_for_a_port_that_is_in_use(self, monkeypatch):
        monkeypatch.setattr(testing_outage.time, "sleep", lambda _: pytest.fail("it waited"))
        with pytest.raises(OSError, match=r"assign requested address .*192\.0\.2\.1"):
            testing.Outage(host="192.0.2.1", port=40000).start()

    def test_while_time_stands_still(self):
        """Neither a start that waits for its port nor one that waits for a command goes by a frozen clock."""
        with socket.create_server(("127.0.0.1", 0)) as holder, freezegun.freeze_time("2026-01-01"):
            port = holder.getsockname()[1]
            with pytest.raises(OSError, match="in use"):
                testing.Outage(port=port, within=0.1).start()
            with pytest.raises(TimeoutError, match=r"sleep did not listen within 0\.1 s"):
                testing.Outage(["sleep", "3600"], port=testing.dead_port(), within=0.1).start()

    def test_names_the_first_holder_of_the_port(self, dead_port):
        """Not the holder at the time of the last failure."""
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

    def test_names_the_holder_of_the_port(self, dead_port):
        with testing.self_connect(dead_port), socket.create_connection(("127.0.0.1", dead_port)) as sock:
            server = testing.Outage(port=dead_port, within=0)
            with pytest.raises(OSError, match="in use") as caught:
                server.start()
            frames = [str(entry.path) for entry in caught.traceback]
            assert not any(path.endswith("socket.py") for path in frames)
            assert caught.value.__notes__[0].startswith(
                f"safedial: port {dead_port} is held: ESTABLISHED to itself, of"
            )
            ends_of(sock)
        server.start()
        with contextlib.closing(socket.socket()) as late:
            server.kill()
            late.bind(server.address)
            late.listen()
            timer = threading.Timer(1, late.close)
            timer.start()
            server = testing.Outage(port=dead_port, within=30)
            found = server.start()
            timer.join()
            assert found.binds > 1
            assert found.holders[0].startswith("LISTEN, of process")
            server.kill()
