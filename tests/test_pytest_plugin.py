"""The plugin from outside: users' test files, run by pytest in other processes."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import safedial.pytest_plugin

OTHERS = ("randomly", "asyncio", "anyio", "socket", "xdist")


@pytest.fixture
def run(pytester):
    """Run a test file as a user would: the plugin is loaded by its entry point."""

    def ran(code, *arguments):
        pytester.makepyfile(code)
        if "no:asyncio" not in arguments:
            arguments += ("-o", "asyncio_default_fixture_loop_scope=function")  # without it, pytest-asyncio warns
        return pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider", *arguments)

    return ran


def documented():
    """Return the examples in the docstrings of the fixtures, by the fixture's name."""
    source = Path(safedial.pytest_plugin.__file__).read_text()
    return dict(re.findall(r"@pytest.fixture\ndef (\w+)\(.*?Example::\n\n(.*?)\n    \"\"\"", source, re.DOTALL))


def fixtures():
    return set(re.findall(r"@pytest.fixture\ndef (\w+)", Path(safedial.pytest_plugin.__file__).read_text()))


def test_every_fixture_has_an_example():
    assert set(documented()) == fixtures()


def make_examples(pytester):
    """Write each fixture's example to a file, and return the number of tests in them."""
    examples = {f"test_{name}": textwrap.dedent(code) for name, code in documented().items()}
    assert all(len(code.strip().splitlines()) <= 12 for code in examples.values())
    pytester.makepyfile(**examples)
    return sum(code.count("def test_") for code in examples.values())


def test_examples_run(run, pytester):
    examples = make_examples(pytester)
    run("").assert_outcomes(passed=examples)


@pytest.mark.storm
def test_examples_need_no_root(pytester):
    """Without any capability, all examples pass; none is skipped if the machine has namespaces."""
    examples = make_examples(pytester)
    pytester.makepyfile(
        test_powers="""
from pathlib import Path


def test_has_none():
    assert "CapEff:\t0000000000000000" in Path("/proc/self/status").read_text()
"""
    )
    without_powers = [sys.executable, "-m", "tests.support.powerless"]
    pytest_itself = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", pytester.path]
    done = subprocess.run(
        [*without_powers, *pytest_itself], cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=100
    )
    assert re.search(rf"{examples + 1} passed", done.stdout), done.stdout


@pytest.mark.storm
def test_is_listed(pytester):
    shown = pytester.runpytest_subprocess("--fixtures").stdout.str()
    for name in fixtures():
        assert f"\n{name} -- " in shown or f"\n{name} " in shown


EVERYTHING = """
import _socket, asyncio, socket
import pytest
from safedial import SelfConnectError, safe_connect, open_connection
from safedial.testing import assert_no_self_connects, is_self_connected

@pytest.mark.parametrize("turn", range(4))
def test_self_connect(self_connect, dead_port, turn):
    fault = self_connect(dead_port, times=1)
    with socket.create_connection(("127.0.0.1", dead_port)) as sock:
        assert is_self_connected(sock)
        with pytest.raises(AssertionError, match=f"on 127.0.0.1 port {dead_port}"):
            assert_no_self_connects()
    assert fault.triggered == 1 and fault.means
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", dead_port))

@pytest.mark.parametrize("turn", range(4))
def test_asyncio(self_connect, dead_port, turn):
    async def main():
        self_connect(dead_port)
        with pytest.raises(SelfConnectError):
            await open_connection("127.0.0.1", dead_port, policy=None)
    asyncio.run(main())

def test_nothing_is_patched_before():
    assert socket.socket.connect == _socket.socket.connect

def test_outage(outage, fast_retries):
    server = outage()
    server.refuse_for(dials=2)
    from safedial import reconnect
    safe_connect(server.address, policy=reconnect()).close()
    assert len(fast_retries) == 2

def test_nothing_is_patched_after():
    assert socket.socket.connect == _socket.socket.connect
"""


@pytest.mark.storm
@pytest.mark.parametrize(
    "arguments",
    [
        [word for name in OTHERS for word in ("-p", f"no:{name}")],
        ["-n", "2"],
        ["-p", "no:anyio", "-o", "asyncio_mode=auto"],
        ["-p", "no:asyncio"],
        [],
    ],
    ids=["alone", "xdist", "asyncio", "anyio", "all"],
)
def test_works_with_other_plugins(run, arguments):
    run(EVERYTHING, *arguments).assert_outcomes(passed=11)


@pytest.mark.storm
def test_async_tests_of_pytest_asyncio_and_anyio(run):
    code = """
    import pytest, safedial

    @pytest.mark.asyncio
    async def test_asyncio(self_connect, dead_port):
        self_connect(dead_port)
        with pytest.raises(safedial.SelfConnectError):
            await safedial.open_connection("127.0.0.1", dead_port, policy=None)

    @pytest.mark.anyio
    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_anyio(self_connect, dead_port):
        self_connect(dead_port)
        with pytest.raises(safedial.SelfConnectError):
            await safedial.open_connection("127.0.0.1", dead_port, policy=None)
    """
    run(code).assert_outcomes(passed=2)


@pytest.mark.storm
def test_is_inert_until_it_is_used(run):
    """Nothing is patched, and of what safedial loads when it is needed nothing is imported."""
    code = """
    import _socket, socket, sys

    def test_inert():
        assert not any(name.startswith(("safedial.testing", "safedial.adapters")) for name in sys.modules)
        assert "tenacity" not in sys.modules
        assert socket.socket.connect == _socket.socket.connect
    """
    run(code).assert_outcomes(passed=1)


@pytest.mark.storm
def test_can_be_disabled(run):
    result = run("def test_it(outage): pass", "-p", "no:safedial")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'outage' not found*"])


def test_unittest_users_need_no_pytest():
    code = "import safedial.testing, sys; assert 'pytest' not in sys.modules and '_pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


PORTS_AND_NAMES = """
import socket
import pytest
import safedial

@pytest.mark.parametrize("turn", range(6))
def test_each_test_has_its_own_ports(server_port, silent_port, refused_port, turn):
    assert len({server_port, silent_port, refused_port}) == 3
    for _ in range(2):
        with socket.create_server(("127.0.0.1", server_port)):
            socket.create_connection(("127.0.0.1", server_port)).close()
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", silent_port), 0.02)

def test_two_names(name_failure):
    name_failure("db.test", times=1)
    name_failure("cache.test", socket.EAI_NONAME)
    for name, text in {"db.test": "Temporary|not known", "cache.test": "not known"}.items():
        with pytest.raises(socket.gaierror, match=text):
            safedial.safe_connect((name, 80), policy=None)

def test_another_name_is_looked_up(name_failure):
    name_failure("db.test")
    socket.getaddrinfo("localhost", 80)

def test_never_called(name_failure):
    pass

def test_name_that_nobody_needs(name_failure):
    name_failure("db.test", unused="ignore")
"""


@pytest.mark.parametrize("arguments", [[], pytest.param(["-n", "2"], marks=pytest.mark.storm)], ids=["alone", "xdist"])
def test_ports_and_names(run, arguments):
    result = run(PORTS_AND_NAMES, *arguments)
    result.assert_outcomes(passed=10, errors=2)
    result.stdout.fnmatch_lines_random(
        [
            "*name_failure('db.test') hit no look-up; looked up instead: localhost*",
            "*name_failure was requested and never called*",
        ]
    )
