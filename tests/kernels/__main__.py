"""Run the guard's tests on Debian's older and newer kernels, under emulation.

``python -m tests.kernels [suite …]``, or ``make kernels ARGS=sid``. Needs Debian on x86-64 and the package
qemu-system-x86; no root. The kernels are fetched with apt and unpacked in a temporary directory; nothing is installed.
Each boots in a machine that has this host's root as its own, read-only. So this Python runs there, with these tests.
KVM is used if it works. The exit status is 1 if a test failed, or did not run.
"""

# ruff: noqa: T201  # a command, which prints

import argparse
import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.kernels.machine import QEMU, Machine
from tests.kernels.packages import CannotRunError, Suite, call

# 5.10 has no IP_LOCAL_PORT_RANGE, 6.1 a backport of it; sid has the newest. Sometimes experimental has a newer one.
SUITES = ("bullseye", "bookworm", "sid")
# What has to do with the kernel, and is quick: no figures from /proc, and few processes.
_TCP = "connect exhaustion half_in_use hidden holding never_in_the_way selfconnect steering"
TESTS = [
    *(f"tests/tcp/test_{name}.py" for name in _TCP.split()),
    *("tests/testing/test_faults.py", "tests/testing/test_resilience.py"),
    *("tests/clients/test_guard.py", "tests/clients/test_hold.py", "tests/clients/test_hold_servers.py"),
]
# safe_connect and Dialer.dial_async stand for all ways to dial.
_DIALS = "not uvloop and not open_connection and (dial_async or not dialer)"
_REPOSITORY = Path(__file__).resolve().parents[2]
_SECONDS = 1200  # for one kernel
_FOR_KVM = 30


def command():
    """Return the shell's command that runs the tests."""
    path = os.pathsep.join([str(_REPOSITORY / "src"), str(_REPOSITORY)])
    variables = dict.fromkeys(("HOME", "TMPDIR", "HYPOTHESIS_STORAGE_DIRECTORY"), "/dev/shm")
    variables |= {"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    python = [sys.executable, "-m", "pytest", "-q", "--color=no", "--tb=short", "-p", "no:cacheprovider"]
    chosen = ["-m", "not storm", "-k", _DIALS, *TESTS]
    return f"cd {shlex.quote(str(_REPOSITORY))}; " + shlex.join(
        ["env", *(f"{name}={value}" for name, value in variables.items()), *python, *chosen]
    )


def unpack(suite, busybox, directory):
    """Return a directory with the kernel of *suite*, and *busybox*."""
    packages = Suite(suite, directory / suite)
    packages.unpack(*packages.kernel())
    shutil.copy(busybox, packages.root)
    return packages.root


def busybox(directory):
    """Return the path of a busybox that needs no libraries. Not every suite has one."""
    packages = Suite("stable", directory / "busybox")
    packages.unpack("busybox-static")
    return next(packages.root.glob("**/bin/busybox"))


def accelerator(root):
    """Return ``kvm`` if the kernel in *root* boots with it, else ``tcg``."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    with Machine(root, "true", "kvm") as machine:
        while machine.running() and machine.seconds() < _FOR_KVM:
            time.sleep(0.2)
        return "tcg" if machine.status() is None else "kvm"


def report(suite, machine):
    """Print what came of the tests, and return whether all is well."""
    status, lines = machine.status(), machine.lines()
    kernel = re.search(r"^(\S+).*Debian (\S+)", lines[0]) if lines else None
    last = re.sub(r"^=+ | in \d.*", "", lines[-2]) if status is not None else f"no end after {machine.seconds():.0f} s"
    minutes = f"{machine.seconds() / 60:.1f} min"
    print(f"{suite:<13} {kernel[2] if kernel else '?':<16} {minutes:>9}  {last}", flush=True)
    if status is None:
        print(*machine.console(), sep="\n")
    if status:
        print(*lines, sep="\n", flush=True)
    return status == 0


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="suite", help=f"of Debian; default: {', '.join(SUITES)}")
    suites = parser.parse_args().suites or SUITES
    signal.signal(signal.SIGTERM, lambda *received: sys.exit(1))  # so that what runs is ended, and its files removed
    if not shutil.which(QEMU):
        parser.exit(1, f"there is no {QEMU}: apt-get install qemu-system-x86\n")
    print(f"{'suite':<13} {'kernel':<16} {'time':>9}  tests", flush=True)
    # Writes the bytecode, which a machine can't.
    call(sys.executable, "-m", "pytest", "-q", "--collect-only", *TESTS, directory=_REPOSITORY)
    wrong, running, tool, how = False, {}, None, None
    with tempfile.TemporaryDirectory(prefix="safedial-kernels-") as directory, contextlib.ExitStack() as stack:
        for suite in suites:
            try:
                tool = tool or busybox(Path(directory))
                root = unpack(suite, tool, Path(directory))
            except CannotRunError as why:
                print(f"{suite:<13} can't be run: {why}", flush=True)
                wrong = True
                continue
            how = how or accelerator(root)
            running[suite] = stack.enter_context(Machine(root, command(), how))
        while running:
            time.sleep(1)
            for suite, machine in list(running.items()):
                if not machine.running() or machine.seconds() > _SECONDS:
                    wrong = not report(suite, machine) or wrong
                    running.pop(suite).close()
    sys.exit(wrong)


if __name__ == "__main__":
    main()
