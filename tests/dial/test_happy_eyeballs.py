"""Happy Eyeballs (RFC 8305) on the real kernel: blocking and asyncio dials that race several addresses."""

import asyncio
import contextlib
import errno
import fcntl
import os
import selectors
import socket
import struct
import threading

import pytest

import safedial
from safedial import testing
from tests.support import dials, faults, left, namespace
from tests.support.resolvers import addresses, hosts, servers

DELAY = 0.02  # seconds: much longer than an answer on loopback takes


@pytest.fixture(params=["Dialer.dial", "Dialer.dial_async"])
def keep(request):
    """Dial with a Dialer, blocking or with asyncio, and return the socket."""

    def dialed(resolver, *, all_errors=False, **options):
        dialer = safedial.Dialer(resolver=resolver, **{"happy_eyeballs_delay": DELAY, **options})
        if request.param == "Dialer.dial":
            return dialer.dial(("db", 1), all_errors=all_errors)
        return dials.run(dialer.dial_async(("db", 1), all_errors=all_errors))

    dialed.is_async = request.param == "Dialer.dial_async"
    return dialed


def attempts(events):
    return [event for event in events if event.address is not None]


def kinds(events):
    return [(event.kind, event.address[0]) for event in attempts(events)]


class TestBlackHoleFirst:
    def test_dial_takes_the_delay_and_not_the_timeout(self, dial, steer, events):
        """The dial is over before the first address has failed."""
        with faults.black_hole_and_server() as both:
            options = {"timeout": 60, "happy_eyeballs_delay": DELAY, "on_event": events.append, "steer": steer}
            assert dial("db", 1, resolver=servers(*both), **options).peer == both[1].getsockname()
        assert kinds(events) == [("lost", "::1"), ("connected", "127.0.0.1")]

    def test_default_dials_wait_for_the_delay_and_the_stdlib_for_the_timeout(self):
        """The stdlib waits for the whole timeout; safedial waits a quarter of a second."""
        namespace.require()
        stdlib, *ours = namespace.call(dial_a_dual_stack_name)
        assert stdlib == [("::1", "timed out"), ("127.0.0.1", "connected")]
        assert ours == [[("::1", "lost"), ("127.0.0.1", "connected")]] * 3

    def test_open_connection_does_not_race_by_default(self, events):
        with faults.black_hole_and_server() as both:
            options = {"resolver": servers(*both), "timeout": 0.5, "on_event": events.append}
            dials.DIALS["open_connection"]("db", 1, **options)
        assert kinds(events) == [("failed", "::1"), ("connected", "127.0.0.1")]

    def test_no_delay_tries_one_address_after_the_other(self, keep, events):
        with faults.black_hole_and_server() as both:
            keep(servers(*both), happy_eyeballs_delay=None, timeout=0.5, on_event=events.append).close()
        assert kinds(events) == [("failed", "::1"), ("connected", "127.0.0.1")]

    def test_each_attempt_has_the_timeout(self, keep, events):
        with (
            faults.black_hole_and_server() as (black_hole, _),
            faults.full_listener() as other,
            pytest.raises(TimeoutError, match="timed out"),
        ):
            keep(servers(black_hole, other), timeout=2 * DELAY, on_event=events.append)
        assert kinds(events) == [("failed", "::1"), ("failed", "127.0.0.1")]

    def test_default_timeout_limits_each_attempt(self, default_timeout):
        default_timeout(2 * DELAY)
        with faults.black_hole_and_server() as (black_hole, _), faults.full_listener() as other:
            dialer = safedial.Dialer(resolver=servers(black_hole, other), happy_eyeballs_delay=DELAY)
            with pytest.raises(TimeoutError):
                dialer.dial(("db", 1))

    def test_hundred_dials_leave_no_descriptors(self, keep):
        """Go's TestDialerDualStackFDLeak."""
        with faults.black_hole_and_server() as both:
            before = left.open_descriptors()
            for _ in range(100):
                keep(servers(*both), happy_eyeballs_delay=0.001).close()
                both[1].accept()[0].close()
            assert left.open_descriptors() == before


def dial_a_dual_stack_name():
    """Return the result of each attempt: of the stdlib, and of each dial that races by default."""
    port = testing.dead_port()
    socket.getaddrinfo = hosts("::1", "127.0.0.1", port=port)
    plain_results, results = [], []

    class Spy(socket.socket):
        def connect(self, address):
            try:
                super().connect(address)
                plain_results.append((address[0], "connected"))
            except TimeoutError as error:
                plain_results.append((address[0], str(error)))
                raise

    def hook(event):
        if event.address is not None:
            results.append((event.address[0], event.kind))

    with faults.listener("127.0.0.1", port), faults.full_listener("::1", port):
        plain, socket.socket = socket.socket, Spy
        socket.create_connection(("db", port), 0.3).close()
        socket.socket = plain
        found = [plain_results]
        dialer = safedial.Dialer(timeout=60, on_event=hook)
        for once in (
            lambda: safedial.safe_connect(("db", port), 60, on_event=hook),
            lambda: dialer.dial(("db", port)),
            lambda: dials.run(dialer.dial_async(("db", port))),
        ):
            results = []
            once().close()
            found.append(results)
    return found


class TestOrder:
    @pytest.fixture
    def four(self, dead_port):
        return addresses(*((host, dead_port) for host in ("::1", "::1", "127.0.0.1", "127.0.0.2")))

    def order(self, keep, four, events, **options):
        with pytest.raises(ConnectionRefusedError):
            keep(four, on_event=events.append, **options)
        return [event.address[0] for event in attempts(events)]

    def test_families_alternate_in_a_race(self, keep, four, events):
        assert self.order(keep, four, events) == ["::1", "127.0.0.1", "::1", "127.0.0.2"]

    def test_without_a_race_the_resolvers_order_stays(self, keep, four, events):
        order = self.order(keep, four, events, happy_eyeballs_delay=None)
        assert order == ["::1", "::1", "127.0.0.1", "127.0.0.2"]

    def test_errors_keep_the_order_of_the_addresses(self, keep, dead_port):
        """Here the second address fails first."""
        with faults.black_hole_and_server() as (black_hole, _):
            answers = addresses(black_hole.getsockname(), ("127.0.0.1", dead_port))
            with pytest.raises(ExceptionGroup) as caught:
                keep(answers, timeout=2 * DELAY, all_errors=True)
            assert [type(error) for error in caught.value.exceptions] == [TimeoutError, ConnectionRefusedError]
            with pytest.raises(OSError, match=r"refused|Connect call failed") as caught:
                keep(answers, timeout=2 * DELAY)
            # A blocking dial raises the error of the last address, as the stdlib does.
            assert keep.is_async or caught.type is ConnectionRefusedError


class TestFaultInOneAttempt:
    def test_self_connect_is_a_failed_attempt(self, keep, events, force, dead_port, server, steer):
        force(dead_port, times=1)
        answers = addresses(("127.0.0.1", dead_port), server.getsockname())
        with keep(answers, on_event=events.append, steer=steer) as sock:
            assert sock.getpeername() == server.getsockname()
        assert [event.kind for event in attempts(events)] == ["self_connect", "connected"]
        faults.assert_server_can_bind("127.0.0.1", dead_port)

    def test_self_connect_in_every_attempt_is_raised(self, keep, force, dead_port, steer):
        force(dead_port)
        with pytest.raises(ConnectionRefusedError) as caught:
            keep(addresses(*[("127.0.0.1", dead_port)] * 3), policy=None, steer=steer)
        assert isinstance(caught.value, safedial.SelfConnectError)
        faults.assert_server_can_bind("127.0.0.1", dead_port)

    def test_exhausted_ports_are_a_failed_attempt(self, keep, events, monkeypatch, server, steer):
        first = True

        class Short(socket.socket):
            __module__ = "socket"  # a class with a connect() of its own does not race

            def connect(self, address):
                nonlocal first
                if first:
                    self.setsockopt(*faults.option(held, held))
                return super().connect(address)

        def hook(event):
            nonlocal first
            first = first and event.address is None  # until the first attempt
            events.append(event)

        faults.require_option()
        with testing.refused_port() as held:
            monkeypatch.setattr(socket, "socket", Short)
            answers = addresses(("127.0.0.1", server.getsockname()[1]), server.getsockname())
            # The asyncio dial looks for the reason in a thread. The other attempt must not win meanwhile.
            keep(answers, on_event=hook, steer=steer, happy_eyeballs_delay=60).close()
        assert [event.kind for event in attempts(events)] == ["failed", "connected"]
        assert isinstance(attempts(events)[0].error, safedial.PortsExhaustedError)

    def test_interrupted_hook_closes_every_attempt(self, keep, dead_port):
        def hook(event):
            if event.address is not None:
                raise KeyboardInterrupt

        with faults.black_hole_and_server() as both:
            with pytest.raises(KeyboardInterrupt):
                keep(servers(*both), on_event=hook)
            with pytest.raises(KeyboardInterrupt):
                keep(addresses(both[0].getsockname(), ("127.0.0.1", dead_port)), on_event=hook)


@pytest.fixture
def connects_late(monkeypatch):
    """Make sockets connect at once, but answer EINPROGRESS."""

    class Slow(socket.socket):
        __module__ = "socket"  # a class with a connect() of its own does not race
        begun = False

        def connect(self, address):
            if not self.begun and self.gettimeout() == 0:
                self.begun = True
                with contextlib.suppress(BlockingIOError):
                    super().connect(address)
            if self.gettimeout() == 0:
                raise BlockingIOError(errno.EINPROGRESS, "Operation now in progress")
            super().connect(address)

    monkeypatch.setattr(socket, "socket", Slow)


def test_loser_that_answers_too_is_closed(keep, connects_late):
    """Go's TestDialParallelSpuriousConnection."""
    with (
        faults.listener() as one,
        faults.listener() as two,
        keep(servers(one, two), happy_eyeballs_delay=0) as sock,
        one.accept()[0] as first,
        two.accept()[0] as second,
    ):
        sock.setblocking(True)
        sock.sendall(b"x")
        assert {first.recv(1), second.recv(1)} == {b"", b"x"}


def test_late_refusal_has_the_kernels_message(connects_late, dead_port):
    dialer = safedial.Dialer(resolver=addresses(*[("127.0.0.1", dead_port)] * 2), happy_eyeballs_delay=60)
    with pytest.raises(ExceptionGroup) as caught:
        dialer.dial(("db", 1), all_errors=True)
    assert str(caught.value.exceptions[0]) == "[Errno 111] Connection refused"


def test_connection_reset_at_once_does_not_break_the_race(keep, connects_late):
    """Go's TestTCPSpuriousConnSetupCompletion: the dial succeeds or fails, and nothing is left behind."""
    reset = struct.pack("ii", 1, 0)
    with faults.listener() as one, faults.listener() as two:
        stop = threading.Event()

        def accept(server):
            while not stop.is_set():
                accepted = server.accept()[0]
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                accepted.close()

        threads = [threading.Thread(target=accept, args=(server,)) for server in (one, two)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(200):
                with contextlib.suppress(OSError):
                    keep(servers(one, two), happy_eyeballs_delay=0, policy=None).close()
        finally:
            stop.set()
            for server in (one, two):
                with socket.socket() as last:
                    last.connect_ex(server.getsockname())
            for thread in threads:
                thread.join()


def test_early_wakeup_of_the_selector_is_no_connection(monkeypatch, events):
    """Only a peer address proves a connection (Go's issues 14548 and 19289)."""

    class Hasty(selectors.DefaultSelector):
        def select(self, timeout=None):
            return super().select(0) or [(key, key.events) for key in self.get_map().values()]

    monkeypatch.setattr(selectors, "DefaultSelector", Hasty)
    with faults.black_hole_and_server() as both:
        dialer = safedial.Dialer(resolver=servers(*both), happy_eyeballs_delay=DELAY, on_event=events.append)
        dialer.dial(("db", 1)).close()
    assert kinds(events) == [("lost", "::1"), ("connected", "127.0.0.1")]


class TestReturnedSocket:
    @pytest.mark.parametrize("timeout", [None, 5, 0.5])
    @pytest.mark.parametrize("first", ["black hole", "dead port", "server"])
    def test_socket_has_the_promised_blocking_mode(self, keep, timeout, first, dead_port):
        with faults.black_hole_and_server() as (black_hole, server):
            address = {"black hole": black_hole.getsockname(), "dead port": ("127.0.0.1", dead_port)}
            answers = addresses(address.get(first, server.getsockname()), server.getsockname())
            with keep(answers, timeout=timeout) as sock:
                assert sock.gettimeout() == (0 if keep.is_async else timeout)
                non_blocking = fcntl.fcntl(sock, fcntl.F_GETFL) & os.O_NONBLOCK
                assert bool(non_blocking) == (keep.is_async or timeout is not None)

    def test_default_timeout_stays_on_the_socket(self, default_timeout):
        default_timeout(7)
        with faults.black_hole_and_server() as both:
            dialer = safedial.Dialer(resolver=servers(*both), happy_eyeballs_delay=DELAY)
            with dialer.dial(("db", 1)) as sock:
                assert sock.gettimeout() == 7

    def test_timeout_0_means_non_blocking_without_a_race(self, events):
        with faults.black_hole_and_server() as both:
            dialer = safedial.Dialer(resolver=servers(*both), timeout=0, on_event=events.append)
            with pytest.raises(ExceptionGroup) as caught:
                dialer.dial(("db", 1), all_errors=True)
        assert [type(error) for error in caught.value.exceptions] == [BlockingIOError] * 2
        assert kinds(events) == [("failed", "::1"), ("failed", "127.0.0.1")]

    def test_failing_socket_option_is_named(self, keep, server):
        with pytest.raises(OSError, match="not available") as caught:
            keep(servers(server), socket_options=[(socket.SOL_SOCKET, 9999, 1)])
        assert any("socket_options: setsockopt(1, 9999)" in note for note in caught.value.__notes__)

    def test_socket_options_are_set(self, keep):
        options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        with faults.black_hole_and_server() as both, keep(servers(*both), socket_options=options) as sock:
            assert all(sock.getsockopt(*option[:2]) == 1 for option in options)


class TestSourceAddress:
    """Go's TestDialerLocalAddr."""

    def test_addresses_of_another_family_are_skipped(self, keep, events):
        with faults.black_hole_and_server() as both:
            source = ("127.0.0.1", 0)
            with keep(servers(*both), source_address=source, on_event=events.append, timeout=5) as sock:
                assert sock.getsockname()[0] == "127.0.0.1"
        assert kinds(events) == [("connected", "127.0.0.1")]

    def test_source_port_prevents_a_race(self, keep, events, server):
        with faults.full_listener() as black_hole:
            source = ("127.0.0.1", testing.dead_port())  # in use by none of the black hole's clients
            answers = servers(black_hole, server)
            with keep(answers, source_address=source, timeout=0.5, on_event=events.append) as sock:
                assert sock.getsockname() == source
        assert [event.kind for event in attempts(events)] == ["failed", "connected"]

    @pytest.mark.parametrize("delay", [None, DELAY])
    def test_no_address_of_its_family_is_an_error(self, keep, dead_port, delay):
        with pytest.raises(OSError, match="family") as caught:
            keep(
                addresses(("127.0.0.1", dead_port), ("127.0.0.2", dead_port)),
                source_address=("::1", 0),
                happy_eyeballs_delay=delay,
            )
        assert not isinstance(caught.value, ConnectionRefusedError)
        assert "::1" in str(caught.value) + "".join(caught.value.__notes__)

    def test_no_address_of_its_family_with_all_errors(self, dead_port):
        with pytest.raises(ExceptionGroup) as caught:
            safedial.safe_connect(("127.0.0.1", dead_port), None, ("::1", 0), all_errors=True)
        assert [type(error) for error in caught.value.exceptions] == [socket.gaierror]
        assert caught.value.exceptions[0].errno == socket.EAI_ADDRFAMILY

    def test_source_host_may_be_a_name(self, keep, server):
        keep(servers(server), source_address=("localhost", 0)).close()


class TestCancel:
    def test_cancel_during_the_dial(self, loop_factory):
        """Go's TestDialCancel."""

        async def main():
            with faults.black_hole_and_server() as (black_hole, _), faults.full_listener() as other:
                dialer = safedial.Dialer(resolver=servers(black_hole, other), happy_eyeballs_delay=DELAY)
                task = asyncio.create_task(dialer.dial_async(("db", 1)))
                await asyncio.sleep(2 * DELAY)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert len(asyncio.all_tasks()) == 1

        dials.run(main(), loop_factory)

    def test_cancel_at_the_moment_of_success(self, loop_factory, server):
        """Go's TestDialContextCancelRace: either a connection or a cancellation comes out."""

        async def main():
            dialer = safedial.Dialer(resolver=servers(server, server), happy_eyeballs_delay=0)
            for turns in range(20):
                for _ in range(10):
                    task = asyncio.create_task(dialer.dial_async(("db", 1)))
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    task.cancel()
                    try:
                        sock = await task
                    except asyncio.CancelledError:
                        continue
                    sock.close()
                assert len(asyncio.all_tasks()) == 1

        with contextlib.closing(server):
            server.listen(4096)
            dials.run(main(), loop_factory)

    def test_cancel_after_the_dial_leaves_the_connection(self, loop_factory, server):
        """Go's TestCancelAfterDial."""

        async def main():
            task = asyncio.create_task(safedial.Dialer(total_timeout=0.5).dial_async(server.getsockname()))
            with await task as sock:
                task.cancel()
                await asyncio.sleep(0.7)
                await asyncio.get_running_loop().sock_sendall(sock, b"x")
                with server.accept()[0] as end:
                    assert end.recv(1) == b"x"

        dials.run(main(), loop_factory)
