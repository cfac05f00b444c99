"""Run peers' own test suites from their sdists, plain and with `install()` in place, and compare test by test.

``python -m tests.peers [name …]``, or ``make peers ARGS="urllib3 redis"``. Linux only: each run has a network namespace
that has only loopback, and all its processes end with it. The exit status is 1 if there is a true difference.
"""

# ruff: noqa: T201  # a command, which prints

import argparse
import collections
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from tests.peers import outcomes
from tests.peers.table import DEFAULT, PEERS

_HERE = Path(__file__).resolve().parent
_SOURCE = _HERE.parents[1] / "src"
_HOSTS = "127.0.0.1 localhost\n::1 localhost\n"  # some machines have no IPv6 name
_ISOLATED = ("unshare", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
_INSIDE = """
ip link set lo up && mount --bind "$PEERS_HOSTS" /etc/hosts || exit
[ -z "$PEERS_SERVER" ] || sh -c "exec $PEERS_SERVER" >/dev/null 2>&1 &
[ -z "$PEERS_SERVER" ] || sleep 1
eval exec '"$0"' -m pytest -q -p peers_plugin -p no:cacheprovider "$PEERS_TESTS"
"""


class CannotRunError(Exception):
    """There is no suite to run, in words."""


class Suite:
    """A peer's suite, with an environment of its own in *directory*."""

    def __init__(self, name, directory):
        self._peer, self._directory, self._runs = PEERS[name], directory, 0
        self._python = directory / "venv/bin/python"
        self._tests = directory / "source"
        if name.startswith("test."):
            self.version = sys.version.split()[0]
            required = []
            self._tests.mkdir()
        else:
            self.version = metadata.version(name)
            required = [f"{name}=={self.version}"]
            self._unpack(name, required)
        _call(sys.executable, "-m", "venv", directory / "venv")
        # safedial itself comes from src, so that its pytest plugin is not there in either run.
        _pip(self._python, "install", "pytest", "tenacity", "typing-extensions", *required, *self._peer.needs.split())

    def _unpack(self, name, required):
        _pip(sys.executable, "download", "--no-deps", "--no-binary", name, "-d", self._directory, *required)
        (sdist,) = self._directory.glob("*.tar.gz")
        shutil.unpack_archive(sdist, self._directory / "unpacked", filter="data")
        (root,) = (self._directory / "unpacked").iterdir()
        if not any((root / each).is_dir() for each in ("test", "tests")):
            raise CannotRunError(f"{sdist.name} has no tests")
        shutil.rmtree(root / name.lower(), ignore_errors=True)  # the installed one is tested, which may be compiled
        root.rename(self._tests)

    def run(self, mode):
        """Return the outcome of each test, and the number of connects."""
        self._runs += 1
        work = self._directory / f"run{self._runs}"  # suites leave files behind
        shutil.copytree(self._tests, work, symlinks=True)
        notes, hosts = self._directory / f"notes{self._runs}", self._directory / "hosts"
        notes.touch()
        hosts.write_text(_HOSTS)
        told = {"MODE": mode, "NOTES": notes, "HOSTS": hosts, "SERVER": self._peer.server, "TESTS": self._peer.tests}
        environment = {f"PEERS_{key}": str(value) for key, value in told.items()}
        environment["PYTHONPATH"] = os.pathsep.join([str(_SOURCE), str(_HERE)])
        with (self._directory / f"log{self._runs}").open("w") as log:
            process = subprocess.Popen(
                [*_ISOLATED, "sh", "-c", _INSIDE, str(self._python)],
                env=os.environ | environment,
                cwd=work,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                process.wait(self._peer.seconds)
            except subprocess.TimeoutExpired:
                pass  # the test that hung is noted as unfinished
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
        found, connects = outcomes.read(notes.read_text().splitlines())
        if not found:
            raise CannotRunError(f"no test ran:\n{Path(log.name).read_text()[-2000:]}")
        return found, connects


def compare(suite):
    """Run *suite* both ways; return a row of the table, the true differences, and the tests that are flaky."""
    runs = {mode: [suite.run(mode)] for mode in ("plain", "ours")}
    (plain, _), (ours, connects) = runs["plain"][0], runs["ours"][0]
    differ = outcomes.differing(plain, ours)
    if differ:  # the whole suite again, because a test may differ only after another
        for mode in ("plain", "ours") * 2:
            runs[mode].append(suite.run(mode))
    said = {
        name: outcomes.verdict(*([found.get(name) for found, _ in runs[mode]] for mode in ("plain", "ours")))
        for name in differ
    }
    passed = [collections.Counter(found.values())["passed"] for found in (plain, ours)]
    true = {name: words for name, words in said.items() if words}
    return (len(plain.keys() | ours.keys()), *passed, connects), true, sorted(said.keys() - true)


def _pip(python, command, *arguments):
    _call(python, "-m", "pip", command, "-q", "--disable-pip-version-check", *arguments)


def _call(*command):
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise CannotRunError(f"{' '.join(map(str, command[2:4]))} failed:\n{done.stdout[-2000:]}")


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of {', '.join(PEERS)}; default: {', '.join(DEFAULT)}"
    )
    names = parser.parse_args().names or DEFAULT
    signal.signal(signal.SIGTERM, lambda *received: sys.exit(1))  # so that what runs is ended, and its files removed
    if unknown := set(names) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    print(f"{'peer':<28} {'version':<10} {'tests':>6} {'plain':>6} {'ours':>6} {'connects':>9}  differences")
    wrong = False
    for name in names:
        with tempfile.TemporaryDirectory(prefix="safedial-peers-") as directory:
            try:
                suite = Suite(name, Path(directory))
                (tests, plain, ours, connects), true, flaky = compare(suite)
            except (CannotRunError, metadata.PackageNotFoundError) as why:
                print(f"{name:<28} can't be run: {why}", flush=True)
                continue
        told = f"{len(true)}, and {len(flaky)} flaky"
        print(f"{name:<28} {suite.version:<10} {tests:>6} {plain:>6} {ours:>6} {connects:>9}  {told}", flush=True)
        for test, words in true.items():
            print(f"    {test}: {words}")
        for test in flaky:
            print(f"    {test}: flaky, with ours as without")
        wrong = wrong or bool(true)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
