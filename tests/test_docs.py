"""The code in the README and the examples runs, and does what the text beside it says."""

import ast
import asyncio
import contextlib
import errno
import importlib
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from safedial.testing import FAULTS, refused_port
from tests.support import faults, matrix, namespace

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMAND_LINE = (ROOT / "docs" / "command-line.md").read_text()
TESTING = (ROOT / "docs" / "testing.md").read_text()


def blocks(language, text=README):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run_blocks(codes):
    """Run each block while a server answers on port 6379 and nobody listens on 6380. Return the outputs."""
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
        try:
            for code in codes:
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(code, {})
                printed.append(out.getvalue())
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
    return printed


def shape(text):
    return re.sub(r"\d+(\.\d+)?", "N", text)


def run_apart(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_readme_shows_the_log():
    (code,) = (code for code in blocks("python") if "__notes__" in code)
    done = namespace.call(run_apart, code)
    (shown,) = (text for text in blocks("text") if "INFO:safedial" in text)
    assert set(map(shape, shown.splitlines())) == set(map(shape, done.stderr.splitlines()))


def test_readme_code_runs_as_printed():
    namespace.require()
    runnable = [code for code in blocks("python") if "def test_" not in code]
    loop, dialed, streams, times, own_policy, error_notes, installed, wrapped = namespace.call(run_blocks, runnable)
    assert "PONG" in loop
    assert "PONG" in dialed
    assert "PONG" in streams
    assert times == "5.0\n"
    assert "('127.0.0.1', 6379)" in own_policy
    assert installed == "install b'+PONG\\r\\n'\n"
    assert wrapped == f"{errno.ECONNREFUSED}\n"

    (shown,) = (text for text in blocks("text") if "gave up dialing" in text)
    assert shape(error_notes) == shape(shown)


# The names of some clients, and their line.
ONE_LINE = re.compile(r"^\| (.*) \| `(.*)` \|$", re.MULTILINE)
ONE_LINES = ONE_LINE.findall(README.partition("<!-- one line -->")[2].partition("<!-- /one line -->")[0])


@pytest.mark.parametrize("line", [line for _, line in ONE_LINES])
def test_one_line_for_each_client_runs(line):
    namespace.call_outside(run_line, line)


def run_line(line):
    """Run in a child process, because nothing closes what *line* makes."""
    # Only the top-level modules: `import safedial` is enough for its adapters.
    names = {name: importlib.import_module(name) for name in re.findall(r"(?<![.\w])([a-z]\w*)\.", line)}

    async def run():
        with refused_port() as port, contextlib.suppress(ConnectionRefusedError):
            exec(line, {**names, "host": "127.0.0.1", "port": port, "url": "sqlite://"})

    asyncio.run(run())


def calls(line):
    """Return what *line* calls, without what is the client's own."""
    return re.sub(r"^\w+ = (await )?|\(.*|\.Safe.*", "", line)


def test_readme_and_docs_have_the_same_line_for_each_client():
    shown = {name.removesuffix("-py"): line for names, line in ONE_LINES for name in names.split(", ")}
    for row in matrix.ROWS[2:]:  # socket and asyncio have their functions
        name = row.name.removesuffix(" on trio").split(",")[0].removesuffix("-py")
        assert calls(row.line) == calls(shown[name]), name


def test_readme_and_docs_begin_with_the_same_questions():
    questions = re.compile(r"^\| Your program \|.*\n(?:\|.*\n)+", re.MULTILINE)
    (asked,) = questions.findall(README)
    assert questions.findall((ROOT / "docs" / "clients.md").read_text()) == [asked]
    assert asked.count("?") == 4


def test_there_is_a_line_for_each_adapter():
    adapters = {path.stem for path in (ROOT / "src/safedial/adapters").glob("[a-z]*.py")}
    assert adapters == set(re.findall(r"safedial\.adapters\.(\w+)", "".join(line for _, line in ONE_LINES)))


def test_private_names_are_listed_in_one_place():
    table = (ROOT / "docs" / "clients.md").read_text().partition("## Private names")[2]
    modules = [path for path in (ROOT / "src/safedial").rglob("*.py") if "# Private:" in path.read_text()]
    assert len(modules) == len(re.findall(r"^\| (?!adapter|-)", table, re.MULTILINE))
    for path in modules:
        assert re.search(rf"^\| [^|]*\b{path.stem}\b", table, re.MULTILINE), path.stem


def test_layout_is_told_in_full():
    """In CONTRIBUTING.md's table, and the largest package in its docstring."""
    source = ROOT / "src" / "safedial"
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    modules = {path.stem for path in source.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert {*re.findall(r"`(\w+)`", "".join(rows)), "__init__", "__main__"} == modules
    told = set(re.findall(r"`(\w+)`", str(importlib.import_module("safedial._clients").__doc__)))
    assert {path.stem for path in (source / "_clients").glob("[a-z]*.py")} <= told


def test_readme_shows_the_demo():
    shown = blocks("text")[0]
    plain, safe = r"create_connection\s+[\d,]+\s+{} .*not in", r"safedial\s+[\d,]+\s+0\s+1\s+0\s"
    first, _, second = shown.partition("\n2. other connection\n")
    for scene, row in ((first, plain.format(1)), (first, "plain close .*not in"), (second, plain.format(0))):
        assert re.search(row, scene), row
    assert all(re.search(safe, scene) for scene in (first, second))


def test_readme_names_the_commands_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"make (\w+)", "".join(blocks("sh")) + "make bench"):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command


def test_readme_and_docs_show_the_report_of_the_doctor():
    namespace.require()
    faults.require_option()  # a line says that it works
    printed = without_what_varies(namespace.call(call_the_doctor))
    assert printed in map(without_what_varies, blocks("text", COMMAND_LINE))
    (shown,) = (text for text in blocks("text") if text.startswith("Taken now"))
    assert printed.startswith(without_what_varies(shown.removesuffix("...\n")))


def without_what_varies(text):
    return re.sub(r"^System: .*", "", re.sub(r"\b(pid|kill) \d+", r"\1 N", text), flags=re.MULTILINE)


def call_the_doctor():
    """Call it while one server runs, and a client is connected to itself on the port of another."""
    opened = {
        "mysqld": "socket.create_server(('127.0.0.1', 33060))",
        "worker": "socket.create_connection(('127.0.0.1', 50051), source_address=('127.0.0.1', 50051))",
    }
    with contextlib.ExitStack() as processes:
        for name, sock in opened.items():
            code = f"import socket, sys; open('/proc/self/comm', 'w').write('{name}')\n"
            code += f"with {sock}: print(flush=True); sys.stdin.read()"
            process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            processes.enter_context(process).stdout.readline()
        command = [sys.executable, "-m", "safedial", "doctor", "50051"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout


# A test, and what pytest says of it: nothing if it passes.
TESTS = re.findall(
    r"^```python\n((?:(?!```).)*?def test_.*?)^```\n(?:\n```text\n(.*?)^```\n)?",
    README + TESTING,
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.storm
def test_tests_in_readme_and_docs_pass_or_fail_as_shown(tmp_path):
    namespace.require()
    faults.require_option()  # a line says what holds the port
    files = [tmp_path / f"test_{number}.py" for number in range(len(TESTS))]
    for file, (code, _) in zip(files, TESTS, strict=True):
        file.write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "safedial.pytest_plugin", *files]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # others may shuffle and repeat tests
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    printed, _, summary = done.stdout.partition(" short test summary info ")  # it repeats messages where CI is set
    failures = [words(failure) for failure in re.split(r"^_{3,} .* _{3,}$", printed, flags=re.MULTILINE)[1:]]
    failing = {file.name: words(said) for file, (_, said) in zip(files, TESTS, strict=True) if said}
    assert len(failures) == len(failing) == 3, printed
    for said in failing.values():
        assert [said in failure for failure in failures].count(True) == 1, printed
    assert set(re.findall(r"^(?:FAILED|ERROR) (?:.*/)?(test_\d+\.py)", summary, re.MULTILINE)) == {*failing}


def words(text):
    """Return *text* without numbers, line breaks and pytest's margin."""
    return " ".join(re.sub(r"\d+", "N", re.sub(r"^E\b", "", text, flags=re.MULTILINE)).split())


def test_readme_and_docs_name_each_fixture():
    plugin = (ROOT / "src/safedial/pytest_plugin.py").read_text()
    fixtures = set(re.findall(r"^@pytest\.fixture\ndef (\w+)", plugin, re.MULTILINE))
    (table,) = re.findall(r"^\| fixture \|.*?\n\n", README, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(\w+)", table)) == fixtures
    assert fixtures <= set(re.findall(r"\w+", TESTING))


def test_fixtures_can_be_read_in_80_columns():
    """pytest indents a docstring by four."""
    plugin = ast.parse((ROOT / "src/safedial/pytest_plugin.py").read_text())
    functions = [each for each in plugin.body if isinstance(each, ast.FunctionDef)]
    fixtures = [each for each in functions if "pytest.fixture" in map(ast.unparse, each.decorator_list)]
    lines = [line for each in fixtures for line in ast.get_docstring(each).splitlines()]
    assert lines
    assert [line for line in lines if len(line) > 76] == []


def test_docs_tell_the_faults_and_words_of_assert_resilient():
    (table,) = re.findall(r"^\| fault \| what happens.*?\n\n", TESTING, re.MULTILINE | re.DOTALL)
    assert tuple(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == FAULTS
    source = "".join(path.read_text() for path in (ROOT / "src/safedial/testing").glob("*.py"))
    (table,) = re.findall(r"^\| it says \|.*?\n\n", TESTING, re.MULTILINE | re.DOTALL)
    for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        for said in re.findall(r"`([a-z, ]+).*?`", cell):
            assert said.removeprefix("the error ").strip() in source, said


def test_test_file_of_the_docs_is_the_example():
    (code,) = (code for code, _ in TESTS if "naive_client" in code)
    assert (ROOT / "examples" / "test_reconnect_loop.py").read_text().endswith(f'"""\n\n{code}')


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("reconnect*.py")), ids=lambda path: path.name)
def test_example_runs_by_itself(example):
    done = subprocess.run(
        [sys.executable, "-W", "error", example], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "20 answers, all right: True\n"
    assert "Traceback" not in done.stderr
    assert "server starts again" in done.stderr


@pytest.mark.parametrize(
    ("example", "says"),
    [
        ("requests_session.py", "2 answers, all right: True"),
        pytest.param(
            "redis_pool.py",
            "the server could bind its port at try 1, and the pool recovered: True",
            marks=pytest.mark.storm,
        ),
    ],
)
def test_example_of_an_adapter_runs_by_itself(example, says):
    if example == "redis_pool.py" and shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    command = [sys.executable, "-W", "error", ROOT / "examples" / example]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert says in done.stdout
