"""docs/command-line.md and the README on ``safedial wait``: what they show is printed, and what they say is so."""

import argparse
import json
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import safedial
from safedial import cli
from safedial.cli.wait import arguments, command, run
from tests.cli.test_command import environment
from tests.support import namespace, web

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "command-line.md").read_text().partition("\n## safedial wait\n")[2]
README = (ROOT / "README.md").read_text()
HELP = arguments._EPILOG
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def play(scripts):
    """Run each script while a server listens on port 6379."""
    shell = ["sh", "-c", f'safedial() {{ "{sys.executable}" -m safedial "$@"; }}; eval "$1"', "sh"]
    merged = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment()}
    with socket.create_server(("127.0.0.1", 6379)):
        processes = [subprocess.Popen([*shell, script], **merged) for script in scripts]
        return [process.communicate(timeout=60)[0] for process in processes]


def shape(text):
    return re.sub(r"\d+(\.\d+)?", "N", text)


@pytest.mark.storm
def test_shown_output_is_what_is_printed():
    namespace.require()
    shown = set(CONSOLE.findall(DOCS) + CONSOLE.findall(README))
    assert len(shown) == 3  # one of them is in both
    scripts = ["\n".join(re.findall(r"^\$ (.*)", each, re.MULTILINE)) for each in shown]
    printed = namespace.call(play, scripts)
    for block, output in zip(shown, printed, strict=True):
        lines = shape(re.sub(r"^\$ .*\n", "", block, flags=re.MULTILINE)).splitlines()
        assert sorted(lines) == sorted(shape(output).splitlines())  # targets are looked at together, in no order


def commands():
    """Return each command line that is shown, as a list of words."""
    for text in (DOCS, README, HELP):
        for line in re.findall(r"(?:`|\$ |^ *)(safedial wait [^\n`]+)", text, re.MULTILINE):
            if "[" not in line:  # the synopsis
                yield shlex.split(line.partition(" && ")[0])[1:]
        for words in re.findall(r'\["safedial", .*\]', text):
            yield [word.replace("$$", "$") for word in json.loads(words)][1:]


def test_each_command_that_is_shown_is_taken(monkeypatch, tmp_path):
    shown = list(commands())
    assert len(shown) >= 20
    monkeypatch.setattr(run, "wait", lambda *args, **kwargs: "ready")
    monkeypatch.setattr(command, "run", lambda words: 0)
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:secret@db/app")
    monkeypatch.chdir(tmp_path)
    web.authority().cert_pem.write_to_path("ca.pem")
    for words in shown:
        if words[-1] == "--":  # of an ENTRYPOINT, which CMD completes
            words.append("true")
        assert cli.main(words) == 0, words


def options():
    parser = argparse.ArgumentParser()
    arguments.add(parser.add_subparsers())
    (wait,) = parser._subparsers._group_actions[0].choices.values()
    return {name for action in wait._actions for name in action.option_strings} - {"--help"}


def test_each_option_has_an_example():
    described = re.findall(r"^\| `(--\w+)[^`]*` \| `([^`]+)` \|", DOCS, re.MULTILINE)
    assert {option for option, _ in described} == options()
    assert all(option in example for option, example in described)


def test_help_and_docs_have_the_same_exit_statuses():
    in_docs = re.findall(r"^\| (\d+) \|", DOCS, re.MULTILINE)
    assert in_docs == re.findall(r"^  (\d+) ", HELP, re.MULTILINE)


def test_the_same_in_python_waits(server):
    (code,) = re.findall(r"^```python\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
    assert code.count('("localhost", 6379)') == 1
    exec(code.replace('("localhost", 6379)', str(server.getsockname())), {"safedial": safedial})
    server.accept()[0].close()
