"""Faults in tests of unittest, run by unittest in another process."""

import re
import subprocess
import sys

TESTS = """
import socket
import unittest

from safedial.testing import Outage, dead_port, self_connect


PORT = dead_port()


def dial(port):
    with socket.socket() as sock:
        sock.connect_ex(("127.0.0.1", port))


class Hit(unittest.TestCase):
    def test_with(self):
        port = dead_port()
        with self_connect(port):
            dial(port)

    def test_enter_context(self):
        port = dead_port()
        self.enterContext(self_connect(port))
        dial(port)

    @self_connect(PORT)
    def test_decorated(self):
        dial(PORT)


class Unused(unittest.TestCase):
    def test_with(self):
        with self_connect(11):
            dial(PORT)

    def test_enter_context(self):
        self.enterContext(self_connect(12))
        with self.subTest("that passes"):
            dial(PORT)

    @self_connect(13)
    def test_decorated(self):
        dial(PORT)

    def test_outage(self):
        with Outage() as server:
            server.refuse_for(1)

    def test_warns(self):
        self.enterContext(self_connect(14, unused="warn"))  # the line that is shown

    def test_never_entered(self):
        self_connect(16)  # the other line that is shown


class OwnEnd(unittest.TestCase):
    def test_fails(self):
        with self_connect(10):
            self.fail("my own")

    def test_fails_later(self):
        self.enterContext(self_connect(10))
        self.fail("my own")

    def test_error(self):
        self.enterContext(self_connect(10))
        raise LookupError("my own")

    def test_skips(self):
        with self_connect(10):
            self.skipTest("my own")

    def test_skips_later(self):
        self.enterContext(self_connect(10, unused="warn"))
        self.skipTest("my own")

    @unittest.expectedFailure
    def test_expected(self):
        self.enterContext(self_connect(10))
        self.fail("my own")

    def test_subtest(self):
        self.enterContext(self_connect(10))
        with self.subTest("that fails"):
            self.fail("my own")


class SkippedInSetUp(unittest.TestCase):
    def setUp(self):
        self.enterContext(self_connect(10))
        self.skipTest("my own")

    def test(self):
        pass


class Asynchronous(unittest.IsolatedAsyncioTestCase):
    async def test_skips(self):
        self.enterContext(self_connect(10))
        self.skipTest("my own")

    async def test_unused(self):
        self.enterContext(self_connect(15))
"""


def test_unused_fault_is_a_failure_unless_the_test_has_ended_otherwise(tmp_path):
    (tmp_path / "test_users.py").write_text(TESTS)
    run = [sys.executable, "-m", "unittest", "test_users"]
    report = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=60).stderr
    assert "Ran 19 tests" in report
    assert "FAILED (failures=8, errors=1, skipped=4, expected failures=1)" in report
    unused = re.findall(r"^AssertionError: self_connect\((\d+)\) hit no connect; ", report, re.MULTILINE)
    assert sorted(unused) == ["11", "12", "13", "15"]
    assert report.count("AssertionError: my own\n") == 3
    assert len(re.findall(r"; dialed instead: 127.0.0.1 port \d+\n", report)) == 3
    (line,) = [number for number, text in enumerate(TESTS.splitlines(), 1) if "the line that is shown" in text]
    assert f"test_users.py:{line}: UserWarning: self_connect(14) hit no connect; " in report
    (line,) = [number for number, text in enumerate(TESTS.splitlines(), 1) if "the other line" in text]
    assert f"test_users.py:{line}: UserWarning: self_connect(...) was never entered" in report
    assert not re.search(r'File ".*(contextlib|safedial).*"', report)
