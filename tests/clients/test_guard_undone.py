"""The guard comes back after something undid it: a mock or another patch that ended later than it began."""

import contextlib
import errno
import functools
import socket
import unittest.mock

import pytest

import safedial
from safedial import testing
from safedial._clients import entering, guard, patch
from safedial._tcp.selfconnect import RESET
from tests.support import faults

HOST = "127.0.0.1"
PLAIN = socket.socket.connect


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch):
    monkeypatch.setattr(entering, "_warned", {})
    yield
    safedial.uninstall()
    assert not patch._layers
    assert not patch._replaced
    left = {name: vars(socket.socket)[name] for name in ("connect", "connect_ex") if name in vars(socket.socket)}
    for name in left:
        delattr(socket.socket, name)  # what some of these libraries put back was inherited before
    assert not [name for name in left if patch._patch_of(left[name])], "still ours"


@pytest.fixture
def port():
    return testing.dead_port()


def connect_ex(port):
    """Return what a self-connect by connect_ex() returns."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.bind((HOST, port))
        return sock.connect_ex((HOST, port))


def assert_guarded(port):
    assert faults.is_guarded(port)
    assert connect_ex(port) == errno.ECONNREFUSED


# --- what is undone, and what brings the guard back ------------------------------------------------------


@contextlib.contextmanager
def mocked():
    with unittest.mock.patch("socket.socket.connect"), unittest.mock.patch("socket.socket.connect_ex"):
        yield


@contextlib.contextmanager
def mocked_by_autospec():
    with (
        unittest.mock.patch.object(socket.socket, "connect", autospec=True),
        unittest.mock.patch.object(socket.socket, "connect_ex", autospec=True),
    ):
        yield


@contextlib.contextmanager
def monkeypatched():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(socket.socket, "connect", lambda sock, address: PLAIN(sock, address))
        monkeypatch.setattr(socket.socket, "connect_ex", lambda sock, address: 0)
        yield


@contextlib.contextmanager
def saved_and_put_back():
    """As a library does it that is older than mocks."""
    saved = socket.socket.connect, socket.socket.connect_ex

    def theirs(sock, address):
        return saved[0](sock, address)

    socket.socket.connect = theirs
    socket.socket.connect_ex = lambda sock, address: saved[1](sock, address)
    try:
        yield
    finally:
        socket.socket.connect, socket.socket.connect_ex = saved


def install_again():
    safedial.install()


def enter_a_guard():
    with safedial.guard():
        pass


def ask():
    assert safedial.is_guarded() == "install"


WAYS = (mocked, mocked_by_autospec, monkeypatched, saved_and_put_back)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bring_back", [install_again, enter_a_guard, ask])
def test_install_under_a_replacement_that_ends(way, bring_back, port):
    with way():
        safedial.install()
    bring_back()
    assert_guarded(port)


@pytest.mark.parametrize("way", WAYS)
def test_guard_under_a_replacement_that_ends(way, port):
    with contextlib.ExitStack() as stack:
        with way():
            stack.enter_context(safedial.guard())
        with safedial.guard():
            assert_guarded(port)
        assert_guarded(port)


@pytest.mark.parametrize("way", WAYS)
def test_replacement_inside_of_install(way, port):
    safedial.install()
    with way():
        enter_a_guard()
        safedial.install()
    assert_guarded(port)


@pytest.mark.parametrize("way", WAYS)
def test_uninstalled_and_installed_again_under_a_replacement(way, port):
    safedial.install()
    with way():
        safedial.uninstall()
        safedial.install()
    ask()
    assert_guarded(port)


@pytest.mark.parametrize("outer", WAYS)
@pytest.mark.parametrize("inner", [mocked, monkeypatched, saved_and_put_back])
def test_replacements_of_a_replacement(outer, inner, port):
    with outer():
        with inner():
            safedial.install()
        safedial.install()
    safedial.install()
    assert_guarded(port)


def test_method_of_the_kernel_that_is_put_back_while_guarded(port):
    """As pytest-socket does, which fetched it when it was imported."""
    safedial.install()
    for _ in range(3):
        socket.socket.connect = PLAIN
        safedial.install()
        assert_guarded(port)
    del socket.socket.connect
    ask()
    assert_guarded(port)


# --- what came after the guard ---------------------------------------------------------------------------


def test_function_that_goes_past_the_guard_is_guarded_by_the_next_entry(port):
    safedial.install()
    socket.socket.connect = lambda sock, address: PLAIN(sock, address)
    assert not faults.is_guarded(port)
    safedial.install()
    assert faults.is_guarded(port)


def test_connect_through_two_methods_of_ours_is_one(server, events):
    with safedial.guard(on_event=events.append):
        lower = socket.socket.connect

        @functools.wraps(lower)
        def theirs(sock, address):
            return lower(sock, address)

        socket.socket.connect = theirs
        enter_a_guard()
        with safedial.guard():
            assert socket.socket.connect is not theirs
            socket.create_connection(server.getsockname()).close()
        assert [event.kind for event in events] == ["connected"]
    assert socket.socket.connect is theirs
    socket.create_connection(server.getsockname()).close()
    assert len(events) == 1


@pytest.mark.parametrize("autospec", [None, True])
def test_mock_is_left_alone_and_looks_as_its_test_expects(server, autospec):
    safedial.install()
    with unittest.mock.patch("socket.socket.connect", autospec=autospec) as mock:
        enter_a_guard()
        assert socket.socket.connect is mock
        socket.create_connection(server.getsockname()).close()
        socket.socket.connect.assert_called_once()


def test_our_method_in_another_class(monkeypatch):
    """It is there, so it is in place; and it is not ours to take away."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(safedial.guard())

        class Other:
            connect = socket.socket.connect

        monkeypatch.setattr(socket, "socket", Other)
        enter_a_guard()
        stack.close()
        monkeypatch.undo()
    assert hasattr(Other.connect, "_patch")


def test_is_guarded_says_no_if_nothing_can_be_done(monkeypatch):
    safedial.install()
    monkeypatch.setattr(socket, "socket", socket._socket.socket)
    assert safedial.is_guarded() is None
    monkeypatch.undo()
    ask()


# --- the warning -----------------------------------------------------------------------------------------


def said(caplog):
    return [record.getMessage() for record in caplog.records if "if that is undone" in record.getMessage()]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("act", "advice"), [(safedial.install, "call install() again"), (enter_a_guard, "enter guard() again")]
)
def test_says_once_that_a_replacement_may_be_undone(way, act, advice, caplog):
    with way():
        act()
        act()
    (line,) = said(caplog)
    assert "connect() of socket.socket is replaced by a" in line or "by the function" in line
    assert line.endswith(advice)


def test_says_nothing_of_a_mock_that_came_later(caplog):
    safedial.install()
    with mocked():
        safedial.install()
        enter_a_guard()
    assert not said(caplog)


def test_says_nothing_of_pytest_socket_which_the_guard_comes_after(caplog):
    import pytest_socket

    pytest_socket.socket_allow_hosts([HOST])
    try:
        enter_a_guard()
    finally:
        pytest_socket._remove_restrictions()
    assert not said(caplog)


def test_says_nothing_in_our_own_entries(caplog):
    with mocked(), guard.inside():
        pass
    assert not said(caplog)
