"""The doctor's look at a network namespace, this one or another process's, and what it says of what it can't see."""

import contextlib
import fcntl
import os
import socket
import struct
import threading
from pathlib import Path

import pytest

from safedial._tcp import steering
from safedial._tcp.steering import PortRange
from safedial.cli.doctor import binding, look
from safedial.testing.namespace import _CLONE_NEWUSER, _unshare
from tests.cli.doctor import states
from tests.support import faults, libc, namespace, sandbox

_SYSCTL = Path("/proc/sys/net/ipv4")
_NO_SETTINGS = (
    "Settings that could not be read in /proc/sys/net: net.ipv4.ip_local_port_range, "
    "net.ipv4.ip_local_reserved_ports, net.ipv4.tcp_tw_reuse."
)
_SIOCSIFADDR, _SIOCDIFADDR = 0x8916, 0x8936  # linux/sockios.h
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 4096, 16384, 1 << 18  # linux/sched.h, linux/mount.h


@pytest.fixture(scope="module", autouse=True)
def _possible():
    namespace.require()


@pytest.mark.storm
def test_settings_as_they_are():
    found, reuse, delay, step_width = namespace.call(look_at_settings, port_range=states.RANGE)
    assert found.system == "linux"
    assert found.kernel == os.uname().release
    assert found.settings.ports == PortRange(*states.RANGE)
    assert found.settings.reserved == (PortRange(40010, 40010), PortRange(40020, 40022))
    assert (found.tw_reuse, found.tw_reuse_delay, found.step_width) == (reuse, delay, step_width)
    assert (found.ipv6, found.loopback_v6, found.unseen) == (True, True, ())
    assert (found.can_set, found.can_close) == (True, True)
    assert found.steering == faults.kernel_steers()
    assert [(each.local.port, each.processes) for each in found.sockets.held[1:]] == [(40012, ())]
    (process,) = found.sockets.held[0].processes
    assert found.sockets.held[0].local.port == 40010
    assert process.name


def look_at_settings():
    (_SYSCTL / "ip_local_reserved_ports").write_text("40010,40020-40022")
    (_SYSCTL / "tcp_tw_reuse").write_text("1")
    found = [1]
    for name, value in (("tcp_tw_reuse_delay", 1234), ("ip_local_port_step_width", 7)):
        exists = (_SYSCTL / name).exists()
        if exists:
            (_SYSCTL / name).write_text(str(value))
        found.append(value if exists else None)
    states.itself("127.0.0.1", 40012).close()
    with states.itself("127.0.0.1", 40010):
        return look.look([40010, 40012]), *found


def test_without_ipv6():
    found = namespace.call(look.look, (), ipv6=False)
    assert (found.ipv6, found.loopback_v6, found.unseen) == (False, False, ())


@pytest.mark.storm
def test_ipv6_without_its_loopback_address():
    found = namespace.call(look_without_loopback_v6)
    assert (found.ipv6, found.loopback_v6, found.unseen) == (True, False, ())


def look_without_loopback_v6():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        for request, address in ((_SIOCSIFADDR, "fd00::1"), (_SIOCDIFADDR, "::1")):
            packed = socket.inet_pton(socket.AF_INET6, address)
            fcntl.ioctl(sock, request, struct.pack("16sIi", packed, 128, socket.if_nametoindex("lo")))
    return look.look(())


def test_bound_socket_that_the_table_lacks():
    found = namespace.call(look_at_bound_sockets, port_range=states.RANGE)
    assert found.sockets.held == ()
    assert found.sockets.binds == {40001: False, 40002: False, 40003: True, 40004: True, 40005: True}


def look_at_bound_sockets():
    with contextlib.ExitStack() as stack:
        for host, port in (("127.0.0.1", 40001), ("::1", 40002), ("127.0.0.1", 40003)):
            sock = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
            if port == 40003:  # as hold() does: a server with this option too can bind
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
        stack.enter_context(states.server(port=40004))
        return look.look(range(40001, 40006))


@pytest.mark.storm
def test_servers_are_tried_beside_the_listeners():
    """Somebody listens on each port, at another address than the socket that is in the way."""
    assert namespace.call(look_beside_listeners, port_range=states.RANGE).sockets.binds == {
        40001: False,  # a bound socket
        40002: False,  # the same; the listener's "::" is for IPv6 only
        40003: True,
        40004: False,  # a connection, of one family with the listener
        40005: True,  # for IPv4, too
        40006: True,
    }


def look_beside_listeners():
    with contextlib.ExitStack() as stack:
        for port in (40001, 40002):
            stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
        for sock in states.pair(stack.enter_context(states.server(port=20000)), 40004):
            stack.enter_context(sock)
        for port, host in ((40001, "::1"), (40002, "::"), (40003, "::"), (40004, "127.0.0.2")):
            stack.enter_context(states.server(host, port))
        stack.enter_context(states.server("::", 40005, dual=True))
        for host in ("0.0.0.0", "::"):
            stack.enter_context(states.server(host, 40006))
        return look.look(range(40001, 40007))


def test_an_address_that_has_gone_is_in_nobody_s_way():
    """So is IPv6 where the kernel has none."""
    assert binding.can_bind(40000, ["127.0.0.1", "::1"], ["192.0.2.1", "2001:db8::1"])


def test_a_server_that_has_just_ended_can_bind_again():
    found = namespace.call(look_after_a_server, port_range=states.RANGE)
    assert [(each.kind, each.local.port) for each in found.sockets.held] == [("connected", 40001), ("time_wait", 40001)]
    assert found.sockets.binds == {40001: True}


def look_after_a_server():
    with contextlib.ExitStack() as stack:
        with states.server(port=40001) as server:
            for sock in states.pair(server, 20001):
                stack.enter_context(sock)
            near, far = states.pair(server, 20002)
            far.close()
            near.close()
        return look.look([40001])


@pytest.mark.storm
def test_a_long_list_of_reserved_ports_is_read_whole():
    found = namespace.call(look_at_a_long_list)
    assert found.settings.reserved == tuple(PortRange(port, port) for port in range(11111, 31111, 2))


def look_at_a_long_list():
    with open(_SYSCTL / "ip_local_reserved_ports", "wb", buffering=0) as file:
        value = b",".join(b"%d" % port for port in range(11111, 31111, 2))
        while value:
            value = value[file.write(value) :]
    return look.look(())


class TestPid:
    """The network namespace of another process."""

    def test_is_looked_at_and_left_again(self):
        found, before, after, threads = namespace.call(look_at_another, port_range=states.RANGE)
        assert found.settings.ports == PortRange(50000, 50009)
        assert [each.local.port for each in found.sockets.listeners] == [50000]
        assert [each.local.port for each in found.sockets.held] == [50001]
        assert found.unseen == ()
        assert before == after == (PortRange(*states.RANGE), 1, 0)
        assert threads == 1

    @pytest.mark.storm
    def test_is_open_to_an_ordinary_user_if_it_is_this_one(self):
        namespace.call_outside(look_here_as_ordinary_user)

    @pytest.mark.storm
    def test_is_closed_to_an_ordinary_user(self):
        """Also if that process is the user's own, in a user namespace, as a container without root is."""
        assert namespace.call_outside(look_as_ordinary_user) == "PermissionError"

    def test_of_no_process(self):
        with pytest.raises(ProcessLookupError, match="there is no process 4194305 that this user can see"):
            look.look((), pid=2**22 + 1)  # more than there can be


def here():
    found = look.look([40000])
    return found.settings.ports, len(found.sockets.listeners), len(found.sockets.held)


@contextlib.contextmanager
def process(enter):
    """Yield the id of a process that called *enter*, and what that returned; in the end it goes."""
    ready, tell = os.pipe()
    end, keep = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(keep)
            kept = enter()
            os.write(tell, b"!")
            os.read(end, 1)
            del kept
        finally:
            os._exit(0)
    os.close(tell)
    os.close(end)
    try:
        assert os.read(ready, 1)
        yield pid
    finally:
        os.close(keep)
        os.close(ready)
        os.waitpid(pid, 0)


def look_at_another():
    with states.server(port=40000), process(serve_elsewhere) as pid:
        before = here()
        found = look.look([50001], pid=pid)
        return found, before, here(), threading.active_count()


def serve_elsewhere():
    namespace.enter_network((50000, 50009))
    return socket.create_server(("127.0.0.1", 50000)), states.itself("127.0.0.1", 50001)


def look_here_as_ordinary_user():
    with contextlib.suppress(PermissionError):  # only root can, and needs it
        os.setuid(65534)
    libc.call("prctl", 4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: setuid() had made this process root's
    return look.look((), pid=os.getpid()).system


def look_as_ordinary_user():
    with process(lambda: (_unshare(_CLONE_NEWUSER), namespace.enter_network())) as pid:
        with contextlib.suppress(PermissionError):  # only root can, and needs it
            os.setuid(65534)
        try:
            look.look((), pid=pid)
        except OSError as error:
            return type(error).__name__


class TestUnseen:
    """What can't be looked at is None, and a sentence says so."""

    @pytest.mark.storm
    def test_settings_that_make_no_sense(self, tmp_path):
        (tmp_path / "ip_local_port_range").write_text("all\n")
        (tmp_path / "ip_local_reserved_ports").write_text("40000-none\n")
        (tmp_path / "tcp_tw_reuse").write_text("")
        found = namespace.call(look_at_nonsense, str(tmp_path))
        assert (found.settings.ports, found.settings.reserved, found.tw_reuse) == (None, None, None)
        assert found.sockets.destinations == ()
        assert found.unseen == (_NO_SETTINGS,)

    @pytest.mark.storm
    def test_no_proc_at_all(self):
        found, error = namespace.call(look_without_proc)
        assert (found.sockets, found.ipv6, found.loopback_v6, found.settings.ports) == (None, None, None, None)
        assert found.unseen[0] == _NO_SETTINGS, "what older kernels lack, this one may lack too"
        assert [each.split(":")[0] for each in found.unseen[1:]] == [
            "Whether there is IPv6 could not be read",
            "Sockets could not be read in /proc/thread-self/net/tcp",
        ]
        assert error == "FileNotFoundError", "of a --pid, nothing is claimed"

    @pytest.mark.storm
    def test_steering_in_a_sandbox(self):
        sandbox.require_seccomp()
        found = namespace.call(look_in_sandbox)
        assert found.steering is None
        assert found.unseen == (
            "Whether steering works (IP_LOCAL_PORT_RANGE) could not be tried: Operation not permitted.",
        )

    @pytest.mark.storm
    def test_whether_a_server_can_bind_in_a_sandbox(self):
        sandbox.require_seccomp()
        found = namespace.call_outside(look_in_sandbox_without_sockets)
        assert found.sockets.binds == {5000: None, 5001: None}
        hint = " (root may)" if os.geteuid() else ""  # it is root that can't
        said = f"Whether a server could bind ports 5000-5001 could not be tried: Operation not permitted{hint}."
        assert said in found.unseen

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    @pytest.mark.storm
    def test_whether_a_server_can_bind_ports_that_are_root_s(self):
        found = namespace.call_outside(look_at_roots_ports_as_nobody)
        assert found.sockets.binds == {80: None, 5000: True}
        assert found.unseen == (
            "Whether a server could bind port 80 could not be tried: Permission denied (root may).",
        )

    def test_whether_a_server_can_bind_without_ipv6(self):
        found = namespace.call(look.look, (5000,), ipv6=False)
        assert (found.sockets.binds, found.unseen) == ({5000: True}, ())

    @pytest.mark.storm
    def test_process_that_nobody_sees(self):
        """A socket on its way from one process to another has none."""
        found = namespace.call(look_at_socket_on_its_way)
        assert [each.processes for each in found.sockets.listeners] == [None]
        assert "The process of 1 socket could not be seen." in found.unseen[0]

    @pytest.mark.storm
    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    def test_processes_of_other_users(self):
        found = namespace.call_outside(look_at_roots_socket_as_nobody)
        assert [each.processes for each in found.sockets.listeners] == [None]
        assert found.unseen == (
            "The process of 1 socket could not be seen. It is another user's, or in another container.",
        )


def mount(*args):
    libc.call("mount", *(each.encode() if isinstance(each, str) else each for each in args), None)


def own_mounts():
    _unshare(_CLONE_NEWNS)
    mount("none", "/", None, _MS_REC | _MS_PRIVATE)


def look_at_nonsense(folder):
    own_mounts()
    for file in Path(folder).iterdir():
        mount(str(file), str(_SYSCTL / file.name), None, _MS_BIND)
    return look.look(())


def look_without_proc():
    own_mounts()
    mount("none", "/proc", "tmpfs", 0)
    try:
        look.look((), pid=1)
    except OSError as error:
        return look.look(()), type(error).__name__


def look_in_sandbox():
    sandbox.forbid("setsockopt", socket.IPPROTO_IP, steering.IP_LOCAL_PORT_RANGE)
    return look.look(())


def look_in_sandbox_without_sockets():
    sandbox.forbid("setsockopt", socket.SOL_SOCKET, socket.SO_REUSEADDR)
    return look.look((5000, 5001))


def look_at_roots_ports_as_nobody():
    namespace.enter_network()
    os.setuid(65534)
    return look.look((80, 5000))


def look_at_socket_on_its_way():
    near, far = socket.socketpair()
    with near, far:
        with states.server() as server:
            socket.send_fds(near, [b"!"], [server.fileno()])
        return look.look(())


def look_at_roots_socket_as_nobody():
    namespace.enter_network()
    with process(states.server().__enter__):
        os.setuid(65534)
        return look.look(())
