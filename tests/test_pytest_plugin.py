"""The plugin from outside: users' test files, run by pytest in other processes."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import safedial.pytest_plugin

OTHERS = ("randomly", "asyncio", "anyio", "socket", "xdist", "rerunfailures", "time_machine")
ALONE = [word for name in OTHERS for word in ("-p", f"no:{name}")]


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


def test_hooks_need_no_new_pluggy():
    """pluggy has ``wrapper=`` from 1.2 on: with an older one, no pytest would start where safedial is installed."""
    hooks = [value for name, value in vars(safedial.pytest_plugin).items() if name.startswith("pytest_")]
    assert hooks
    assert not any(hook.pytest_impl["wrapper"] for hook in hooks)


def test_every_fixture_has_an_example():
    assert set(documented()) == fixtures()


def make_examples(pytester):
    """Write each fixture's example to a file, and return the number of tests in them."""
    examples = {f"test_{name}": textwrap.dedent(code) for name, code in documented().items()}
    assert all(len(code.strip().splitlines()) <= 12 for code in examples.values())
    pytester.makepyfile(**examples)
    return sum(code.count("def test_") for code in examples.values())


def test_examples_run(run_alone, pytester):
    examples = make_examples(pytester)
    run_alone("").assert_outcomes(passed=examples)


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


UNUSED = """
import _socket
import socket
import unittest

import pytest
from safedial import testing


def dial(port):
    with socket.socket() as sock:
        sock.connect_ex(("127.0.0.1", port))


class TestSays:
    def test_never_called(self, self_connect, outage, ports_exhausted):
        assert socket.socket.connect == _socket.socket.connect

    def test_other_port(self, self_connect, refused_port):
        self_connect(refused_port + 2)
        dial(refused_port)
        dial(refused_port)

    def test_each_call(self, self_connect, address_not_available, dead_port):
        self_connect(5)
        self_connect(dead_port)
        self_connect(6, unused="ignore")
        self_connect(4, unused="error")
        address_not_available(7)
        dial(dead_port)

    @pytest.mark.filterwarnings("error")
    def test_warning_that_is_an_error(self, ports_exhausted):
        ports_exhausted(8, unused="warn")

    def test_by_getfixturevalue(self, request):
        request.getfixturevalue("address_not_available")()

    @pytest.fixture
    def clients(self, dead_port):
        yield dead_port
        dial(dead_port)

    def test_teardown_that_comes_later(self, clients, self_connect):
        self_connect(clients)


class TestWarns:
    def test_it(self, self_connect):
        self_connect(9, unused="warn")  # a line that is shown


class TestShowsTheTest:
    def test_it(self):
        with testing.self_connect(10):
            dial(11)


class TestSilent:
    @pytest.fixture
    def faulty(self, self_connect, dead_port):
        self_connect(dead_port)
        yield dead_port
        dial(dead_port)

    def test_teardown_dials(self, faulty):
        pass

    def test_bad_argument(self, self_connect, refused_port):
        with pytest.raises(ValueError, match="unused must be one of error, warn, ignore, not 'no'"):
            self_connect(refused_port, unused="no")
        assert socket.socket.connect == _socket.socket.connect


@pytest.fixture
def unused(self_connect, outage):
    self_connect(12)


@pytest.mark.usefixtures("unused")
class TestOtherEnds:
    def test_fails(self):
        assert not "my own"

    def test_skips(self):
        pytest.skip("my own")

    def test_import_that_is_missing(self):
        pytest.importorskip("no_such_module")

    @pytest.mark.skipif(True, reason="my own")
    def test_is_skipped(self):
        pass

    @pytest.mark.xfail
    def test_fails_as_expected(self):
        assert not "my own"

    def test_expects_to_fail(self):
        pytest.xfail("my own")

    @pytest.mark.xfail(run=False)
    def test_is_not_run(self):
        pass

    @pytest.mark.xfail
    def test_passes_unexpectedly(self):
        pass

    @pytest.mark.xfail(strict=True)
    def test_passes_against_the_strict(self):
        pass

    @pytest.fixture
    def broken(self):
        raise LookupError("my own")

    def test_setup_fails(self, broken):
        pass

    @pytest.fixture
    def breaking(self):
        yield
        raise LookupError("my own")

    def test_teardown_fails(self, breaking):
        pass


class TestOfUnittest(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def faults(self, self_connect):
        self.self_connect = self_connect

    def test_hit(self):
        port = testing.dead_port()
        self.self_connect(port)
        dial(port)

    def test_unused(self):
        self.self_connect(13)

    def test_fails(self):
        self.self_connect(13)
        self.fail("my own")

    def test_skips(self):
        self.self_connect(13)
        self.skipTest("my own")

    @unittest.expectedFailure
    def test_fails_as_expected(self):
        self.self_connect(13)
        self.fail("my own")
"""
NOTHING = r"no Python connect\(\) was seen: the client dials in C, or not at all, or in another process\n"
INSTEAD = r"dialed instead: 127.0.0.1 port \d+"
NEVER = (
    r"{0} was requested and never called: call it, or get it by request.getfixturevalue\('{0}'\) where it is needed\n"
)
# What is shown of each test, as a pattern.
SAYS = {
    "TestSays.test_never_called": "".join(map(NEVER.format, ["ports_exhausted", "outage", "self_connect"])),
    "TestSays.test_other_port": rf"self_connect\(\d+\) hit no connect; {INSTEAD} \(2 times\)\n",
    "TestSays.test_each_call": (
        rf"address_not_available\(7\) hit no connect; {INSTEAD}\n"
        rf"self_connect\(5\) hit no connect; {NOTHING}self_connect\(4\) hit no connect; {INSTEAD}\n"
    ),
    "TestSays.test_warning_that_is_an_error": rf"ports_exhausted\(8\) hit no connect; {NOTHING}",
    "TestSays.test_by_getfixturevalue": rf"address_not_available\(\) hit no connect; {NOTHING}",
    "TestSays.test_teardown_that_comes_later": rf"self_connect\(\d+\) hit no connect; {NOTHING}",
    "TestOtherEnds.test_teardown_fails": r"(?:.*\n)*E +LookupError: my own\n\ntest_.*: LookupError\n",
    "TestOfUnittest.test_unused": rf"self_connect\(13\) hit no connect; {NOTHING}",
}


def test_unused_fault_is_an_error_unless_the_test_has_ended_otherwise(run, pytester):
    result = run(UNUSED, "-W", "default::UserWarning", *ALONE)
    result.assert_outcomes(passed=12, failed=4, skipped=4, xfailed=4, xpassed=1, errors=9, warnings=1)
    shown = result.stdout.str()
    errors = dict(re.findall(r"^_+ ERROR at teardown of (\S+) _+\n((?:(?![_=]{3}).*\n)+)", shown, re.MULTILINE))
    assert errors.keys() == SAYS.keys()
    for name, words in SAYS.items():
        assert re.fullmatch(words, errors[name]), errors[name]
    (line,) = [number for number, text in enumerate(UNUSED.splitlines(), 1) if "a line that is shown" in text]
    assert re.search(rf"\.py:{line - 1}: UserWarning: self_connect\(9\) hit no connect; {NOTHING}", shown)
    marked = r">       with testing.self_connect\(10\):\n(?: +\^+\n)?"  # newer Pythons mark the place, too
    assert re.search(rf"{marked}E       AssertionError: self_connect\(10\) hit no connect; ", shown)
    assert "safedial/" not in shown


WRONG = """
import pytest
from safedial import testing


def test_keyword(self_connect):
    self_connect(5, time=3)


def test_value(self_connect):
    self_connect("x")


def test_outage(outage):
    outage(latency="x")


def test_hanging_up(hanging_up):
    hanging_up("x")


def test_port_that_is_taken(outage):
    outage(port=outage().port, within=0)


def test_with():
    with testing.name_failure("127.0.0.1"):
        pass
"""


def test_wrong_argument_shows_the_line_of_the_user(run_alone):
    result = run_alone(WRONG)
    result.assert_outcomes(failed=6)
    shown = result.stdout.str()
    assert not re.search(r"^\S*(safedial|contextlib|socket).*:\d+:", shown, re.MULTILINE)
    assert len(re.findall(r"^>  ", shown, re.MULTILINE)) == 6
    assert "self_connect = <function self_connect at " in shown


@pytest.mark.storm
@pytest.mark.parametrize(
    "arguments",
    [
        ALONE,
        ["-n", "2"],
        ["-p", "no:anyio", "-o", "asyncio_mode=auto"],
        ["-p", "no:asyncio"],
        [],
    ],
    ids=["alone", "xdist", "asyncio", "anyio", "all"],
)
def test_works_with_other_plugins(run, arguments):
    run(EVERYTHING, *arguments).assert_outcomes(passed=11)


UNUSED_AMONG_OTHERS = """
import pytest
from safedial import safe_connect


@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.asyncio
async def test_asyncio(self_connect):
    self_connect(5)

@pytest.mark.anyio
async def test_anyio(self_connect):
    self_connect(5)

@pytest.mark.parametrize("turn", range(4))
def test_worker(self_connect, turn):
    self_connect(5)

@pytest.mark.flaky(reruns=1)
def test_rerun_of_a_failure(self_connect, dead_port, request):
    self_connect(dead_port)
    assert request.node.execution_count == 2, "my own"
    with pytest.raises(ConnectionRefusedError):
        safe_connect(("127.0.0.1", dead_port))

@pytest.mark.flaky(reruns=1)
def test_rerun_that_is_unused(self_connect, request):
    self_connect(5)
    assert request.node.execution_count == 2, "my own"

@pytest.mark.flaky(reruns=1)
def test_rerun_that_fails(self_connect, request):
    self_connect(5)
    assert request.node.execution_count == 1, "my own"

@pytest.mark.flaky(reruns=1)
def test_rerun_that_skips(self_connect, request):
    self_connect(5)
    if request.node.execution_count == 2:
        pytest.skip("my own")

@pytest.mark.flaky(reruns=1)
def test_rerun_that_is_unused_too(self_connect):
    self_connect(5)
"""


@pytest.mark.storm
@pytest.mark.parametrize("arguments", [[], ["-n", "2"], ["--setup-show"]], ids=" ".join)
def test_unused_fault_among_other_plugins(run, arguments):
    """Reruns begin anew, and an unused fault is run again as other errors are."""
    result = run(UNUSED_AMONG_OTHERS, *arguments)
    found = result.parseoutcomes()  # each run that passes is counted
    assert found == {"passed": 12, "failed": 1, "skipped": 1, "errors": 8, "rerun": 5}
    said = re.findall(r"^self_connect\(5\) hit no connect; no Python connect\(\)", result.stdout.str(), re.MULTILINE)
    assert len(said) == 8


@pytest.mark.storm
def test_unused_fault_among_subtests(run):
    pytest.importorskip("_pytest.subtests", reason="subtests came with pytest 9")
    code = """
    import pytest

    @pytest.fixture
    def subtest(self_connect, subtests):
        self_connect(5)
        return subtests.test

    def test_passes(subtest):
        with subtest():
            pass

    def test_fails(subtest):
        with subtest():
            assert not "my own"
        with subtest():
            pass

    def test_skips(subtest):
        with subtest():
            pytest.skip("my own")
    """
    result = run(code)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_passes*", "self_connect(5) hit no connect; *"])
    assert len(re.findall(r"^self_connect\(5\) hit no connect", result.stdout.str(), re.MULTILINE)) == 1


@pytest.mark.storm
@pytest.mark.parametrize("end", ["raise KeyboardInterrupt", "pytest.exit('my own', returncode=0)"])
def test_unused_fault_of_an_interrupted_test(run, end):
    code = f"""
    import pytest

    @pytest.fixture(autouse=True)
    def unused(self_connect, outage):
        self_connect(5)

    def test_passes_at_first(request):
        if subtests := request.getfixturevalue("subtests") if {hasattr(pytest, "Subtests")} else None:
            with subtests.test():
                pass
        {end}
    """
    shown = run(code).stdout.str()
    assert "hit no connect" not in shown
    assert "INTERNALERROR" not in shown


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


@pytest.mark.storm
@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_ports_and_names(run, arguments):
    result = run(PORTS_AND_NAMES, *arguments)
    result.assert_outcomes(passed=10, errors=2)
    result.stdout.fnmatch_lines_random(
        [
            "*name_failure('db.test') hit no look-up; looked up instead: localhost*",
            "*name_failure was requested and never called*",
        ]
    )
