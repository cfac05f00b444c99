"""The code in the README and the examples runs, and does what is said beside it."""

import contextlib
import io
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support import namespace

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run_blocks(codes):
    """Run each block where a server answers on port 6379 and nobody listens on 6380."""
    printed = []
    with socket.create_server(("127.0.0.1", 6379)) as server:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client:
                        if client.recv(100):
                            client.sendall(b"+PONG\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        for code in codes:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(code, {})
            printed.append(out.getvalue())
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    return printed


def test_readme_code_runs_as_printed():
    namespace.require()
    fix, streams, own_policy, three_at_night = namespace.call(run_blocks, blocks("python"))
    assert "PONG" in fix
    assert "PONG" in streams
    assert "('127.0.0.1', 6379)" in own_policy

    def shape(text):
        return re.sub(r"\d+(\.\d+)?", "N", text)

    shown = blocks("text")[-1]
    assert shape(three_at_night) == shape(shown)


def test_readme_shows_the_demo():
    shown = blocks("text")[0]
    for row in (r"create_connection\s+[\d,]+\s+1 .*never", r"plain close .*never", r"safedial\s+[\d,]+\s+0\s+1\s+0\s"):
        assert re.search(row, shown), row


def test_readme_names_the_commands_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"make (\w+)", "".join(blocks("sh")) + "make bench"):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_example_runs_by_itself(example):
    done = subprocess.run(
        [sys.executable, "-W", "error", example], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "20 answers, all right: True\n"
    assert "Traceback" not in done.stderr
    assert "server starts again" in done.stderr
