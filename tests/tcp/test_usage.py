"""When the ports in use are counted: if somebody reads the figures, once a second, and never in an event loop."""

import asyncio
import copy
import errno
import io
import logging
import pickle
import socket
import sys
import threading

import pytest

import safedial
from safedial._tcp import procnet, usage
from tests.support import dials, exhaustion, faults, namespace

PORTS = (40000, 40009)


async def open_connection(address):
    await safedial.open_connection(*address, policy=None)


async def guarded_open_connection(address):
    with safedial.guard():
        await asyncio.open_connection(*address)


def guarded(address):
    with safedial.guard():
        socket.create_connection(address)


def safe_connect(address):
    safedial.safe_connect(address, policy=None)


BLOCKING = [safe_connect, guarded]
ASYNC = [open_connection, guarded_open_connection]


@pytest.mark.parametrize("port", [40000, 5000], ids=["steered", "not steered"])
def test_who_reads_the_tables_and_when(port):
    namespace.require()
    found = namespace.call(read_the_figures, port, port_range=PORTS)
    assert found == {
        "safe_connect": {"dials": 0, "texts": 1, "in use": 9 + (port == 5000)},
        "guarded": {"dials": 0, "texts": 1, "in use": 9 + (port == 5000)},
        "open_connection": {"dials": 0, "texts": 0, "in the loop": 0, "in a thread": 1},
        "guarded_open_connection": {"dials": 0, "texts": 0, "in the loop": 0, "in a thread": 1},
    }


def read_the_figures(port):
    """Return how often the table of IPv4 was opened, by 20 failing dials and by whoever reads their figures."""
    opened = []
    sys.addaudithook(lambda event, args: event == "open" and opened.append((str(args[0]), threading.get_ident())))
    logging.basicConfig(stream=io.StringIO(), level=logging.DEBUG)
    logging.getLogger("safedial").setLevel(logging.WARNING)

    def tables():
        times = sum(path == "/proc/thread-self/net/tcp" for path, _ in opened)
        opened.clear()
        return times

    def files_of_this_thread():
        return [path for path, thread in opened if thread == threading.get_ident() and path.startswith("/proc")]

    async def dial_and_read(dial):
        logging.getLogger("safedial").setLevel(logging.DEBUG)  # in the loop, the log counts nothing either
        errors = await asyncio.gather(*(dial(address) for _ in range(20)), return_exceptions=True)
        assert not files_of_this_thread()
        seen = {"dials": tables()}
        for error in errors:
            assert "the ephemeral range is 40000 to 40009" in str(error)
            assert "asyncio.to_thread(str, error)" in str(error)
            assert error.usage.in_use is None
        assert not files_of_this_thread()
        seen |= {"texts": tables(), "in the loop": len(files_of_this_thread())}
        texts = await asyncio.to_thread(lambda: set(map(str, errors)))
        assert len(texts) == 1
        assert texts == set(map(str, errors)), "an error keeps its figures"
        return seen | {"in a thread": tables()}

    found = {}
    with exhaustion.used_up(port) as address:
        for dial in BLOCKING:
            errors = [failure(dial, address) for _ in range(20)]
            seen = found[dial.__name__] = {"dials": tables()}
            assert len(set(map(str, errors))) == 1
            seen |= {"texts": tables(), "in use": errors[0].usage.in_use}
            exhaustion.forget()
        for dial in ASYNC:
            found[dial.__name__] = dials.run(dial_and_read(dial))
            exhaustion.forget()
    return found


def failure(dial, *args):
    try:
        dial(*args)
    except OSError as error:
        return error
    raise AssertionError("it connected")


@pytest.fixture
def exhausted(server):
    """An error of which nothing is counted yet, for a destination with one connection."""
    usage._counted.clear()
    with socket.create_connection(server.getsockname()) as sock:
        counter = usage.Counter(sock, server.getsockname(), None)
        yield safedial.PortsExhaustedError.at(*server.getsockname(), counter=counter)
    usage._counted.clear()


@pytest.fixture
def counts(monkeypatch):
    """The times of counting."""
    times = []
    count = procnet.usage
    monkeypatch.setattr(procnet, "usage", lambda *args: times.append(args) or count(*args))
    return times


@pytest.mark.parametrize(
    ("read", "times"),
    [(str, 1), (lambda error: error.usage, 1), (pickle.dumps, 1), (copy.copy, 1), (repr, 0), (lambda e: e.args, 0)],
    ids=["str", "usage", "pickle", "copy", "repr", "args"],
)
def test_what_counts(exhausted, counts, read, times):
    for _ in range(3):
        read(exhausted)
    assert len(counts) == times


def test_count_is_believed_for_a_second(exhausted, counts, server):
    another = safedial.PortsExhaustedError.at(*server.getsockname(), counter=exhausted._counter)
    later = safedial.PortsExhaustedError.at(*server.getsockname(), counter=exhausted._counter)
    assert str(exhausted) == str(another)
    assert len(counts) == 1
    exhaustion.forget()
    assert str(later) == str(exhausted)
    assert len(counts) == 2
    assert exhausted.usage is another.usage is not later.usage, "an error keeps its figures"
    assert len(counts) == 2


def test_figures_of_the_last_second_are_shown_in_an_event_loop(exhausted, server):
    another = safedial.PortsExhaustedError.at(*server.getsockname(), counter=exhausted._counter)
    text = str(exhausted)

    async def main():
        return str(another)

    assert asyncio.run(main()) == text


def test_threads_count_once(exhausted, counts, server):
    errors = [safedial.PortsExhaustedError.at(*server.getsockname(), counter=exhausted._counter) for _ in range(8)]
    together, texts = threading.Barrier(8), []

    def read(error):
        together.wait()
        texts.append(str(error))

    threads = [threading.Thread(target=read, args=[error]) for error in errors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(texts)) == 1
    assert len(counts) == 1


def test_cache_is_bounded(exhausted, monkeypatch):
    monkeypatch.setattr(usage, "_counted", dict.fromkeys(range(usage._MOST), (0.0, None)))
    str(exhausted)
    assert len(usage._counted) == 1


def test_copy_has_the_figures_and_no_counter(exhausted):
    twin = pickle.loads(pickle.dumps(exhausted))
    assert (str(twin), twin.usage, twin.host, twin.port) == (
        str(exhausted),
        exhausted.usage,
        exhausted.host,
        exhausted.port,
    )
    assert "_counter" not in vars(twin)


@pytest.mark.parametrize("cookie", [True, False], ids=["SO_NETNS_COOKIE", "before Linux 5.14"])
def test_namespaces_are_not_mixed(cookie):
    namespace.require()
    assert namespace.call(count_in_two_namespaces, cookie) == {"here": 1, "there": 0, "of the one here": None}


def count_in_two_namespaces(cookie):
    """Count the connections to one address in two namespaces within a second."""
    if not cookie:
        usage._SO_NETNS_COOKIE = 9999
    found = {}

    def error():
        with socket.socket() as sock:
            counter = usage.Counter(sock, ("127.0.0.1", 5000), None)
        return safedial.PortsExhaustedError.at("127.0.0.1", 5000, counter=counter)

    def there(other):
        namespace.enter_network()
        found["there"] = error().usage.in_use
        found["of the one here"] = other.usage.in_use

    with faults.listener(port=5000) as server, socket.create_connection(server.getsockname()):
        first, other = error(), error()
        found["here"] = first.usage.in_use
        thread = threading.Thread(target=there, args=[other])
        thread.start()
        thread.join()
        assert other.usage.in_use == 1
    return found


def test_no_descriptor_is_left_to_count_with(exhausted):
    def fail(*args):
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usage._socket, "socket", fail)
        assert "no local port is free" in str(exhausted)
    assert exhausted.usage.in_use == 1, "later there is one"


@faults.forks_among_threads
def test_child_forked_while_a_thread_counts_can_count(server):
    def count():
        usage._counted.clear()
        with socket.socket() as sock:
            return usage.Counter(sock, server.getsockname(), None).counted().in_use == 0

    faults.fork_beside(count, count, 8)


def test_look_of_a_thread_in_another_namespace_sees_nothing():
    namespace.require()
    with socket.socket() as sock:
        try:
            sock.getsockopt(socket.SOL_SOCKET, usage._SO_NETNS_COOKIE, 8)
        except OSError:
            pytest.skip("this kernel has no SO_NETNS_COOKIE (Linux 5.14), and no event loop reads a file instead")
    assert namespace.call(look_from_another_namespace) == [True, False]


def look_from_another_namespace():
    """Return whether a look knows the range: one from the socket's namespace, then one from another."""
    found = []

    async def dial(sock):
        await usage.range_now(asyncio.get_running_loop(), sock, None)
        found.append(usage.look(usage.namespace_of(sock)).settings is not None)

    with socket.socket() as sock:
        dials.run(dial(sock))
        exhaustion.forget()
        namespace.enter_network()
        dials.run(dial(sock))
    return found


@pytest.fixture
def no_look_yet():
    usage._looks.clear()
    yield
    usage._looks.clear()


@pytest.mark.usefixtures("no_look_yet")
class TestLook:
    """In an event loop a thread looks at the settings."""

    def dial(self, server, **options):
        port = server.getsockname()[1]
        narrow = [faults.option(port, port)]
        return safedial.open_connection("127.0.0.1", port, policy=None, socket_options=narrow, **options)

    def test_many_dials_start_one_thread(self, server, monkeypatch):
        started = []
        start = usage._thread.start_new_thread
        monkeypatch.setattr(usage._thread, "start_new_thread", lambda *args: started.append(args) or start(*args))

        async def main():
            return await asyncio.gather(*(self.dial(server) for _ in range(20)), return_exceptions=True)

        assert {type(error) for error in dials.run(main())} == {safedial.PortsExhaustedError}
        assert [function.__name__ for function, *_ in started].count("_read") == 1

    @pytest.mark.parametrize(("patience", "limit"), [(100, {"timeout": 0.05}), (0.01, {"total_timeout": 60})])
    def test_late_look_costs_its_settings_and_not_the_error(self, server, monkeypatch, patience, limit):
        """A dial waits for the look for half of its limit at most."""
        go_on, looks = threading.Event(), []
        read = usage.Look._read
        monkeypatch.setattr(usage.Look, "_read", lambda look: (looks.append(look), go_on.wait(20), read(look)))
        monkeypatch.setattr(usage, "_PATIENCE", patience)
        try:
            with pytest.raises(safedial.PortsExhaustedError):
                dials.run(self.dial(server, **limit))
            assert not any(look.done for look in looks)
        finally:
            go_on.set()

    def test_no_thread_can_be_started(self, server, monkeypatch):
        def fail(*args):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(usage._thread, "start_new_thread", fail)
        with pytest.raises(safedial.PortsExhaustedError):
            dials.run(self.dial(server))

    def test_cancelled_meanwhile(self, server, monkeypatch):
        begun, go_on = threading.Event(), threading.Event()
        read = usage.Look._read
        monkeypatch.setattr(usage.Look, "_read", lambda look: (begun.set(), go_on.wait(10), read(look)))
        monkeypatch.setattr(usage, "_PATIENCE", 100)

        async def main():
            task, other = asyncio.ensure_future(self.dial(server)), asyncio.ensure_future(self.dial(server))
            await asyncio.to_thread(begun.wait, 10)
            task.cancel()
            try:
                with pytest.raises(asyncio.CancelledError):
                    await task
            finally:
                go_on.set()
            with pytest.raises(safedial.PortsExhaustedError):  # the look goes on for the others, and wakes them
                await asyncio.wait_for(other, 20)

        dials.run(main())
