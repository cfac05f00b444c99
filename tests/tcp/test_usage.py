"""When the ports in use are counted: if somebody reads the figures, once a second, and never in an event loop."""

import asyncio
import builtins
import copy
import errno
import io
import logging
import pickle
import socket
import subprocess
import sys
import threading

import pytest

import safedial
from safedial import _clock
from safedial._sentences import sentence
from safedial._tcp import namespaces, settings_thread, steering, usage
from safedial._tcp.remedy import ELSEWHERE
from tests.support import dials, exhaustion, faults, namespace

PORTS = (40000, 40009)
ADDRESSES = (f"127.77.0.{number}" for number in range(1, 255))


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


@pytest.mark.parametrize(
    "port", [pytest.param(40000, id="steered"), pytest.param(5000, id="not steered", marks=pytest.mark.storm)]
)
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
    usage._AGE = settings_thread._AGE = 60.0  # all are read in one "second"
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
            assert str(error).endswith(". To count the ports in use: str(error) in a thread")
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
def clock(monkeypatch):
    """The time, in a list. It stands still."""
    now = [_clock.real()]
    monkeypatch.setattr(_clock, "real", lambda: now[0])
    return now


@pytest.fixture
def server():
    """A server on an address of its own: others of this port may have left connections in TIME_WAIT."""
    with socket.create_server((next(ADDRESSES), 0)) as listening:
        yield listening


@pytest.fixture
def exhausted(server, clock):
    """An error of which nothing is counted yet, for a destination with one connection."""
    usage._counted.clear()
    with socket.create_connection(server.getsockname()) as sock:
        counter = usage.Counter(sock, server.getsockname(), None, None)
        yield safedial.PortsExhaustedError.at(*server.getsockname(), counter=counter)
    usage._counted.clear()


@pytest.fixture
def counts(monkeypatch):
    """The times of counting."""
    times = []
    count = usage.count
    monkeypatch.setattr(usage, "count", lambda *args: times.append(args) or count(*args))
    return times


@pytest.mark.parametrize(
    ("read", "times"),
    [(str, 1), (lambda error: error.usage, 1), (pickle.dumps, 1), (copy.copy, 0), (repr, 0), (lambda e: e.args, 0)],
    ids=["str", "usage", "pickle", "copy", "repr", "args"],
)
def test_what_counts(exhausted, counts, read, times):
    for _ in range(3):
        read(exhausted)
    assert len(counts) == times


def test_count_is_believed_for_a_second(exhausted, counts, server, clock):
    another = safedial.PortsExhaustedError.at(*server.getsockname(), counter=exhausted._counter)
    later = safedial.PortsExhaustedError.at(*server.getsockname(), counter=exhausted._counter)
    assert str(exhausted)
    clock[0] += 0.9
    assert str(exhausted) == str(another)
    assert len(counts) == 1
    clock[0] += 0.2
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
    assert namespace.call(count_in_two_namespaces, cookie) == {
        "here": 1,
        "there": 0,
        "of the one here": None,
        "and why": True,
    }


def count_in_two_namespaces(cookie):
    """Count the connections to one address in two namespaces within a second."""
    if not cookie:
        namespaces._SO_NETNS_COOKIE = 9999
    found = {}

    def error():
        with socket.socket() as sock:
            counter = usage.Counter(sock, ("127.0.0.1", 5000), "127.0.0.1", None)
        return safedial.PortsExhaustedError.at("127.0.0.1", 5000, counter=counter)

    def there(other):
        namespace.enter_network()
        found["there"] = error().usage.in_use
        found["of the one here"] = other.usage.in_use
        found["and why"] = str(other).endswith(f"the ephemeral range could not be read. {ELSEWHERE}")

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
        patch.setattr(namespaces._socket, "socket", fail)
        assert "no local port is free" in str(exhausted)
    assert exhausted.usage.in_use == 1, "later there is one"


def test_open_that_a_program_put_in_place_is_not_called(exhausted, monkeypatch):
    called = []
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", lambda *args, **kwds: called.append(args))
        found = steering.read_range(), exhausted.usage
    assert not called
    assert found[0] == steering.read_range() is not None
    assert found[1].in_use == 1
    assert found[1].host_time_wait is not None


def test_error_can_be_shown_while_the_interpreter_shuts_down():
    done = subprocess.run(
        [sys.executable, "-c", SHUTTING_DOWN], timeout=60, check=False, capture_output=True, text=True
    )
    assert done.stdout.startswith("[Errno 99] "), done.stdout + done.stderr
    assert "no local port is free to reach 127.0.0.1 port 5000" in done.stdout


SHUTTING_DOWN = """
import _socket, os, socket
import safedial
from safedial._tcp import usage

class Late:
    def __init__(self, error):
        self.error = error
    def __del__(self, write=os.write, show=str, every=BaseException):
        try:
            text = show(self.error)
        except every as error:
            text = "raised " + error.__class__.__name__
        write(1, text.encode())

with socket.socket() as sock:
    counter = usage.Counter(sock, ("127.0.0.1", 5000), None, None)
# This module outlives the names in the modules of safedial.
_socket.late = Late(safedial.PortsExhaustedError.at("127.0.0.1", 5000, counter=counter))
"""


@faults.forks_among_threads
def test_child_forked_while_a_thread_counts_can_count(server):
    def count():
        usage._counted.clear()
        with socket.socket() as sock:
            return usage.Counter(sock, server.getsockname(), None, None).counted().in_use == 0

    faults.fork_beside(count, count, 8)


def test_error_copied_in_an_event_loop_counts_later(exhausted):
    async def main():
        return copy.copy(exhausted), copy.deepcopy(exhausted)

    exhausted.add_note("a note")
    for twin in asyncio.run(main()):
        assert twin.usage.in_use == 1
        assert (twin.args, twin.host, twin.port) == (exhausted.args, exhausted.host, exhausted.port)
        assert twin.__notes__ == ["a note"]


def test_the_hint_fits_whoever_reads_it(exhausted):
    """In an event loop: an exception's reader has the exception, a log's reader has a shell."""
    records = []

    async def main():
        return str(exhausted), records.append(sentence(safedial.DialEvent("failed", "h", 1, None, 1, 0.0, exhausted)))

    text, _ = asyncio.run(main())
    assert text.endswith("str(error) in a thread")
    said = records[0][1][2]
    assert "str(error)" not in said
    command = said.rpartition("To count the ports in use: ")[2]
    assert subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout.split() == ["1"]
