"""The pytest plugin that a peer's suite runs with. It puts `install()` in place if it is told to, and notes outcomes.

It runs in the peer's environment, so it imports nothing else of the tests.
"""

import os
import sys

if os.environ["PEERS_MODE"] == "ours":
    import safedial

    safedial.install()

# By the line: a suite that takes too long is killed.
_notes = open(os.environ["PEERS_NOTES"], "w", buffering=1)  # noqa: SIM115  # open until pytest ends
_connects = 0


def _count(event, arguments):
    global _connects
    _connects += event == "socket.connect"


sys.addaudithook(_count)


def pytest_runtest_logstart(nodeid):
    _notes.write(f"unfinished {nodeid}\n")


def pytest_runtest_logreport(report):
    # A test that is expected to fail, and may pass, says nothing.
    outcome = "xfail" if hasattr(report, "wasxfail") else report.outcome
    _notes.write(f"{outcome} {report.nodeid}\n")


def pytest_collectreport(report):
    if report.failed:
        _notes.write(f"failed {report.nodeid}\n")


def pytest_unconfigure():
    _notes.write(f"connects {_connects}\n")
    _notes.close()
