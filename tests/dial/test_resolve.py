"""Each round resolves the name again, with the system's resolver or the user's: sync, async or broken."""

import asyncio
import errno
import functools
import socket
import struct
import threading

import pytest

import safedial
from safedial._dial import seen
from safedial._dial.resolve import checked_answer
from tests.support import dials, faults, namespace
from tests.support.resolvers import hosts

POLICY = safedial.reconnect(5, 0.001, 0.001)


def test_every_round_asks_the_resolver_again(dial, monkeypatch, dead_port, server):
    """So a server that moved is found at its new address."""
    rounds = iter([[faults.tcp("127.0.0.1", dead_port)]] * 3 + [[faults.tcp(*server.getsockname())]])
    ends = dial("db", 5432, resolver=lambda *args, **hints: next(rounds), policy=POLICY)
    assert ends.peer == server.getsockname()


@pytest.mark.parametrize("name", [name for name in dials.DIALS if "uvloop" not in name])  # resolves in C
def test_every_round_asks_the_systems_resolver_again(name, monkeypatch, server):
    port = server.getsockname()[1]
    rounds = iter([hosts("::1", port=port), hosts("::1", port=port), hosts("127.0.0.1", port=port)])
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwds: next(rounds)())
    assert dials.DIALS[name]("db", port, policy=POLICY).peer == server.getsockname()


def test_resolver_gets_the_arguments_of_getaddrinfo(dial, server):
    def resolver(host, port, **hints):
        asked.append((host, port, hints))
        return [faults.tcp(*server.getsockname())]

    asked = []
    assert dial("db", "postgresql", resolver=resolver, family=socket.AF_INET).peer == server.getsockname()
    hints = {"family": socket.AF_INET, "type": socket.SOCK_STREAM, "proto": 0, "flags": 0}
    assert asked == [("db", "postgresql", hints)]


def test_getaddrinfo_is_a_resolver(dial, server):
    assert dial("localhost", server.getsockname()[1], resolver=socket.getaddrinfo).peer == server.getsockname()


def test_resolver_is_not_asked_for_a_numeric_host(dial, server):
    def resolver(*args, **hints):
        raise AssertionError

    dial(*server.getsockname(), resolver=resolver)


def test_addresses_of_another_family_are_not_dialed(dial, server):
    resolver = lambda *args, **hints: [faults.tcp("::1", 9), faults.tcp(*server.getsockname())]  # noqa: E731
    assert dial("db", 1, resolver=resolver, family=socket.AF_INET).peer == server.getsockname()
    with pytest.raises(OSError, match="resolver returned no address"):
        dial("db", 1, resolver=lambda *args, **hints: [faults.tcp("127.0.0.1", 9)], family=socket.AF_INET6)


@pytest.mark.parametrize("host", ["fe80::1%lo", "fe80::1%1", "::1"])
def test_addresses_with_a_zone_are_valid(host):
    assert checked_answer([(10, 1, 6, "", (host, 80, 0, 0))], 0)
    assert checked_answer([(10, 1, 6, "", (host, 80))], socket.AF_INET6)


class Async:
    async def __call__(self, host, port, **hints):
        await asyncio.sleep(0)
        return (info for info in [faults.tcp("127.0.0.1", port)])  # any iterable


class TestAsync:
    @pytest.mark.parametrize("resolver", [Async(), Async().__call__, functools.partial(Async())], ids=range(3))
    def test_awaitable_answer_is_awaited(self, resolver, loop_factory, server):
        dialer = safedial.Dialer(resolver=resolver)
        with dials.run(dialer.dial_async(("db", server.getsockname()[1])), loop_factory) as sock:
            assert sock.getpeername() == server.getsockname()

    @pytest.mark.parametrize("resolver", [Async(), Async().__call__], ids=range(2))
    def test_async_resolver_in_a_blocking_dial_is_an_error(self, resolver):
        with pytest.raises(TypeError, match="resolver: its answer must be awaited"):
            safedial.safe_connect(("db", 1), resolver=resolver)

    def test_blocking_resolver_runs_in_a_thread(self, loop_factory, server):
        def resolver(host, port, **hints):
            threads.append(threading.current_thread())
            return [faults.tcp(*server.getsockname())]

        def generator(host, port, **hints):
            yield from resolver(host, port)

        threads = []
        for either in (resolver, generator):
            dials.run(safedial.Dialer(resolver=either).dial_async(("db", 1)), loop_factory).close()
        assert len(threads) == 2
        assert threading.current_thread() not in threads

    def test_source_address_is_not_resolved_by_it(self, loop_factory, server):
        def resolver(host, port, **hints):
            assert host == "db"
            return [faults.tcp(*server.getsockname())]

        dialer = safedial.Dialer(resolver=resolver, source_address=("localhost", 0))
        dials.run(dialer.dial_async(("db", 1)), loop_factory).close()


class TestFailingResolver:
    @pytest.mark.parametrize(
        "error", [socket.gaierror(socket.EAI_NONAME, "not known"), OSError(5, "I/O"), TimeoutError("late")], ids=repr
    )
    def test_oserror_fails_the_round(self, dial, error):
        events = []

        def resolver(*args, **hints):
            raise error

        with pytest.raises(OSError, match=str(error.args[-1])) as caught:
            dial("db", 1, resolver=resolver, on_event=events.append)
        assert type(caught.value) is type(error)  # asyncio copies a TimeoutError from a thread
        assert any("resolving db" in note for note in caught.value.__notes__)
        assert [(event.kind, event.address) for event in events] == [("failed", None), ("gave_up", None)]

    def test_temporary_failure_is_retried(self, dial, server):
        def resolver(*args, **hints):
            rounds.append(1)
            if len(rounds) < 3:
                raise socket.gaierror(socket.EAI_AGAIN, "try again")
            return [faults.tcp(*server.getsockname())]

        rounds = []
        dial("db", 1, resolver=resolver, policy=POLICY)

    def test_other_exceptions_end_the_dial(self, dial):
        def resolver(*args, **hints):
            raise LookupError("no such record")

        with pytest.raises(LookupError, match="no such record") as caught:
            dial("db", 5432, resolver=resolver, policy=POLICY)
        assert caught.value.__notes__ == ["safedial: raised by the resolver for db port 5432"]

    @pytest.mark.parametrize("name", ["safe_connect", "open_connection"])
    def test_system_resolvers_exception_gets_no_note(self, name, monkeypatch):
        def getaddrinfo(*args, **kwds):
            raise LookupError

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        with pytest.raises(LookupError) as caught:
            dials.DIALS[name]("db", 1)
        assert not getattr(caught.value, "__notes__", [])

    def test_stop_iteration_ends_the_dial(self, dial):
        """An asyncio Future can't hold StopIteration: before Python 3.12 the dial would wait for ever."""
        with pytest.raises((StopIteration, RuntimeError)):
            dial("db", 1, resolver=lambda *args, **hints: next(iter(())))

    @pytest.mark.parametrize("answer", [[], (), iter(())], ids=["list", "tuple", "iterator"])
    def test_empty_answer_is_an_error(self, dial, answer):
        with pytest.raises(OSError, match="resolver returned no address") as caught:
            dial("db", 1, resolver=lambda *args, **hints: answer)
        assert any("resolving db" in note for note in caught.value.__notes__)

    @pytest.mark.parametrize("answer", [None, 7, "127.0.0.1", b"127.0.0.1"], ids=repr)
    def test_answer_that_is_no_list_of_tuples_is_an_error(self, dial, answer):
        with pytest.raises(TypeError, match="resolver must return a list of 5-tuples"):
            dial("db", 1, resolver=lambda *args, **hints: answer)

    @pytest.mark.parametrize(
        "info",
        [
            7,
            ("127.0.0.1", 80),
            "127.0.0.1",
            (2, 1, 6, ""),
            (2, 1, 6, "", None),
            (2, 1, 6, "", ("127.0.0.1",)),
            (2, 1, 6, "", (None, 80)),
            (2, 1, 6, "", ("127.0.0.1", "80")),
            (2, 1, 6, "", ("127.0.0.1", -1)),
            (2, 1, 6, "", ("127.0.0.1", 65536)),
            (2, 1, 6, "", ("localhost", 80)),  # would be resolved again, by connect()
            (2, 1, 6, "", ("::1", 80)),
            (10, 1, 6, "", ("127.0.0.1", 80)),
            (2, 2, 17, "", ("127.0.0.1", 80)),  # a datagram socket connects to anything
            (2, 1, None, "", ("127.0.0.1", 80)),
            (2, 1.0, 6, "", ("127.0.0.1", 80)),
            (2, 1, 2**40, "", ("127.0.0.1", 80)),
            (2, 1, 6, "", ["127.0.0.1", 80]),
            (2, 1, 6, "", ("127.0.0.1", 80.0)),
            (2, 1, 6, "", ("127.0.0.1", True)),
            (2, 1, 6, "", ("127.0.0.1", 80, 0, 0)),
            (2, 1, 6, "", ("127.0.0.1%lo", 80)),
            (10, 1, 6, "", ("::1", 80, 0, "lo")),
            (10, 1, 6, "", ("::1", 80, 2**20, 0)),
            (10, 1, 6, "", ("::1", 80, 0, 2**32)),
            (10, 1, 6, "", ("::1", 80, 0, 0, 0)),
            (10, 1, 6, "", ("fe80::1%nosuch", 80, 0, 0)),
            (99, 1, 6, "", ("127.0.0.1", 80)),
            (1, 1, 0, "", "/run/db.sock"),
        ],
        ids=repr,
    )
    def test_invalid_address_in_the_answer_is_an_error(self, dial, info):
        with pytest.raises(ValueError, match="resolver must return"):
            dial("db", 1, resolver=lambda *args, **hints: [faults.tcp("127.0.0.1", 9), info])

    def test_exception_of_a_generator_is_kept(self, dial):
        def resolver(*args, **hints):
            yield faults.tcp("127.0.0.1", 9)
            raise TypeError("a bug in the generator")

        with pytest.raises(TypeError, match="a bug in the generator"):
            dial("db", 1, resolver=resolver)

    @pytest.mark.parametrize("resolver", ["dns", 7, []], ids=repr)
    def test_resolver_that_is_not_callable_is_an_error(self, dial, resolver):
        with pytest.raises(TypeError, match="resolver must be callable"):
            dial("db", 1, resolver=resolver)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "-"])
def test_unknown_host_raises_gaierror(dial, host):
    with pytest.raises(socket.gaierror) as caught:
        dial(host, 80)
    assert host in "".join(caught.value.__notes__)


@pytest.fixture
def nothing_seen(monkeypatch):
    monkeypatch.setattr(seen, "_seen", set())


@pytest.mark.usefixtures("nothing_seen")
class TestNameThatWasThere:
    """`safedial._retry.transient` reads the mark: a name that resolved before may come back, a typo won't."""

    def gone(self, dial, host="db", code=socket.EAI_NONAME, **options):
        def resolver(*args, **hints):
            raise socket.gaierror(code, "gone")

        with pytest.raises(socket.gaierror) as caught:
            dial(host, 1, resolver=resolver, policy=None, **options)
        return safedial._retry.transient.is_transient(caught.value)

    def test_is_marked(self, dial, server):
        assert not self.gone(dial)
        dial("db", 1, resolver=lambda *args, **hints: [faults.tcp(*server.getsockname())])
        assert self.gone(dial)
        assert not self.gone(dial, "another")

    def test_counts_if_the_dial_failed(self, dial, dead_port):
        with pytest.raises(ConnectionRefusedError):
            dial("db", 1, resolver=hosts("127.0.0.1", port=dead_port))
        assert self.gone(dial)

    def test_is_known_to_every_kind_of_dial(self, server):
        dials.DIALS["safe_connect"]("localhost", server.getsockname()[1])
        assert all(self.gone(dial, "localhost") for dial in dials.DIALS.values())

    def test_counts_for_its_family_alone(self, dial, server):
        dial("db", 1, resolver=lambda *args, **hints: [faults.tcp(*server.getsockname())])
        assert not self.gone(dial, family=socket.AF_INET6)

    def test_error_about_another_argument_is_not_marked(self, dial, server):
        dial("db", 1, resolver=lambda *args, **hints: [faults.tcp(*server.getsockname())])
        assert not self.gone(dial, code=socket.EAI_SERVICE)

    def test_memory_is_bounded(self):
        for number in range(10 * seen._MOST):
            seen.remember((f"host-{number}", 0))
            assert len(seen._seen) <= seen._MOST
        assert (f"host-{number}", 0) in seen._seen


def test_source_address_that_was_there_is_marked():
    namespace.require()
    assert namespace.call(lose_the_source_address) == {
        name: [(errno.EADDRNOTAVAIL, False), "connected", (errno.EADDRNOTAVAIL, True)] for name in dials.DIALS
    }


def lose_the_source_address():
    import fcntl  # not on Windows

    def change(request, value):
        """Change the second address of lo. A command would have no right to."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, request, struct.pack("16s24s", b"lo:1", value))

    def add():
        change(0x8916, struct.pack("HH4s", socket.AF_INET, 0, socket.inet_aton("192.0.2.1")))  # SIOCSIFADDR

    def remove():
        change(0x8914, struct.pack("H", 0))  # SIOCSIFFLAGS: not IFF_UP

    def outcome(dial, address):
        try:
            dial(*address, source=("192.0.2.1", 0), policy=None)
        except OSError as error:
            return error.errno, getattr(error, "_was_there", False)
        return "connected"

    found = {}
    with faults.listener() as server:
        for name, dial in dials.DIALS.items():
            seen._seen.clear()
            found[name] = [outcome(dial, server.getsockname())]
            add()
            found[name].append(outcome(dial, server.getsockname()))
            remove()
            found[name].append(outcome(dial, server.getsockname()))
    return found
