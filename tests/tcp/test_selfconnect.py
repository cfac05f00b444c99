"""Self-connects, forced on the real kernel: detected, released, reported, by every face."""

import errno
import os
import pickle
import socket
import sys
import threading

import pytest

import safedial
from safedial._tcp import connect, selfconnect
from tests.support import faces, faults, left, namespace

HOSTS = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"]


@pytest.mark.parametrize("host", HOSTS)
def test_forced_self_connect_is_refused_and_the_port_is_free_at_once(dial, force, steer, host, dead_port):
    force(dead_port)
    with pytest.raises(safedial.SelfConnectError) as caught:
        dial(host, dead_port, steer=steer, policy=None)
    assert caught.value.errno == errno.ECONNREFUSED
    assert (caught.value.host, caught.value.port) == (host, dead_port)
    assert host in str(caught.value)
    assert str(dead_port) in str(caught.value)
    faults.assert_server_can_bind(host, dead_port)


def test_plain_dial_does_connect_to_itself_under_the_same_force(force, dead_port):
    force(dead_port)
    with socket.create_connection(("127.0.0.1", dead_port)) as sock:
        assert sock.getsockname() == sock.getpeername()
        sock.sendall(b"GET user:1")
        assert sock.recv(100) == b"GET user:1"
        assert safedial.is_self_connected(sock)
        selfconnect.release(sock)


def test_a_plain_close_keeps_the_port_where_release_frees_it(force, dead_port):
    # The reason for SO_LINGER: without it this test's sibling above could not bind.
    force(dead_port)
    socket.create_connection(("127.0.0.1", dead_port)).close()
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        with pytest.raises(OSError, match="in use"):
            server.bind(("127.0.0.1", dead_port))


def test_default_policy_dials_again_after_a_self_connect(dial, force, steer, dead_port):
    def hold_the_port(event):
        if event.kind == "self_connect" and event.round == 2:  # or the third might meet itself by chance
            holder.bind(("127.0.0.1", dead_port))

    force(dead_port, times=2)
    with socket.socket() as holder, pytest.raises(ConnectionRefusedError) as caught:
        dial("127.0.0.1", dead_port, steer=steer, on_event=hold_the_port)
    # Two self-connects, then a dial that the kernel refused: never a third self-connect.
    assert not isinstance(caught.value, safedial.SelfConnectError)
    notes = "\n".join(caught.value.__notes__)
    assert "3 rounds" in notes
    assert "self-connect" in notes


def test_recovery_after_a_self_connect_reaches_the_server(dial, force, steer, dead_port):
    servers = []

    def start_server(event):
        # Listening from within the dial proves that the port is free before the next attempt.
        if event.kind == "self_connect":
            servers.append(socket.create_server(("127.0.0.1", dead_port)))

    force(dead_port, times=1)
    ends = dial("127.0.0.1", dead_port, steer=steer, on_event=start_server)
    assert ends.peer == ("127.0.0.1", dead_port)
    assert ends.local != ends.peer
    servers[0].close()


def test_explicit_source_port_is_not_guarded(dial, steer, dead_port):
    # A deliberate simultaneous open, as in Go, where laddr.Port is not 0.
    ends = dial("127.0.0.1", dead_port, source=("127.0.0.1", dead_port), steer=steer)
    assert ends.local == ends.peer == ("127.0.0.1", dead_port)


def test_source_address_with_port_0_is_guarded(dial, steer, dead_port):
    with pytest.raises(safedial.SelfConnectError):
        dial(
            "127.0.0.1",
            dead_port,
            source=("127.0.0.1", 0),
            steer=steer,
            socket_options=[faults.option(dead_port, dead_port)],
            policy=None,
        )
    faults.assert_server_can_bind("127.0.0.1", dead_port)


def test_a_healthy_connection_is_never_lingered(dial, steer, server, monkeypatch):
    lingered = []
    monkeypatch.setattr(connect, "release", lingered.append)
    monkeypatch.setattr(selfconnect, "release", lingered.append)
    dial("127.0.0.1", server.getsockname()[1], steer=steer)
    assert lingered == []
    with safedial.safe_connect(server.getsockname(), steer=steer) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == bytes(8)


def test_unreadable_address_counts_as_a_fault():
    with socket.socket() as sock:
        pass
    assert selfconnect.reached_itself(sock, 80)


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 needs Linux's loopback")
def test_equal_ports_of_different_hosts_are_no_self_connect(server):
    port = server.getsockname()[1]
    with socket.create_connection(server.getsockname(), None, ("127.0.0.2", port)) as sock:
        assert not selfconnect.reached_itself(sock, port)
        assert not safedial.is_self_connected(sock)


class TestInANarrowRange:
    """Two ports in the range: the kernel itself draws the destination's, nothing is forced."""

    # connect() prefers the parity of the range's low end, so the port at risk is the low one.
    @pytest.mark.parametrize("port_range", [(40000, 40001), (40001, 40002)])
    @pytest.mark.parametrize("face", faces.FACES)
    def test_unsteered_it_happens_and_is_caught(self, face, port_range):
        namespace.require()
        for found in namespace.call(dial_both_families, face, port_range[0], False, port_range=port_range):
            assert found["SelfConnectError"] > 0
            assert found["connected"] == 0
            assert found["bind"] == "free"

    @pytest.mark.parametrize("port", [40000, 40001], ids=["low edge", "high edge"])
    @pytest.mark.parametrize("face", faces.FACES)
    def test_steered_it_cannot_happen(self, face, port):
        namespace.require()
        if not faults.kernel_steers():
            pytest.skip("this kernel has no IP_LOCAL_PORT_RANGE (Linux 6.3)")
        for found in namespace.call(dial_both_families, face, port, True, port_range=(40000, 40001)):
            assert found == {"ConnectionRefusedError": 60, "SelfConnectError": 0, "connected": 0, "bind": "free"}

    @pytest.mark.parametrize("steer", [True, False])
    def test_range_of_one_port(self, steer):
        namespace.require()
        found = namespace.call(dial_often, "safe_connect", "127.0.0.1", 40000, steer, 10, port_range=(40000, 40000))
        assert found == {"ConnectionRefusedError": 0, "SelfConnectError": 10, "connected": 0, "bind": "free"}

    @pytest.mark.parametrize("face", ["safe_connect", "open_connection"])
    def test_range_that_moved_since_it_was_read(self, face):
        namespace.require()
        found = namespace.call(dial_after_range_moved, face, port_range=(32768, 60999))
        assert found["connected"] == 0
        assert found["bind"] == "free"


def dial_both_families(face, port, steer):
    return [dial_often(face, host, port, steer, 60) for host in ("127.0.0.1", "::1")]


def dial_often(face, host, port, steer, times):
    found = {"ConnectionRefusedError": 0, "SelfConnectError": 0, "connected": 0}
    for _ in range(times):
        try:
            faces.FACES[face](host, port, steer=steer, policy=None)
        except ConnectionRefusedError as error:
            found[type(error).__name__] += 1
        else:
            found["connected"] += 1
    try:
        faults.assert_server_can_bind(host, port)
        found["bind"] = "free"
    except OSError as error:
        found["bind"] = str(error)
    return found


def dial_after_range_moved(face):
    with faults.listener(port=50000) as server:
        faces.FACES[face](*server.getsockname())  # now the range is believed for a while
    namespace.set_port_range(1024, 1025)
    return dial_often(face, "127.0.0.1", 1024, True, 60)


class TestIsSelfConnected:
    def test_any_kind_of_handle(self, force, dead_port):
        force(dead_port)
        with socket.create_connection(("127.0.0.1", dead_port)) as sock:
            assert safedial.is_self_connected(sock)
            assert safedial.is_self_connected(sock.fileno())
            with sock.makefile("rb") as file:
                assert safedial.is_self_connected(file)
            assert sock.fileno() != -1
            selfconnect.release(sock)

    def test_healthy(self, server):
        with socket.create_connection(server.getsockname()) as sock:
            assert not safedial.is_self_connected(sock)
            assert not safedial.is_self_connected(sock.fileno())

    def test_descriptor_stays_blocking(self, server):
        socket.setdefaulttimeout(5)
        try:
            with socket.create_connection(server.getsockname(), None) as sock:
                assert not safedial.is_self_connected(sock.fileno())
                assert os.get_blocking(sock.fileno())
        finally:
            socket.setdefaulttimeout(None)

    def test_not_connected_and_other_families(self):
        with socket.socket() as sock:
            assert not safedial.is_self_connected(sock)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.connect(sock.getsockname())
            assert not safedial.is_self_connected(sock)
        a, b = socket.socketpair()
        with a, b:
            assert not safedial.is_self_connected(a)

    @pytest.mark.parametrize("rubbish", [None, "socket", True, object()])
    def test_rubbish(self, rubbish):
        with pytest.raises(TypeError, match="sock"):
            safedial.is_self_connected(rubbish)

    def test_closed(self):
        with socket.socket() as sock:
            pass
        with pytest.raises(OSError, match="Bad file descriptor"):
            safedial.is_self_connected(sock)

    def test_descriptor_that_is_no_socket(self):
        before = left.open_descriptors()
        with open(os.devnull) as file, pytest.raises(OSError, match=r"[Ss]ocket operation"):
            safedial.is_self_connected(file)
        assert left.open_descriptors() == before


@pytest.mark.parametrize(
    "error",
    [
        safedial.SelfConnectError.at("127.0.0.1", 5432),
        safedial.PortsExhaustedError.at("::1", 5432, safedial.PortUsage(32768, 60999, 28232, 28000)),
    ],
)
def test_errors_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.errno, str(copy), copy.__dict__) == (error.errno, str(error), error.__dict__)


def test_interrupt_between_connect_and_check_frees_the_port(dial, force, dead_port, monkeypatch):
    def interrupted(sock, port):
        raise KeyboardInterrupt

    monkeypatch.setattr("safedial._tcp.connect.reached_itself", interrupted)
    force(dead_port)
    with pytest.raises(KeyboardInterrupt):
        dial("127.0.0.1", dead_port)
    faults.assert_server_can_bind("127.0.0.1", dead_port)


def test_one_dialer_many_threads(steer, server):
    dialer = safedial.Dialer(steer=steer, timeout=10)
    failures = []

    def work():
        try:
            for _ in range(50):
                dialer.dial(server.getsockname()).close()
        except OSError as error:
            failures.append(error)

    stop = threading.Event()

    def accept():
        server.settimeout(0.1)
        while not stop.is_set():
            try:
                server.accept()[0].close()
            except TimeoutError:
                continue

    accepting = threading.Thread(target=accept)
    accepting.start()
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    accepting.join()
    assert failures == []
