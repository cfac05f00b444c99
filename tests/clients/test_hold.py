"""hold(): a port that no connect() of this host draws, for libraries that dial in C."""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
import warnings

import pytest
import trio
import uvloop

import safedial
from safedial import testing
from safedial._clients import held
from safedial._clients.hold import holding
from safedial._tcp import holding as ports
from tests.dial.test_leaks import InterruptedAt, cancel_everywhere
from tests.support import dials, faults, holds, left, namespace, sandbox
from tests.support.plain import eventually

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def _no_warnings_yet(monkeypatch):
    monkeypatch.setattr(held, "_warned", {})


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG, "safedial")
    return caplog


def is_held(port):
    """Return whether a server on all addresses fails that does not set SO_REUSEADDR: the one that a hold hinders."""
    return not holds.can_start("::", port, reuse=False)  # beside a server on 0.0.0.0, ::1 is held


class TestDials:
    def test_kernel_never_draws_the_port(self):
        namespace.require()
        plain, held = namespace.call(dial_with_uvloop, 40000, 100, port_range=(40000, 40001))
        assert plain > 0
        assert held == 0

    @pytest.mark.parametrize("host", [HOST, "::1", "localhost", "0.0.0.0", "::"])
    def test_dials_are_refused_inside(self, host, dead_port):
        with safedial.hold((host, dead_port)), pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, dead_port), 5)

    def test_server_that_listens_is_not_disturbed(self, server):
        with safedial.hold(server.getsockname()):
            socket.create_connection(server.getsockname()).close()

    @pytest.mark.parametrize("host", [HOST, "::1"])
    def test_server_of_the_same_process_starts(self, host, dead_port):
        with safedial.hold((host, dead_port)):
            assert holds.can_start(host, dead_port, reuse=True)
            assert holds.can_start(host, dead_port, reuse=True)


def dial_with_uvloop(port, times):
    """Count self-connects: uvloop dials in C, where no hook of Python reaches."""

    async def dial(*, held):
        loop = asyncio.get_running_loop()
        async with safedial.hold((HOST, port)) if held else contextlib.nullcontext():
            transport, _ = await loop.create_connection(asyncio.Protocol, HOST, port)
        return transport

    counts = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for held in (False, True):
            counts.append(0)
            for _ in range(times):
                with contextlib.suppress(OSError):
                    transport = runner.run(dial(held=held))
                    counts[-1] += testing.is_self_connected(transport)
                    transport.abort()
                    runner.run(asyncio.sleep(0))
    return counts


class TestEntries:
    def test_ends_with_the_block(self, dead_port):
        with safedial.hold((HOST, dead_port)):
            assert is_held(dead_port)
        faults.assert_server_can_bind("0.0.0.0", dead_port)

    def test_entered_again(self, dead_port):
        hold = safedial.hold((HOST, dead_port))
        for _ in range(2):
            with hold, hold:
                assert is_held(dead_port)
            assert not is_held(dead_port)

    def test_inner_exit_ends_nothing(self, dead_port):
        hold = safedial.hold((HOST, dead_port))
        with hold:
            with hold:
                pass
            assert is_held(dead_port)

    def test_entry_that_holds_nothing_ends_first(self, dead_port, monkeypatch):
        """A name may have moved to this host between two entries that overlap."""
        answers = [[faults.tcp("192.0.2.1", dead_port)], [faults.tcp(HOST, dead_port)]]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwds: answers.pop(0))
        hold = safedial.hold(("db", dead_port))
        with hold:
            with hold:
                pass  # whose exit may be that of the outer entry
            assert is_held(dead_port)
        assert not is_held(dead_port)

    def test_several_threads(self, dead_port):
        hold, before = safedial.hold((HOST, dead_port)), left.open_descriptors()

        def work():
            for _ in range(200):
                with hold:
                    assert is_bound(dead_port)

        def is_bound(port):
            with socket.socket() as sock, contextlib.suppress(OSError):
                sock.bind(("0.0.0.0", port))
                return False
            return True

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not is_bound(dead_port)
        assert left.open_descriptors() == before

    def test_two_holds(self, dead_port):
        with safedial.hold((HOST, dead_port)), safedial.hold((HOST, dead_port)):
            assert holds.can_start(HOST, dead_port, reuse=False)
            assert holds.can_start("0.0.0.0", dead_port, reuse=True)

    def test_one_descriptor_for_both_families(self, dead_port):
        before = left.open_descriptors()
        with safedial.hold(("localhost", dead_port)):
            assert len(left.open_descriptors()) == len(before) + 1

    @pytest.mark.parametrize("kind", ["warning", "record"])
    def test_never_entered(self, kind, log):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            safedial.hold((HOST, 5432))
            gc.collect()
        said = [str(each.message) for each in caught] if kind == "warning" else log.messages
        assert len(said) == 1
        assert "hold(...) was never entered" in said[0]

    def test_entered_holds_are_silent(self, dead_port, log):
        with safedial.hold((HOST, dead_port)):
            pass
        gc.collect()
        assert "never entered" not in log.text

    @pytest.mark.parametrize(
        ("address", "error"),
        [("db", TypeError), ((HOST, -1), ValueError), ((HOST, 123456), ValueError), ((HOST, 1.5), TypeError)],
    )
    def test_bad_arguments(self, address, error):
        with pytest.raises(error, match="address"):
            safedial.hold(address)


class TestNames:
    def test_with_in_an_event_loop(self, dead_port, loop_factory):
        async def main():
            with pytest.raises(RuntimeError, match=re.escape("write `async with safedial.hold(...)`")):  # noqa: SIM117
                with safedial.hold(("localhost", dead_port)):
                    pass

        before = left.open_descriptors()
        dials.run(main(), loop_factory)
        assert left.open_descriptors() == before

    def test_with_in_trio(self, dead_port):
        async def main():
            with pytest.raises(RuntimeError, match="async with"), safedial.hold(("localhost", dead_port)):
                pass

        trio.run(main)

    @pytest.mark.parametrize("host", [HOST, "::1", "127.1", None, b"127.0.0.1"])
    def test_numbers_in_an_event_loop(self, host, dead_port):
        async def main():
            with safedial.hold((host, dead_port)):
                assert is_held(dead_port)

        asyncio.run(main())

    @pytest.mark.parametrize("host", [HOST, "localhost"])
    @pytest.mark.parametrize(
        "run", [asyncio.run, lambda coroutine: trio.run(lambda: coroutine)], ids=["asyncio", "trio"]
    )
    def test_async_with(self, run, host, dead_port):
        async def main():
            hold = safedial.hold((host, dead_port))
            for _ in range(2):
                async with hold:
                    assert is_held(dead_port)
                assert not is_held(dead_port)

        run(main())

    def test_resolver_runs_in_a_thread(self, dead_port, monkeypatch):
        resolving = []

        def resolver(host, port, **hints):
            resolving.append(threading.current_thread())
            return [faults.tcp(HOST, dead_port)]

        async def main():
            async with safedial.hold(("db", dead_port)):
                assert is_held(dead_port)

        monkeypatch.setattr(socket, "getaddrinfo", resolver)
        asyncio.run(main())
        assert len(resolving) == 1
        assert resolving[0] is not threading.main_thread()

    def test_resolved_at_each_entry(self, dead_port, monkeypatch):
        asked = []
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwds: asked.append(args) or [])
        hold = safedial.hold(("db", dead_port))
        assert not asked
        for _ in range(2):
            with hold:
                pass
        assert len(asked) == 2

    def test_error_of_the_resolver(self, monkeypatch):
        def nothing(*args, **kwds):
            raise error

        async def main():
            async with safedial.hold(("db", 1)):
                pass

        error = socket.gaierror(socket.EAI_NONAME, "no such name")
        monkeypatch.setattr(socket, "getaddrinfo", nothing)
        for enter in (safedial.hold(("db", 1)).__enter__, lambda: asyncio.run(main())):
            with pytest.raises(socket.gaierror) as caught:
                enter()
            assert caught.value is error


class TestNothingToHold:
    def test_other_hosts(self, log):
        with safedial.hold(("192.0.2.1", 5432)):
            assert not is_held(5432) or namespace.no_namespace()
        assert log.messages == ["192.0.2.1 port 5432 is not held: it is not an address of this host"]
        assert log.records[0].levelno == logging.DEBUG

    def test_family_that_is_off(self):
        namespace.require()
        assert namespace.call(enter, "::1", 5432, ipv6=False) == [
            "DEBUG ::1 port 5432 is not held: it is not an address of this host"
        ]

    def test_port_zero(self, log):
        with safedial.hold((HOST, 0)):
            pass
        assert "WARNING" not in log.text


def enter(*addresses):
    """Hold each (host, port) twice; return the records."""
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(f"{record.levelname} {record.getMessage()}")
    logging.getLogger("safedial").addHandler(handler)
    logging.getLogger("safedial").setLevel(logging.DEBUG)
    for address in zip(addresses[::2], addresses[1::2], strict=True):
        with safedial.hold(address):
            pass
    return said


class TestCannotHold:
    def test_sandbox(self):
        """A port at risk: WARNING, once for each address. Outside of the range, or reserved: DEBUG."""
        namespace.require()
        sandbox.require_landlock()
        said = namespace.call(enter_in_a_sandbox, port_range=(40000, 40003))
        reserve = (
            "a client that dials it in C may connect to itself. Reserve the port, and the kernel draws it for nobody: "
            "add 40000 to the sysctl net.ipv4.ip_local_reserved_ports"
        )
        assert said == [
            f"WARNING 127.0.0.1 port 40000 can't be held (Permission denied): {reserve}",
            f"WARNING ::1 port 40000 can't be held (Permission denied): {reserve}",
            "DEBUG 127.0.0.1 port 40001 is not held (Permission denied): the kernel draws no such port",
            "DEBUG 127.0.0.1 port 5432 is not held (Permission denied): the kernel draws no such port",
        ]

    def test_connection_on_another_system(self, dead_port, monkeypatch, log):
        for module in (ports, held):
            monkeypatch.setattr(module, "ON_LINUX", False)
        with holds.ordinary_connection(dead_port), safedial.hold((HOST, dead_port)):
            pass
        assert "WARNING" in log.text
        assert "can't be held (Address already in use): if no server listens there" in log.text
        assert "ip_local_reserved_ports" not in log.text

    def test_every_address_on_another_system(self, dead_port, monkeypatch):
        for module in (ports, held):
            monkeypatch.setattr(module, "ON_LINUX", False)
        before = left.open_descriptors()
        with safedial.hold(("localhost", dead_port)):
            assert len(left.open_descriptors()) == len(before) + len(
                socket.getaddrinfo("localhost", dead_port, type=socket.SOCK_STREAM)
            )

    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_no_descriptor_is_free(self, asynchronous, dead_port):
        async def main():
            async with safedial.hold((HOST, dead_port)):
                pass

        with asyncio.Runner() as runner:
            runner.run(asyncio.sleep(0))
            with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
                runner.run(main()) if asynchronous else safedial.hold((HOST, dead_port)).__enter__()


@contextlib.contextmanager
def no_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def enter_in_a_sandbox():
    with open("/proc/sys/net/ipv4/ip_local_reserved_ports", "w") as file:
        file.write("40001")
    sandbox.forbid_tcp_bind()
    said = enter(HOST, 40000, HOST, 40000, "::1", 40000, HOST, 40001, HOST, 5432)
    with holding([(HOST, 40000), (HOST, 5432)]):
        pass  # nor does it raise
    return list(dict.fromkeys(said))


class TestServerOnAllAddresses:
    """Nothing can be bound beside it. As long as it listens, it keeps the kernel off the port itself."""

    def test_its_port_is_taken_once_it_stops(self, dead_port):
        with holds.listening("::", dead_port) as server, safedial.hold((HOST, dead_port)):
            server.close()
            assert eventually(lambda: is_held(dead_port))
            assert eventually(lambda: not waiting()), "the thread has nothing more to do"
            for _ in range(2):
                assert holds.can_start("::", dead_port, reuse=True)
        assert not is_held(dead_port)

    def test_it_outlasts_the_hold(self, dead_port):
        with holds.listening("::", dead_port), safedial.hold((HOST, dead_port)) as _:
            assert waiting()
        assert not waiting()
        assert not is_held(dead_port)

    def test_server_on_ipv4_alone_is_no_obstacle(self, dead_port):
        with holds.listening("0.0.0.0", dead_port) as server, safedial.hold((HOST, dead_port)):
            assert not waiting()
            server.close()
            assert not holds.can_start("::", dead_port, reuse=False)

    def test_port_that_the_kernel_never_draws(self):
        port = faults.port_never_drawn()
        with holds.listening("::", port) as server, safedial.hold((HOST, port)):
            assert eventually(lambda: not waiting())
            server.close()
            assert not is_held(port)

    def test_descriptors_run_out_meanwhile(self, dead_port):
        with holds.listening("::", dead_port) as server, safedial.hold((HOST, dead_port)):
            with no_descriptors():
                server.close()
                time.sleep(0.1)
            assert eventually(lambda: is_held(dead_port))

    def test_hold_for_one_dial_does_not_wait(self, dead_port):
        with holds.listening("::", dead_port), holding([(HOST, dead_port)]):
            assert not waiting()

    @faults.forks_among_threads
    def test_forked_child_waits_too(self, dead_port):
        """A daemon forks, and its parent ends."""
        with holds.listening("::", dead_port) as server, contextlib.ExitStack() as stack:
            with safedial.hold((HOST, dead_port)):
                stack.enter_context(forked(server.close))
            server.close()
            assert eventually(lambda: is_held(dead_port))

    @faults.forks_among_threads
    def test_forked_child_can_end_its_hold(self, dead_port):
        def end_in_child():
            waited = bool(waiting())
            hold.__exit__()
            return waited and not waiting()

        hold = safedial.hold((HOST, dead_port))
        with holds.listening("::", dead_port), hold:
            faults.fork_beside(lambda: None, end_in_child, 20)


def waiting():
    return [thread for thread in threading.enumerate() if thread.name == "safedial.hold"]


@contextlib.contextmanager
def forked(start):
    """Fork a child that calls *start* and sleeps. It is killed at the end of the test that made it."""
    pid = os.fork()
    if not pid:
        start()
        time.sleep(60)
        os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


class TestForkedChildren:
    @faults.forks_among_threads
    def test_child_inherits_the_hold(self, dead_port):
        with contextlib.ExitStack() as stack:
            with safedial.hold((HOST, dead_port)):
                stack.enter_context(forked(lambda: None))
            assert is_held(dead_port)
            assert holds.can_start(HOST, dead_port, reuse=False)
            assert holds.can_start("0.0.0.0", dead_port, reuse=True)
        assert not is_held(dead_port)

    def test_started_program_does_not(self, dead_port):
        with contextlib.ExitStack() as stack:
            with safedial.hold((HOST, dead_port)):
                command = [sys.executable, "-c", "input()"]
                child = subprocess.Popen(command, stdin=subprocess.PIPE, close_fds=False)
                stack.enter_context(child)
                stack.callback(child.communicate, b"\n")
            assert eventually(lambda: not is_held(dead_port)), "an exec closes the descriptor, a moment after Popen()"


class TestHolding:
    """Its form for one dial, by numeric addresses."""

    def test_addresses_of_this_host_and_another(self, dead_port):
        with holding([("192.0.2.1", 5432), (HOST, dead_port), ("::1", dead_port, 0, 0)]):
            assert is_held(dead_port)
        assert not is_held(dead_port)

    @pytest.mark.parametrize("wrong", [("localhost", 5432), ("", 5432), (HOST, 123456), ("::1%none", 5432)])
    def test_what_cannot_be_held(self, wrong, dead_port, monkeypatch):
        """It does not raise, asks no resolver, and holds the rest."""
        monkeypatch.setattr(socket, "getaddrinfo", None)
        with holding([wrong, (HOST, dead_port)]):
            assert is_held(dead_port)

    def test_no_descriptor_is_free(self, dead_port, log):
        with no_descriptors(), holding([(HOST, dead_port)]):
            pass
        assert "Too many open files" in log.text

    def test_error_of_the_block(self, dead_port):
        with pytest.raises(LookupError), holding([(HOST, dead_port)]):
            raise LookupError
        assert not is_held(dead_port)


def counts():
    gc.collect()
    return len(left.open_descriptors()), threading.active_count()


class TestNothingIsLeft:
    def test_after_ten_thousand_holds(self, dead_port):
        before, hold = counts(), safedial.hold((HOST, dead_port))
        for _ in range(10_000):
            with hold:
                pass
        assert counts() == before

    def test_after_a_failed_entry(self, monkeypatch, dead_port):
        """The second address fails: the holder of the first one is closed."""
        real, taken = ports.hold, []

        def scarce(sockaddr):
            if taken:
                raise OSError(errno.EMFILE, "Too many open files")
            taken.append(sockaddr)
            return real(sockaddr)

        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [faults.tcp(HOST, port) for port in (dead_port, 1)])
        monkeypatch.setattr(ports, "hold", scarce)
        before = counts()
        with pytest.raises(OSError, match="Too many open files"):
            safedial.hold(("db", dead_port)).__enter__()
        assert counts() == before

    def test_after_a_cancellation_at_any_await(self, dead_port):
        async def enter():
            async with safedial.hold(("localhost", dead_port)):
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            raise ConnectionRefusedError  # such a dial has nothing to close

        async def main():
            before = counts()[0]
            assert await cancel_everywhere(enter) >= 3
            assert counts()[0] == before

        asyncio.run(main())

    # The interrupt may come before a socket has a name, and in __del__.
    @pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize("way", ["hold", "holding"])
    def test_after_an_interrupt_anywhere(self, way, dead_port):
        """Ctrl-C at each call and return: once the exception is freed, every socket is closed."""
        before = counts()
        assert interrupt_everywhere(way, dead_port) > 10
        assert counts() == before

    @pytest.mark.filterwarnings("ignore::ResourceWarning")  # as above
    def test_after_an_interrupted_exit_beside_a_server_on_all_addresses(self, dead_port):
        """The thread does not keep the hold: it ends once the hold is freed."""
        before = counts()
        with holds.listening("::", dead_port):
            safedial.hold((HOST, dead_port)).__enter__()
            assert eventually(lambda: not waiting())
        assert counts() == before


def interrupt_everywhere(way, port):
    """Interrupt an entry at each point. Return how many points there are."""

    def once():
        with safedial.hold((HOST, port)) if way == "hold" else holding([(HOST, port)]):
            pass

    once()
    before = left.open_descriptors()
    for point in range(1000):
        interrupt = InterruptedAt(point)
        with interrupt:
            once()
        if not interrupt.reached:
            return point
        if left.open_descriptors() != before:
            gc.collect()
            assert left.open_descriptors() == before, point
    raise AssertionError("endless")
