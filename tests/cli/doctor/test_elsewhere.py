"""What the doctor sees by psutil, compared with the kernel's table, and without it."""

import contextlib
import sys

import pytest

from safedial._tcp.steering import PortRange
from safedial.cli.doctor import elsewhere, look, table
from tests.cli.doctor import states, test_table
from tests.support import namespace

PORTS = range(40000, 40060)


def test_psutil_sees_what_the_table_has():
    namespace.require()
    pytest.importorskip("psutil")
    expected, found, unseen = namespace.call(look_both_ways, port_range=states.RANGE)
    assert len(expected.listeners) >= 10
    for group in (expected.taken, expected.self_connected):
        assert {each.kind for each in group} == {"connected", "time_wait"}
    assert found == expected
    assert unseen == []


def look_both_ways():
    import psutil

    unseen = []
    with contextlib.ExitStack() as stack:
        for prepare in (test_table.listeners, test_table.self_connects, test_table.connections):
            prepare(stack)
        expected = look.look(PORTS).sockets
        found = elsewhere.sockets(psutil, PORTS, PortRange(*states.RANGE), unseen)

    def comparable(each):
        # No inodes, and of a process that has gone psutil knows no more than of one that it may not see.
        return each._replace(inode=0, processes=each.processes or None)

    return table.changed(expected, comparable), table.changed(found, comparable), unseen


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
