"""The guard can't be switched off by accident: interrupts at every instant, the recursion limit, mocks."""

import _socket
import contextlib
import gc
import signal
import socket
import sys
import threading
import unittest.mock

import pytest

import safedial
from safedial import testing
from safedial._clients import guard, patch
from safedial.testing import intercept
from tests.support import faults, interrupts

HOST = "127.0.0.1"
PLAIN = socket.socket
pytestmark = [
    # A guard whose making was interrupted was not entered, and says so.
    pytest.mark.filterwarnings("ignore:.*never entered:ResourceWarning"),
    # If there is no room on the stack, there is none for __del__.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _nothing_patched_afterwards(monkeypatch):
    before = socket.socket, vars(PLAIN).get("connect"), vars(PLAIN).get("connect_ex")
    yield
    monkeypatch.undo()
    safedial.uninstall()
    assert not patch.lock._is_owned(), "the lock is held for ever"
    assert (socket.socket, vars(PLAIN).get("connect"), vars(PLAIN).get("connect_ex")) == before
    assert not patch._layers


def is_guarded(port):
    return faults.is_guarded(port, PLAIN)


@pytest.fixture
def assert_works(dead_port):
    """Assert that a guard guards, and that after it the methods are the stdlib's own."""

    def check():
        with safedial.guard():
            assert is_guarded(dead_port)
        assert "connect" not in vars(PLAIN), "still replaced"
        assert "connect_ex" not in vars(PLAIN), "still replaced"
        assert safedial.is_guarded() is None
        assert not patch._layers

    return check


def enter():
    with safedial.guard():
        pass


def enter_ours():
    with guard.inside():
        pass


def nest():
    with safedial.guard(), guard.inside():
        pass


def install():
    safedial.install()
    safedial.uninstall()


def decorated():
    safedial.guard(len)(())


# Each takes some seconds.
SLOW = [pytest.param(act, marks=pytest.mark.storm) for act in (enter_ours, nest, install, decorated)]


@pytest.mark.parametrize("act", [enter, *SLOW], ids=lambda act: act.__name__)
class TestInterrupts:
    @pytest.mark.parametrize("setter", [pytest.param(sys.setprofile, marks=pytest.mark.storm), sys.settrace])
    def test_at_each_call_and_return(self, act, setter, assert_works):
        def after():
            safedial.uninstall()
            assert_works()

        assert interrupts.interrupt_each(act, setter, after) > 20

    def test_at_each_depth_of_the_stack(self, act, assert_works):
        def after():
            safedial.uninstall()
            assert_works()

        assert interrupts.exhaust_stack(act, after, 60) > 3
        act()


def test_interrupt_while_leaving_ends_the_guard_all_the_same(dead_port):
    one = safedial.guard()

    def leave():
        one.__exit__(None, None, None)

    def after():
        nonlocal one
        one = None  # as the `with` statement drops it
        gc.collect()
        assert not is_guarded(dead_port)
        one = safedial.guard()
        one.__enter__()

    one.__enter__()
    assert interrupts.interrupt_each(leave, sys.setprofile, after) > 5


@pytest.mark.storm
def test_interrupted_install_leaves_the_one_before_in_force(dead_port):
    def install_again():
        safedial.install()

    def after():
        assert is_guarded(dead_port)

    safedial.install()
    assert interrupts.interrupt_each(install_again, sys.setprofile, after) > 20


@pytest.mark.storm
def test_hook_is_told_after_an_interrupt(refused_port, events):
    def enter_with_hook():
        with safedial.guard(on_event=events.append):
            pass

    def after():
        events.clear()
        with safedial.guard(on_event=events.append), pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, refused_port))
        assert [event.kind for event in events] == ["failed"]

    interrupts.interrupt_each(enter_with_hook, sys.setprofile, after)


@pytest.mark.storm
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_signals_at_any_instant(assert_works):
    def act():
        for _ in range(50):
            nest()

    delays = [number * 1e-6 for number in range(1, 41)]
    assert interrupts.interrupt_by_signals(act, assert_works, 20_000, delays) > 10_000
    assert_works()


class OwnConnect(PLAIN):
    def connect(self, address):
        return super().connect(address)


class NoConnect(PLAIN):
    pass


class Fake:
    """A fake with no base, and hardly a method."""

    def __init__(self, *args, **kwds):
        self.connected = []

    def connect(self, address):
        self.connected.append(address)


SHAPES = {
    "MagicMock": unittest.mock.MagicMock,
    "autospec": lambda: unittest.mock.create_autospec(PLAIN),
    "function": lambda: lambda *args, **kwds: PLAIN(*args, **kwds),
    "class without a base": lambda: Fake,
    "subclass with a connect": lambda: OwnConnect,
    "subclass": lambda: NoConnect,
    "None": lambda: None,
    "NonCallableMock": unittest.mock.NonCallableMock,
}


@pytest.mark.parametrize("shape", SHAPES)
class TestWhatStandsInSocketsPlace:
    def test_is_no_obstacle_to_the_guard(self, shape, dead_port, assert_works):
        standing = SHAPES[shape]()
        with unittest.mock.patch("socket.socket", standing), safedial.guard():
            assert is_guarded(dead_port)
        assert_works()

    def test_comes_and_goes_inside(self, shape, dead_port, assert_works):
        with safedial.guard():
            with unittest.mock.patch("socket.socket", SHAPES[shape]()), safedial.guard():
                assert is_guarded(dead_port)
            assert is_guarded(dead_port)
        assert_works()

    def test_comes_and_stays(self, shape, dead_port, assert_works):
        with contextlib.ExitStack() as stack:
            with safedial.guard():
                stack.enter_context(unittest.mock.patch("socket.socket", SHAPES[shape]()))
                assert is_guarded(dead_port)
            assert "connect" not in vars(PLAIN)
        assert_works()

    def test_goes_while_guarded(self, shape, dead_port, assert_works):
        with contextlib.ExitStack() as stack:
            with unittest.mock.patch("socket.socket", SHAPES[shape]()):
                stack.enter_context(safedial.guard())
            assert is_guarded(dead_port)
        assert_works()


@pytest.mark.parametrize("kind", [OwnConnect, NoConnect])
def test_subclass_in_sockets_place_is_guarded(kind, dead_port, monkeypatch):
    monkeypatch.setattr(socket, "socket", kind)
    with safedial.guard(), socket.socket() as sock:
        sock.bind((HOST, dead_port))
        with pytest.raises(safedial.SelfConnectError):
            sock.connect((HOST, dead_port))


def test_class_that_cannot_be_guarded_is_refused_in_words(monkeypatch, assert_works):
    monkeypatch.setattr(socket, "socket", _socket.socket)
    with pytest.raises(TypeError, match=r"socket\.socket is <class '_socket\.socket'> now, .*put Python's own"):
        enter()
    with pytest.raises(TypeError, match="can't be replaced"):
        safedial.install()
    assert safedial.is_guarded() is None
    monkeypatch.undo()
    assert_works()


class TestFakes:
    """A fake is left alone, and called as without a guard."""

    @pytest.mark.parametrize("address", [(HOST, 9), "/run/db", None])
    def test_fake_without_a_type(self, address, monkeypatch):
        monkeypatch.setattr(socket, "socket", Fake)
        with safedial.guard():
            one = socket.socket()
            one.connect(address)
        assert one.connected == [address]
        assert "_patch" not in vars(Fake.connect)

    def test_fake_that_says_it_is_tcp(self, monkeypatch):
        class Tcp(Fake):
            type, family = socket.SOCK_STREAM, socket.AF_INET

        monkeypatch.setattr(socket, "socket", Tcp)
        with safedial.guard():
            one = socket.socket()
            one.connect((HOST, 9))
        assert one.connected == [(HOST, 9)]

    @pytest.mark.parametrize("answer", [None, (), ("db", 9), (HOST, 9), (3, 9), unittest.mock.MagicMock()])
    def test_fake_with_odd_addresses(self, answer, monkeypatch):
        class Odd(Fake):
            type, family = socket.SOCK_STREAM, socket.AF_INET
            getsockname = getpeername = lambda self: answer
            getsockopt = setsockopt = lambda self, *args: 0

            def close(self):
                raise AssertionError("taken for a self-connect")

        monkeypatch.setattr(socket, "socket", Odd)
        with safedial.guard():
            socket.socket().connect((HOST, 9))

    def test_other_call_shapes(self, monkeypatch):
        class Keyword(Fake):
            def connect(self, address=None, timeout=None):
                self.connected.append((address, timeout))

        monkeypatch.setattr(socket, "socket", Keyword)
        with safedial.guard():
            one = socket.socket()
            one.connect()
            one.connect(address=1)
            one.connect(2, timeout=3)
        assert one.connected == [(None, None), (1, None), (2, 3)]

    def test_mocks_and_static_methods_get_the_arguments_that_they_got_before(self, monkeypatch):
        mock = unittest.mock.MagicMock(return_value=7)

        class Mocked:
            connect = mock
            connect_ex = staticmethod(lambda address: address)

        raw = vars(Mocked)["connect_ex"]
        monkeypatch.setattr(socket, "socket", Mocked)
        with safedial.guard():
            assert socket.socket().connect((HOST, 9)) == 7
            assert socket.socket().connect_ex((HOST, 9)) == (HOST, 9)
        mock.assert_called_once_with((HOST, 9))
        assert vars(Mocked)["connect"] is mock
        assert vars(Mocked)["connect_ex"] is raw

    def test_mocked_method_gets_the_arguments_that_it_got_before(self):
        with (
            unittest.mock.patch.object(PLAIN, "connect") as mock,
            safedial.guard(),
            PLAIN(socket.AF_INET, socket.SOCK_STREAM) as sock,
        ):
            sock.connect((HOST, 9))
        mock.assert_called_once_with((HOST, 9))


def test_new_entry_guards_a_class_that_came_after_install(monkeypatch, dead_port):
    """As gevent's does, if a program calls install() before monkey.patch_all()."""

    class Green:
        """Not made from the stdlib's class, but with one of its sockets."""

        def __init__(self):
            self.fd = PLAIN(socket.AF_INET, socket.SOCK_STREAM)

        def __getattr__(self, name):
            return getattr(self.fd, name)

        type = property(lambda self: self.fd.type)
        family = property(lambda self: self.fd.family)

        def connect(self, address):
            _socket.socket.connect(self.fd, address)  # past the stdlib's

    safedial.install()
    monkeypatch.setattr(socket, "socket", Green)
    patch.renew()
    with contextlib.closing(socket.socket()) as one:
        one.bind((HOST, dead_port))
        with pytest.raises(safedial.SelfConnectError):
            one.connect((HOST, dead_port))


def test_guards_of_ended_threads_do_not_keep_the_patch(assert_works):
    def enter_for_ever():
        safedial.guard().__enter__()

    thread = threading.Thread(target=enter_for_ever)
    thread.start()
    thread.join()
    gc.collect()
    assert_works()


def test_guard_that_is_dropped_while_entered_says_so(caplog, dead_port, assert_works):
    safedial.guard().__enter__()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "entered and then dropped" in caplog.text
    assert not is_guarded(dead_port)
    assert_works()


def test_guard_that_is_not_entered_cannot_be_left():
    with pytest.raises(RuntimeError, match="not entered"):
        safedial.guard().__exit__()


@pytest.mark.storm
def test_testing_faults_stay_under_interrupts(dead_port, assert_works):
    """The layer of `safedial.testing` shares the patch."""

    def inject():
        with testing.self_connect(dead_port, unused="ignore"):
            pass

    def nothing_stays():
        assert_works()
        assert not intercept._interceptors()

    interrupts.interrupt_each(inject, sys.setprofile, nothing_stays)
