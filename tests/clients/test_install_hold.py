"""install(): clients that it does not reach, the warning about them, and the ports that it holds for them."""

import asyncio
import contextlib
import importlib
import logging
import socket
import sys
import time

import pytest

import safedial
from safedial._clients import unreached
from safedial._tcp import procnet
from safedial._tcp.selfconnect import duplicate
from tests.support import faults, namespace

HOST = "127.0.0.1"
PORT = 40000
RANGE = (40000, 40001)


@pytest.fixture(autouse=True)
def _uninstalled():
    yield
    safedial.uninstall()


# --- the warning -----------------------------------------------------------------------------------------


@pytest.fixture
def imported(monkeypatch, tmp_path):
    """Import an empty module of a client's name."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    # Other tests of this process have imported some of them.
    monkeypatch.setattr(unreached, "_told", dict.fromkeys(unreached.UNREACHED & sys.modules.keys()))
    monkeypatch.syspath_prepend(tmp_path)

    def load(name):
        sys.modules.pop(name, None)
        (tmp_path / f"{name}.py").write_text("")
        names.append(name)
        return importlib.import_module(name)

    names = []
    yield load
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def warnings(caplog):
    return lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_client_imported_later_is_warned_of_once(imported, warnings):
    safedial.install()
    for _ in range(2):
        imported("pynng")
    (said,) = warnings()
    assert "does not reach pynng" in said
    assert "safedial.install(hold=[(host, port)])" in said


def test_client_imported_before_is_warned_of(imported, warnings):
    imported("pynng")
    assert not warnings()
    safedial.install()
    safedial.install()
    assert len(warnings()) == 1


@pytest.mark.parametrize("lists", [[True], [False], [True, None], [None, False]], ids=str)
def test_program_that_gave_a_list_is_told_at_info(imported, warnings, dead_port, caplog, lists):
    caplog.set_level(logging.INFO, "safedial")
    for some in lists:
        safedial.install(hold=None if some is None else [(HOST, dead_port)] * some)
    for _ in range(2):
        imported("pynng")
    assert not warnings()
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert said == "install() does not reach pynng, which dials in C: only the ports in hold= are safe"


def test_list_of_an_earlier_install_is_forgotten(imported, warnings, dead_port):
    safedial.install(hold=[(HOST, dead_port)])
    safedial.uninstall()
    safedial.install()
    imported("pynng")
    assert len(warnings()) == 1


def test_no_warning_after_uninstall(imported, warnings):
    safedial.install()
    safedial.uninstall()
    imported("pynng")
    assert not warnings()


def test_names_of_real_clients():
    assert {"grpc", "zmq"} < unreached.UNREACHED


# --- hold= -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ((HOST, 5555), TypeError),
        ([HOST, 5555], TypeError),
        (f"{HOST}:5555", TypeError),
        (5555, TypeError),
        ([(HOST,)], ValueError),
        ([f"{HOST}:5555"], TypeError),
        ([(HOST, 70000)], ValueError),
        ([(HOST, 5.5)], TypeError),
        ([None], TypeError),
    ],
    ids=str,
)
def test_wrong_argument(wrong, error):
    connect = socket.socket.connect
    with pytest.raises(error, match="hold"):
        safedial.install(hold=wrong)
    assert socket.socket.connect is connect


def test_pair_in_place_of_a_list_is_told_so():
    with pytest.raises(TypeError, match=r"hold=\[\(host, port\)\]"):
        safedial.install(hold=(HOST, 5555))


def test_held_until_uninstall(dead_port):
    safedial.install(hold=[(HOST, dead_port)])
    assert descriptors_of(dead_port)
    safedial.install()  # as a library may call it
    assert descriptors_of(dead_port)
    safedial.uninstall()
    assert not descriptors_of(dead_port)


def test_lists_of_several_calls_add_up(dead_port):
    safedial.install(hold=[(HOST, dead_port)])
    with faults.listener() as other:
        free = other.getsockname()[1]
    safedial.install(hold=iter([[HOST, free]]))
    safedial.install(hold=[])
    assert descriptors_of(dead_port)
    assert descriptors_of(free)
    safedial.uninstall()
    assert not descriptors_of(dead_port)
    assert not descriptors_of(free)


def test_same_address_is_held_once(dead_port):
    for _ in range(3):
        safedial.install(hold=[(HOST, dead_port)] * 2)
    assert len(descriptors_of(dead_port)) == 1
    safedial.uninstall()
    safedial.install(hold=[(HOST, dead_port)])
    assert len(descriptors_of(dead_port)) == 1


def test_failure_keeps_what_was_held(dead_port):
    safedial.install(hold=[(HOST, dead_port)])
    with faults.listener() as other:
        free = other.getsockname()[1]
    with pytest.raises(OSError):  # noqa: PT011  # the resolver's
        safedial.install(hold=[(HOST, free), ("no.such.host.invalid", 5555)])
    assert descriptors_of(dead_port)
    assert not descriptors_of(free)
    safedial.install(hold=[(HOST, free)])
    assert descriptors_of(free)


def test_name_in_a_running_loop_is_refused_and_a_number_is_not(dead_port):
    async def main():
        with pytest.raises(RuntimeError, match="before the loop"):
            safedial.install(hold=[("localhost", dead_port)])
        assert safedial.is_guarded() is None
        safedial.install(hold=[(HOST, dead_port)])

    asyncio.run(main())


def test_nothing_is_installed_or_held_if_the_hook_is_wrong(dead_port):
    with pytest.raises(TypeError, match="on_event"):
        safedial.install(on_event="log", hold=[(HOST, dead_port)])
    assert safedial.is_guarded() is None
    assert not descriptors_of(dead_port)


def descriptors_of(port):
    """Return the sockets of this process that are bound to *port*, whatever their address is."""
    found = []
    for number in range(3, 200):
        with contextlib.suppress(OSError), duplicate(number) as sock:
            if sock.family == socket.AF_INET and sock.getsockname()[1] == port:
                found.append(number)
    return found


# --- with real clients, on the real kernel ---------------------------------------------------------------


def met_itself():
    return any(row.local == row.peer for row in procnet.sockets_on(PORT))


def zmq_dials(holds):
    """Let ZeroMQ dial a dead port for as long as it needs; return whether it met itself and the server's messages."""
    import zmq

    safedial.install(hold=[(HOST, PORT)] if holds else [])
    with zmq.Context() as context, context.socket(zmq.PUSH) as client:
        client.setsockopt(zmq.LINGER, 0)
        client.setsockopt(zmq.RECONNECT_IVL, 1)
        client.connect(f"tcp://{HOST}:{PORT}")
        end = time.monotonic() + (0.5 if holds else 20)
        while not met_itself() and time.monotonic() < end:
            time.sleep(0.01)
        met = met_itself()
        try:
            with context.socket(zmq.PULL) as server:
                server.setsockopt(zmq.RCVTIMEO, 10_000)
                server.setsockopt(zmq.LINGER, 0)
                server.bind(f"tcp://{HOST}:{PORT}")
                client.send(b"hello")
                return met, server.recv()
        except zmq.ZMQError as error:
            return met, type(error).__name__


def test_zeromq():
    namespace.require()
    assert namespace.call(zmq_dials, True, port_range=RANGE) == (False, b"hello")


def test_zeromq_without_hold():
    namespace.require()
    assert namespace.call(zmq_dials, False, port_range=RANGE) == (True, "ZMQError")


def grpc_dials(holds):
    """Let grpc dial a dead port; return whether it met itself, and what a server at that port then answers."""
    import grpc

    safedial.install(hold=[(HOST, PORT)] if holds else [])
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)]
    with grpc.insecure_channel(f"{HOST}:{PORT}", options) as channel:
        call = channel.unary_unary("/greeter/greet")
        met, end = False, time.monotonic() + (0.5 if holds else 20)
        while not met and time.monotonic() < end:
            with contextlib.suppress(grpc.RpcError):
                call(b"", timeout=0.2, wait_for_ready=True)
            met = met_itself()
        handlers = {"greet": grpc.unary_unary_rpc_method_handler(lambda request, context: b"hello")}
        server = grpc.server(_pool())
        server.add_registered_method_handlers("greeter", handlers)
        try:
            server.add_insecure_port(f"{HOST}:{PORT}")
        except RuntimeError as error:
            return met, type(error).__name__
        server.start()
        try:
            return met, call(b"", timeout=20, wait_for_ready=True)
        finally:
            server.stop(None).wait(10)


def _pool():
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1)


@pytest.mark.storm
def test_grpc():
    namespace.require()
    assert namespace.call(grpc_dials, True, port_range=RANGE) == (False, b"hello")
    met, _ = namespace.call(grpc_dials, False, port_range=RANGE)  # its sockets set SO_REUSEADDR, so a server can bind
    assert met
