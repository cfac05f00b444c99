"""An application in a process of its own: it gets words, uses each, and sends back what it read or how it failed."""

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
import types
from typing import NamedTuple

from tests.frameworks import recipes

_PR_SET_PDEATHSIG = 1  # sys/prctl.h
# Bytes of what an application printed that a failure shows.
_SHOWN = 3000


class Reply(NamedTuple):
    """What came of one word.

    Attributes:
        word: the word.
        kind: ``answer``, ``error``, ``hung`` or ``ended``.
        text: what the application read, or the error with its causes, or what it printed before it ended.
    """

    word: str
    kind: str
    text: str = ""

    @property
    def right(self):
        return self.kind == "answer" and self.text == self.word


class Application:
    """The process, as its tester sees it. A context manager that ends it, and all that it started.

    Args:
        row: what it is, a `rows.Row`.
        address: the host and port of its server.
        installed: whether the recipe keeps its `safedial.install()`.
    """

    def __init__(self, row, address, installed):
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self._directory = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.frameworks.application", json.dumps([*row[1:4], *address, installed])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path, "TMPDIR": self._directory.name},
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.kill()
        self._process.communicate()
        self._log.close()
        self._directory.cleanup()

    def kill(self):
        """Kill its process group; its last `ask` then returns."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def ask(self, word, within):
        """Let the application use *word*; wait at most *within* seconds for its `Reply`."""
        with contextlib.suppress(BrokenPipeError):  # it has ended
            self._process.stdin.write(f"{word}\n".encode())
            self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], within)[0]:
            return Reply(word, "hung")
        line = self._process.stdout.readline()
        return Reply(word, *json.loads(line)) if line else Reply(word, "ended", self.printed())

    def printed(self):
        """Return the end of what it printed."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), _SHOWN, max(0, size - _SHOWN)).decode(errors="replace")


def load(recipe, app, swap, host, port, installed):
    """Run a recipe as the module ``recipe``, with the text *swap* changed; return the module of `apps` that uses it.

    A recipe that needs no application is run again for each use.
    """
    code = recipes.RECIPES[recipe]
    if swap:
        assert swap[0] in code, f"{swap[0]!r} is not in the recipe"
        code = code.replace(*swap)
    code = compile(code if installed else recipes.without_install(code), recipe, "exec")
    module = sys.modules["recipe"] = types.ModuleType("recipe")
    vars(module).update(host=host, port=port)
    if not app:
        module.use = lambda text: exec(code, vars(module)) or "connected"
        return module
    exec(code, vars(module))
    return importlib.import_module(f"tests.frameworks.apps.{app}")


def main():
    # However this process's parent ends, it must not stay behind.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # frameworks print
    app = load(*json.loads(sys.argv[1]))
    if sys.argv[2:] == ["worker"]:
        app.main()
    for line in sys.stdin:
        try:
            reply = "answer", app.use(line.strip())
        except Exception:
            reply = "error", traceback.format_exc()
        print(json.dumps(reply), file=replies)


if __name__ == "__main__":
    # Under its own name, so that classes pickle.
    from tests.frameworks import application

    application.main()
