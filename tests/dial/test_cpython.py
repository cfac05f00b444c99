"""CPython's own tests, run with safedial's functions in place of the stdlib's."""

import importlib.util
import re
import subprocess
import sys

import pytest

_REPLACED = """
import asyncio, functools, socket, sys, unittest, warnings
import safedial
from safedial._dial.record import Record
steer = sys.argv[1] == "True"
dials = []
begin = Record.__init__
Record.__init__ = lambda *args: (dials.append(1), begin(*args))[1]
if sys.argv[2] == "socket":
    from test import test_socket as module
    socket.create_connection = functools.partial(safedial.safe_connect, steer=steer)
    names = [name for name in vars(module) if name.startswith("NetworkConnection")] + ["BasicTCPTest2"]
    suite = unittest.TestSuite(
        unittest.defaultTestLoader.loadTestsFromTestCase(getattr(module, name))
        for name in names if issubclass(getattr(module, name), unittest.TestCase)
    )
else:
    from test.test_asyncio import test_streams as module
    asyncio.open_connection = functools.partial(safedial.open_connection, steer=steer)
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
result = unittest.TextTestRunner(verbosity=2).run(suite)
print(len(dials), "dials with safedial", file=sys.stderr)
sys.exit(not result.wasSuccessful())
"""


@pytest.mark.storm
@pytest.mark.parametrize(("module", "at_least"), [("socket", 14), ("streams", 40)])
@pytest.mark.parametrize("steer", [True, False], ids=["steered", "unsteered"])
def test_cpythons_tests_pass(module, at_least, steer):
    if importlib.util.find_spec("test.test_socket") is None:
        pytest.skip("this Python was packaged without its own tests (Debian: libpython3-testsuite)")
    done = subprocess.run(
        [sys.executable, "-c", _REPLACED, str(steer), module],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ran = int(re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)[1])
    assert ran >= at_least, done.stderr
    dials = int(re.search(r"^(\d+) dials with safedial", done.stderr, re.MULTILINE)[1])
    assert dials >= 8, "the replacement was used"
