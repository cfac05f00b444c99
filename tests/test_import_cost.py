"""Importing safedial is cheap, and every public name exists."""

import subprocess
import sys

import pytest

import safedial


def loaded_by(code: str) -> set[str]:
    code += "; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_nothing_heavy():
    assert loaded_by("import safedial") & {"asyncio", "ssl", "tenacity", "rich", "uvloop"} == set()
    assert not any(name.startswith("safedial.adapters") for name in loaded_by("import safedial; safedial.wrap"))


def test_refused_dial_loads_nothing_heavy(dead_port):
    code = "import safedial, contextlib\nwith contextlib.suppress(ConnectionRefusedError): "
    code += f"safedial.safe_connect(('127.0.0.1', {dead_port}))\npass"
    assert loaded_by(code) & {"asyncio", "ssl", "tenacity"} == set()


def test_first_dial_imports_nothing(dead_port, server):
    code = "import safedial, contextlib, sys; before = set(sys.modules); "
    code += f"safedial.safe_connect({server.getsockname()}).close()\n"
    code += f"with contextlib.suppress(OSError): safedial.safe_connect(('localhost', {dead_port}))\n"
    code += f"with safedial.guard(): safedial.safe_connect({server.getsockname()}).close()\n"
    code += f"safedial.wrap(safedial.safe_connect)({server.getsockname()}).close()\n"
    code += "assert sys.modules.keys() == before, sys.modules.keys() - before"
    loaded_by(code)


def test_dialer_loads_the_asyncio_dial_if_asyncio_is_there():
    name = "safedial._dial.aio"
    assert name in loaded_by("import asyncio, safedial; safedial.Dialer()")
    assert name not in loaded_by("import safedial; safedial.Dialer(); import asyncio")


def test_tenacity_and_asyncio_load_when_needed():
    assert "tenacity" in loaded_by("import safedial; safedial.redial()")
    assert "asyncio" in loaded_by("import safedial; safedial.open_connection")


def test_public_names_are_listed_and_documented():
    assert set(safedial.__all__) <= set(dir(safedial))
    for name in safedial.__all__:
        assert getattr(safedial, name).__doc__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        safedial.nonsense  # noqa: B018
