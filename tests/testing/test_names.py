"""Look-ups of a name that fail, by every client that asks Python, and the functions that are put back."""

import _socket
import asyncio
import contextlib
import gc
import signal
import socket
import subprocess
import sys
import threading
from socket import getaddrinfo as imported_before

import anyio
import pytest
import trio

import safedial
from safedial import testing
from safedial._clients import patch
from safedial._dial import replaced, resolve
from safedial.testing import lookups, names
from tests.support import dials, faults, interrupts

NAME = "db.test"
# What there is without any fault; the functions are put back.
PLAIN = {
    (_socket, "getaddrinfo"): _socket.getaddrinfo,
    (socket, "getaddrinfo"): socket.getaddrinfo,
    (socket, "gethostbyname"): socket.gethostbyname,
    (socket, "gethostbyname_ex"): socket.gethostbyname_ex,
    (resolve, "resolver_for"): resolve.resolver_for,
}


def _is_plain():
    loop = vars(dials.uvloop.Loop) if dials.uvloop else {}
    functions = all(getattr(*place) is function for place, function in PLAIN.items())
    return functions and not {"getaddrinfo", "create_connection"} & loop.keys()


@pytest.fixture(autouse=True)
def _everything_is_put_back():
    yield
    assert _is_plain()
    assert not any(type(finder).__module__.startswith("safedial") for finder in sys.meta_path)


@pytest.fixture
def port():
    """The port of a server at 127.0.0.1, which the test's name resolves to."""
    with faults.listener() as server, names.resolving(NAME, "127.0.0.1"):
        yield server.getsockname()[1]


def never_asked(*args, **hints):
    raise AssertionError("the user's resolver was asked")


async def never_awaited(*args, **hints):
    raise AssertionError("the user's resolver was asked")


def _connect(name, port):
    with socket.socket() as sock:
        sock.connect((name, port))


def _connect_ex(name, port):
    with socket.socket() as sock:
        assert sock.connect_ex((name, port)) == 0


async def _asyncio(name, port):
    _, writer = await asyncio.open_connection(name, port)
    writer.close()
    await writer.wait_closed()


async def _by_keywords(name, port):
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(protocol_factory=asyncio.Protocol, host=name, port=port)
    transport.close()
    await asyncio.sleep(0)  # it closes in the loop's next turn


async def _look_up(name, port):
    return await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)


async def _trio(name, port):
    await (await trio.open_tcp_stream(name, port)).aclose()


async def _anyio(name, port):
    await (await anyio.connect_tcp(name, port)).aclose()


CLIENTS = {
    "create_connection": lambda name, port: socket.create_connection((name, port)).close(),
    "getaddrinfo imported before": imported_before,
    "getaddrinfo of bytes": lambda name, port: socket.getaddrinfo(name.encode(), port),
    "connect": _connect,
    "connect_ex": _connect_ex,
    "gethostbyname": lambda name, _: socket.gethostbyname(name),
    "gethostbyname_ex": lambda name, _: socket.gethostbyname_ex(name),
    **{name: lambda *address, loop=loop: dials.run(_asyncio(*address), loop) for name, loop in dials.LOOPS.items()},
    **{
        f"{name}, keywords": lambda *address, loop=loop: dials.run(_by_keywords(*address), loop)
        for name, loop in dials.LOOPS.items()
    },
    **{
        f"{name}, getaddrinfo": lambda *address, loop=loop: dials.run(_look_up(*address), loop)
        for name, loop in dials.LOOPS.items()
    },
    "trio": lambda *address: trio.run(_trio, *address),
    "anyio": lambda *address: anyio.run(_anyio, *address),
    **{name: lambda *address, dial=dial: dial(*address, policy=None) for name, dial in dials.DIALS.items()},
    "resolver": lambda *address: dials.DIALS["safe_connect"](*address, policy=None, resolver=never_asked),
    "resolver, asyncio": lambda *address: dials.DIALS["open_connection"](*address, policy=None, resolver=never_asked),
    "async resolver": lambda *address: dials.DIALS["open_connection"](*address, policy=None, resolver=never_awaited),
}


@pytest.mark.parametrize("error", [socket.EAI_AGAIN, socket.EAI_NONAME], ids=["EAI_AGAIN", "EAI_NONAME"])
@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_every_client(client, error, port):
    with testing.name_failure(NAME, error, times=1) as fault:
        with pytest.raises(socket.gaierror) as caught:
            client(NAME, port)
        assert caught.value.errno == error
        assert fault.triggered == 1
        client(NAME, port)
        assert fault.remaining == 0


def test_the_error_is_the_resolvers_own():
    with pytest.raises(socket.gaierror) as real:
        socket.getaddrinfo(NAME, 80, flags=socket.AI_NUMERICHOST)
    with testing.name_failure(NAME, socket.EAI_NONAME), pytest.raises(socket.gaierror) as ours:
        socket.getaddrinfo(NAME, 80)
    assert real.value.args == ours.value.args


def test_the_text_where_there_is_no_gai_strerror(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with testing.name_failure(NAME), pytest.raises(socket.gaierror, match="getaddrinfo failed"):
        socket.getaddrinfo(NAME, 80)


@pytest.mark.parametrize("asked", ["DB.Test", "db.test.", b"db.test", bytearray(b"DB.TEST.")])
def test_names_are_compared_as_the_dns_does(asked):
    with testing.name_failure("Db.test."), pytest.raises(socket.gaierror) as caught:
        socket.getaddrinfo(asked, 80)
    assert caught.value.errno == socket.EAI_AGAIN


@pytest.mark.parametrize("asked", ["bücher.test", "xn--bcher-kva.test", b"xn--bcher-kva.test"])
def test_a_name_outside_of_ascii(asked):
    with testing.name_failure("bücher.test"), pytest.raises(socket.gaierror) as caught:
        socket.getaddrinfo(asked, 80)
    assert caught.value.errno == socket.EAI_AGAIN


def test_other_names_are_left_alone():
    with testing.name_failure("db.test", unused="ignore") as fault:
        for host in ("localhost", b"localhost", None, "127.0.0.1", "::1"):
            assert socket.getaddrinfo(host, 80) == PLAIN[_socket, "getaddrinfo"](host, 80)
        for host in ("a..b", "x" * 64, 5):  # no names
            with pytest.raises((UnicodeError, TypeError, socket.gaierror)):
                socket.getaddrinfo(host, 80)
        # A question for a number asks no name server.
        with pytest.raises(socket.gaierror) as caught:
            socket.getaddrinfo("db.test", 80, 0, 0, 0, socket.AI_NUMERICHOST)
        assert caught.value.errno == socket.EAI_NONAME
        assert not fault.triggered


@pytest.mark.parametrize("dial", [dials.DIALS["safe_connect"], dials.DIALS["open_connection"]], ids=["sync", "async"])
def test_the_users_resolver_is_asked_for_other_names(dial):
    def resolver(host, port, **hints):
        asked.append(host)
        return socket.getaddrinfo("127.0.0.1", port, **hints)

    asked = []
    with faults.listener() as server, testing.name_failure(NAME, unused="ignore"):
        dial("other.test", server.getsockname()[1], policy=None, resolver=resolver)
    assert asked == ["other.test"]


def test_a_connect_to_a_number_looks_nothing_up():
    with faults.listener() as server:
        fault = testing.name_failure(NAME)
        fault.__enter__()
        _connect(*server.getsockname())
        with pytest.raises(AssertionError, match="no look-up by Python was seen"):
            fault.__exit__(None, None, None)


def test_an_unused_one_says_what_was_looked_up():
    fault = testing.name_failure("db.test")
    fault.__enter__()
    for host in ("localhost", "localhost", "127.0.0.1", None):
        socket.getaddrinfo(host, 80)
    with pytest.raises(AssertionError) as caught:
        fault.__exit__(None, None, None)
    said = "name_failure('db.test') hit no look-up; looked up instead: localhost (2 times); 127.0.0.1"
    assert str(caught.value) == said


def test_several(port):
    with testing.name_failure(NAME, socket.EAI_NONAME, times=1) as outer, testing.name_failure(NAME, times=2) as inner:
        for error in (socket.EAI_AGAIN, socket.EAI_AGAIN, socket.EAI_NONAME):
            with pytest.raises(socket.gaierror) as caught:
                socket.create_connection((NAME, port))
            assert caught.value.errno == error
        socket.create_connection((NAME, port)).close()
    assert (outer.triggered, inner.triggered) == (1, 2)


def test_threads_whose_faults_overlap():
    """Each ends in the other's middle; whoever is last puts everything back."""
    for first in (0, 1):
        stacks = [contextlib.ExitStack() for _ in range(2)]
        for stack in stacks:
            stack.enter_context(testing.name_failure(NAME))
        for stack in (stacks[first], stacks[1 - first]):
            with pytest.raises(socket.gaierror) as caught:
                socket.getaddrinfo(NAME, 80)
            assert caught.value.errno == socket.EAI_AGAIN
            stack.pop_all().__exit__(AssertionError, AssertionError(), None)  # a hit is asked of none
        assert _is_plain()


def test_many_threads_count_each_look_up(port):
    def work():
        for _ in range(50):
            with contextlib.suppress(socket.gaierror):
                socket.getaddrinfo(NAME, port)

    with testing.name_failure(NAME, times=77) as fault:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert fault.triggered == 77


def _fail_for_a_while():
    with testing.name_failure(NAME, unused="ignore"):
        pass


def test_interrupted_exit(monkeypatch):
    """The fault is over, and the next one puts everything back."""

    def interrupted(*args):
        raise interrupts.Interrupt

    with monkeypatch.context() as patched:
        patched.setattr(lookups, "_end", interrupted)
        with pytest.raises(interrupts.Interrupt):
            _fail_for_a_while()
    gc.collect()
    assert not _is_plain()
    with pytest.raises(socket.gaierror) as caught:
        socket.getaddrinfo(NAME, 80, flags=socket.AI_NUMERICHOST)
    assert caught.value.errno == socket.EAI_NONAME
    _fail_for_a_while()
    assert _is_plain()


@pytest.mark.storm
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # __del__ is interrupted, too
@pytest.mark.filterwarnings("ignore:.*never entered:UserWarning")  # an interrupt may come before it is entered
@pytest.mark.parametrize("setter", [sys.setprofile, sys.settrace])
def test_interrupt_at_each_call_and_return(setter):
    def after():
        assert not patch.in_use(lookups._users)
        _fail_for_a_while()
        assert _is_plain()
        assert not patch.lock._is_owned(), "the lock is held for ever"

    assert interrupts.interrupt_each(_fail_for_a_while, setter, after) > 50


@pytest.mark.storm
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised in a callback of the collector
@pytest.mark.filterwarnings("ignore:.*never entered:UserWarning")  # an interrupt may come before it is entered
def test_signals_at_any_instant():
    def act():
        for _ in range(3):
            _fail_for_a_while()

    def after():
        gc.collect()
        assert not patch.in_use(lookups._users)

    delays = [number * 1e-5 for number in range(1, 81)]
    assert interrupts.interrupt_by_signals(act, after, 5_000, delays) > 500
    _fail_for_a_while()
    assert _is_plain()


class TestSomebodyElsesGetaddrinfo:
    def test_that_came_before(self, monkeypatch, port):
        """It stays where it was, and the fault is what it gets from the resolver."""
        asked, original = [], socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda *args, **kwds: asked.append(args[0]) or original(*args, **kwds)
        )
        theirs = socket.getaddrinfo
        with testing.name_failure(NAME, times=1):
            with pytest.raises(socket.gaierror):
                socket.create_connection((NAME, port))
            socket.create_connection((NAME, port)).close()
            assert socket.getaddrinfo is theirs
        assert socket.getaddrinfo is theirs
        assert asked == [NAME, NAME]
        monkeypatch.undo()

    def test_that_is_put_back_too_late(self):
        """Somebody replaced the function beneath after us, and puts back ours when we are gone: it does nothing."""
        with pytest.MonkeyPatch.context() as patch, testing.name_failure(NAME, unused="ignore"):
            patch.setattr(_socket, "getaddrinfo", lambda *args: [])
            assert socket.getaddrinfo("localhost", 80) == []
        assert _socket.getaddrinfo is not PLAIN[_socket, "getaddrinfo"]
        assert socket.getaddrinfo("localhost", 80)
        with testing.name_failure(NAME), pytest.raises(socket.gaierror):  # which looks through the old one
            socket.getaddrinfo(NAME, 80)
        assert _is_plain()

    def test_safedial_takes_ours_for_the_stdlibs(self):
        with testing.name_failure(NAME, unused="ignore"):
            assert replaced.skips_resolver()


@pytest.mark.parametrize("dial", dials.DIALS.values(), ids=dials.DIALS)
def test_reconnect_takes_the_failure_for_a_real_one(dial, port):
    """EAI_NONAME is worth another round if the name has resolved before, or if names=True."""
    with testing.fast_retries() as waits:
        with testing.name_failure("new.test", socket.EAI_NONAME) as fault, pytest.raises(socket.gaierror):
            dial("new.test", port, policy=safedial.reconnect(names=False))
        assert fault.triggered == 1
        dial(NAME, port)
        with testing.name_failure(NAME, socket.EAI_NONAME, times=2):
            dial(NAME, port, policy=safedial.reconnect(names=False))
        with testing.name_failure(NAME, socket.EAI_AGAIN, times=2):
            dial(NAME, port, policy=safedial.reconnect())
        assert len(waits) == 4


@pytest.mark.skipif(dials.uvloop is None, reason="uvloop has no wheel for this Python")
def test_uvloop_that_is_imported_later():
    code = """
import asyncio, socket, sys
from safedial import testing
assert "uvloop" not in sys.modules
with testing.name_failure("db.test") as fault:
    import uvloop
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(asyncio.open_connection("db.test", 80))
        except socket.gaierror as error:
            assert error.errno == socket.EAI_AGAIN
    assert fault.triggered == 1
assert vars(uvloop.Loop).keys().isdisjoint({"getaddrinfo", "create_connection"})
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("loop", dials.LOOPS.values(), ids=dials.LOOPS)
@pytest.mark.parametrize("way", [safedial.guard, safedial.install])
def test_under_the_guard(way, loop, port):
    with contextlib.ExitStack() as stack:
        if way is safedial.install:
            safedial.install()
            stack.callback(safedial.uninstall)
        else:
            stack.enter_context(safedial.guard())
        for client in (_connect, lambda *address: dials.run(_asyncio(*address), loop)):
            with testing.name_failure(NAME, times=1) as fault:
                with pytest.raises(socket.gaierror):
                    client(NAME, port)
                assert fault.triggered == 1
                client(NAME, port)


@pytest.mark.storm
@pytest.mark.parametrize("patched", [True, False])
def test_gevent(patched):
    pytest.importorskip("gevent", reason="gevent has no wheel for this Python")
    code = f"""
import gevent.monkey
if {patched}:
    gevent.monkey.patch_all()
import gevent.socket, socket
from safedial import testing
for module in (socket, gevent.socket):
    with testing.name_failure("db.test") as fault:
        try:
            module.create_connection(("db.test", 80))
        except socket.gaierror as error:
            assert error.errno == socket.EAI_AGAIN
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        ((b"db",), TypeError, "name must be a host name, not b'db'"),
        (("",), ValueError, "name must be a host name, not ''"),
        (("127.0.0.1",), ValueError, "name must be a host name, not '127.0.0.1'"),
        (("fe80::1%eth0",), ValueError, "name must be a host name"),
        (("db:5432",), ValueError, "name must be a host name, not 'db:5432'"),
        (("db", "EAI_AGAIN"), TypeError, r"error must be a code such as socket\.EAI_AGAIN, not 'EAI_AGAIN'"),
        (("db", True), TypeError, "error must be a code"),
        (("db", 12345), ValueError, r"error must be one of socket\..*EAI_AGAIN.*, not 12345"),
        (("db", socket.EAI_AGAIN, 0), ValueError, "times must be at least 1"),
    ],
)
def test_wrong_arguments(arguments, kind, said):
    with pytest.raises(kind, match=said), testing.name_failure(*arguments):
        pass


@pytest.mark.skipif(not hasattr(socket, "EAI_SYSTEM"), reason="this system has no EAI_SYSTEM")
def test_python_raises_no_gaierror_for_eai_system():
    with pytest.raises(ValueError, match="error must be one of"), testing.name_failure("db", socket.EAI_SYSTEM):
        pass


def test_unittest_users(tmp_path):
    code = """
import socket, unittest
from safedial import reconnect, safe_connect, testing

class Test(unittest.TestCase):
    def test_client_waits_for_the_name(self):
        port = self.enterContext(testing.server_port())
        self.enterContext(testing.Outage(port=port))
        fault = self.enterContext(testing.name_failure("localhost", times=2))
        waits = self.enterContext(testing.fast_retries())
        safe_connect(("localhost", port), policy=reconnect()).close()
        self.assertEqual((fault.triggered, len(waits)), (2, 2))

    def test_client_gives_up(self):
        port = self.enterContext(testing.silent_port())
        with self.assertRaises(TimeoutError):
            socket.create_connection(("127.0.0.1", port), 0.05)
"""
    (tmp_path / "test_it.py").write_text(code)
    subprocess.run([sys.executable, "-m", "unittest", "-q", "test_it"], check=True, cwd=tmp_path)
