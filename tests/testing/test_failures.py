"""What a user sees of a failure: his own line and the words, and not the source of safedial.testing."""

import io
import unittest

import pytest

CLIENTS = """
import socket
import sys
import unittest

from safedial import testing
from safedial.testing import assert_resilient


def naive(host, port):
    return socket.create_connection((host, port), 0.2)


class Failures(unittest.TestCase):
    def test_not_resilient(self):
        assert_resilient(naive, faults=["self_connect", "refused_port"])

    def test_self_connected(self):
        port = testing.dead_port()
        with testing.self_connect(port), naive("127.0.0.1", port):
            testing.assert_no_self_connects()
"""
ERRORS = """

def raises():
    raise LookupError("in the child") from None


def test_no_socket():
    testing.is_self_connected("redis://")

def test_closed_socket():
    testing.is_self_connected(9999)

def test_no_client():
    assert_resilient("redis://")

def test_no_time():
    assert_resilient(naive, within="1")

def test_no_server():
    assert_resilient(naive, faults=["frozen"], server=[sys.executable, "-c", "raise SystemExit(3)"])

def test_client_raises():
    def connect(host, port):
        try:
            {}["x"]
        except KeyError:
            raise LookupError("the client's own words") from None

    assert_resilient(connect, faults=["frozen"])

def test_outage():
    testing.Outage(host="localhost")

def test_frozen():
    testing.Outage().freeze()

def test_namespace():
    testing.in_namespace(raises, port_range=(1, 2, 3))
"""
TABLE = """\
AssertionError: the client is not resilient
  self_connect  FAILED  returned
    - the client was connected to itself
    - the client returned, although nobody listens
    - the server could not bind port"""


@pytest.mark.parametrize("style", ["long", pytest.param("short", marks=pytest.mark.storm)])
def test_pytest_shows_the_users_code(run_alone, style):
    result = run_alone(CLIENTS + ERRORS, f"--tb={style}")
    result.assert_outcomes(failed=11)
    lines = [line.rstrip() for line in result.outlines]
    assert not [line for line in lines if "safedial/" in line.replace("\\\\", "/")]
    if style == "short":
        return
    table = "\n".join(line.removeprefix("E       ") for line in lines)
    assert TABLE in table
    assert "  refused_port  ok      ConnectionRefusedError\n" in table


def test_unittest_shows_the_users_code(tmp_path):
    mine = tmp_path / "test_mine.py"
    mine.write_text(CLIENTS)
    shown, names = io.StringIO(), {"__name__": "test_mine"}
    exec(compile(CLIENTS, mine, "exec"), names)
    unittest.TextTestRunner(shown).run(unittest.defaultTestLoader.loadTestsFromTestCase(names["Failures"]))
    text = shown.getvalue()
    assert TABLE in text
    assert "connected to itself: descriptor" in text
    assert text.count('File "') == text.count(str(mine)) == 2, "a frame of ours is shown"
