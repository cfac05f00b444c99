"""What the doctor sees by psutil, compared with the kernel's table, and without it."""

import contextlib
import socket
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from safedial._tcp.steering import PortRange
from safedial.cli.doctor import elsewhere, look, table
from safedial.cli.doctor.facts import Process
from tests.cli.doctor import states, test_table
from tests.support import namespace

PORTS = range(40000, 40060)


def test_psutil_sees_what_the_table_has():
    namespace.require()
    pytest.importorskip("psutil")
    expected, found, unseen = namespace.call(look_both_ways, port_range=states.RANGE)
    assert len(expected.listeners) >= 10
    for group in (expected.held, expected.self_connected):
        assert {each.kind for each in group} == {"connected", "time_wait"}
    assert found == expected
    assert unseen == []


def look_both_ways():
    import psutil

    unseen = []
    with contextlib.ExitStack() as stack:
        for prepare in (test_table.listeners, test_table.self_connects, test_table.connections):
            prepare(stack)
        expected = replace(look.look(PORTS).sockets, binds={})  # nobody tries that there
        found = elsewhere.sockets(psutil, PORTS, PortRange(*states.RANGE), unseen)

    def comparable(each):
        # No inodes, and of a process that has gone psutil knows no more than of one that it may not see.
        return each._replace(inode=0, processes=each.processes or None)

    return table.changed(expected, comparable), table.changed(found, comparable), unseen


class Psutil:
    """What psutil says on macOS: a line for each process of a socket, and sockets that are only bound."""

    Error = RuntimeError

    def __init__(self, *lines):
        self._lines = lines

    def net_connections(self, kind):
        if not self._lines:
            raise self.Error
        return [Line(*line) for line in self._lines]

    def Process(self, pid):  # noqa: N802  # psutil's name
        if pid > 2:
            raise self.Error
        return SimpleNamespace(name=lambda: f"server\033{pid}")


class Address(NamedTuple):
    ip: str
    port: int


class Line(NamedTuple):
    status: str
    laddr: Address
    raddr: Address | tuple[()] = ()
    pid: int | None = None
    family: int = socket.AF_INET


HERE, THERE = Address("127.0.0.1", 40000), Address("127.0.0.1", 40001)


def test_processes_that_share_a_socket():
    psutil = Psutil(("LISTEN", HERE, (), 2), ("LISTEN", HERE, (), 1), ("LISTEN", THERE), ("LISTEN", THERE, (), 3))
    first, second = elsewhere.sockets(psutil, (), None, []).listeners
    assert first.processes == (Process(1, r"server\x1b1"), Process(2, r"server\x1b2"))
    assert (first.inode, second.inode, second.processes) == (0, 0, (Process(3, ""),))


def test_sockets_of_unknown_processes():
    psutil = Psutil(("TIME_WAIT", HERE, HERE), ("ESTABLISHED", THERE, THERE), ("CLOSE", HERE, (), 1))
    found = elsewhere.sockets(psutil, (40000, 40001), None, [])
    assert [(each.kind, each.local, each.processes) for each in found.held] == [
        ("time_wait", HERE, ()),
        ("connected", THERE, None),
    ]
    assert found.count == 2, "a socket that is only bound is in no table"


def test_no_sockets_without_root():
    unseen = []
    assert elsewhere.sockets(Psutil(), (), None, unseen) is None
    assert unseen == ["Sockets could not be looked at: access denied. Root may."]


def test_without_psutil(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    found = elsewhere.look(())
    assert (found.sockets, found.ipv6, found.steering) == (None, None, False)
    assert found.unseen[-1].endswith("without psutil: pip install 'safedial[cli]'.")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("echo 49152; echo 65535", (PortRange(49152, 65535), ())), ("echo no such name >&2; exit 1", (None, None))],
)
def test_range_by_sysctl(monkeypatch, tmp_path, answer, expected):
    """As macOS tells it."""
    program = tmp_path / "sysctl"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = elsewhere.look(()).settings
    assert (settings.ports, settings.reserved) == expected
