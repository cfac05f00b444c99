"""Importing safedial is cheap, and so is its plugin of pytest. Each public name loads what its dials need."""

import pickle
import subprocess
import sys

import pytest

import safedial

# What a test run loads without the plugin, as far as the plugin needs it.
PYTEST = "import pytest, logging"
HEAVY = {"asyncio", "ssl", "tenacity", "rich", "uvloop"}
WITH_TENACITY = {"connections", "reconnect", "redial", "retry_if_spurious", "retry_if_transient"}
# Makes safedial as if it had not been imported, in a program that then loads names in other circumstances.
UNLOAD = """
import sys

def unload():
    for name in [name for name in sys.modules if name.partition(".")[0] == "safedial"]:
        del sys.modules[name]
"""


def run(code, *args):
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code: str) -> set[str]:
    return set(run(f"{code}; import sys; print(*sys.modules)").split())


def own(modules):
    return {name for name in modules if name.partition(".")[0] == "safedial"}


def test_import_loads_nothing():
    loaded = loaded_by("import safedial")
    assert own(loaded) == {"safedial", "safedial._forks"}
    assert loaded & {*HEAVY, "socket", "encodings.idna"} == set()


def test_names_load_nothing_heavy():
    light = {*safedial.__all__} - WITH_TENACITY - {"open_connection"}
    loaded = loaded_by(f"from safedial import {', '.join(light)}")
    assert loaded & HEAVY == set()
    assert not any(name.startswith("safedial.adapters") for name in loaded)
    assert "tenacity" in loaded_by(f"from safedial import {', '.join(WITH_TENACITY)}")


def test_refused_dial_loads_nothing_heavy(dead_port):
    code = "import safedial, contextlib\nwith contextlib.suppress(ConnectionRefusedError): "
    code += f"safedial.safe_connect(('127.0.0.1', {dead_port}))\npass"
    assert loaded_by(code) & {"asyncio", "ssl", "tenacity"} == set()


# What is done with each name, once it was touched.
USES = {
    "safe_connect": "safedial.safe_connect(server).close()\n"
    "with contextlib.suppress(OSError): safedial.safe_connect(('localhost', dead))",
    "Dialer": "safedial.Dialer(timeout=5).dial(server).close()",
    "connections": "for connection in safedial.connections(server):\n    with connection: break",
    "guard": "with safedial.guard(): socket.create_connection(server).close()",
    "wrap": "safedial.wrap(socket.create_connection)(server).close()",
    "install": "safedial.install(hold=[('127.0.0.1', dead)]); socket.create_connection(server).close()",
}


@pytest.mark.parametrize("name", USES)
def test_first_dial_imports_nothing(dead_port, server, name):
    code = f"import safedial, contextlib, socket, sys\nserver, dead = {server.getsockname()}, {dead_port}\n"
    code += f"safedial.{name}; before = set(sys.modules)\n{USES[name]}\n"
    code += "assert sys.modules.keys() == before, sys.modules.keys() - before"
    run(code)


def test_adapters_load_what_dials_need():
    code = "import safedial, sys; safedial.adapters; before = set(sys.modules)\n"
    code += "safedial.adapters.http; safedial.adapters.socket; safedial.Dialer; safedial.guard; safedial.wrap\n"
    code += "print(*sys.modules.keys() - before)"
    assert own(run(code).split()) == {f"safedial.adapters.{name}" for name in ("http", "socket", "_others")}


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


def test_names_that_are_not_loaded_yet():
    run("import safedial; assert {*safedial.__all__} <= set(dir(safedial))")
    run(
        f"{UNLOAD}\nimport safedial; assert safedial.errors.PortUsage is safedial.PortUsage\nunload()\n"
        "import safedial; assert safedial.events.DialEvent is safedial.DialEvent\nunload()\n"
        "from safedial import *; assert {*sys.modules['safedial'].__all__} <= {*globals()}"
    )


def test_freezegun_loads_no_library_but_tenacity():
    """It gets each attribute that dir() lists, of every module that is loaded, while the clock stands still."""
    libraries = "aiohttp", "httpx", "redis", "requests", "sqlalchemy", "urllib3", "valkey"
    freeze = "import freezegun; freezegun.freeze_time('2026-01-01').start()"
    loaded = loaded_by(f"import pytest, safedial, safedial.pytest_plugin; {freeze}")
    assert not [name for name in loaded if name.startswith(("safedial.adapters", "safedial.testing", *libraries))]
    loaded = loaded_by(f"import safedial.adapters; {freeze}")
    assert not [name for name in loaded if name.startswith(("safedial.adapters.", *libraries))]


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        safedial.nonsense  # noqa: B018


def test_name_that_is_mocked_before_it_is_used():
    run("""
import safedial, unittest.mock

for name in safedial.__all__:
    with unittest.mock.patch(f"safedial.{name}") as mocked:
        assert getattr(safedial, name) is mocked
    assert getattr(safedial, name) is not mocked
""")


def test_functions_and_classes_are_pickled_by_where_they_are():
    things = [getattr(safedial, name) for name in ("safe_connect", "Dialer", "reconnect", "guard", "SelfConnectError")]
    run("import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1]))", pickle.dumps(things).hex())


MOCKED = (
    UNLOAD
    + """
import contextlib, logging, random, socket, time
from unittest import mock

real = socket.socket
for target in sys.argv[1:]:
    unload()
    import safedial
    # One has no operators, the other no __code__.
    new = mock.Mock() if target.startswith("logging") else lambda *args, **kwds: None
    with mock.patch(target, new):
        for name in [*safedial.__all__, "adapters"]:
            getattr(safedial, name)
    from safedial._clients import patch
    assert patch._STDLIBS is real, target
    with socket.create_server(("127.0.0.1", 0)) as server, safedial.guard():
        address = server.getsockname()
        safedial.safe_connect(address).close()
        socket.create_connection(address).close()
    with contextlib.suppress(ConnectionRefusedError):
        safedial.safe_connect(address, policy=safedial.reconnect(within=0.02))
"""
)


SOCKETS = ["socket.create_connection", "socket.getaddrinfo"]
OTHERS = ["time.sleep", "logging.Logger.handle", "builtins.open", "random.uniform"]


@pytest.mark.parametrize(
    "targets",
    [["socket.socket", "logging.Handler.handle"], pytest.param(SOCKETS + OTHERS, marks=pytest.mark.storm)],
    ids=["two", "others"],
)
def test_names_may_be_loaded_while_the_stdlib_is_mocked(targets):
    """A test may use a name first, whose mocks are in place by then."""
    run(MOCKED, *targets)


BROKEN = (
    UNLOAD
    + """
import safedial

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "safedial._tcp.steering":
            raise broken

finder = Finder()
for error in KeyboardInterrupt, AttributeError:
    broken = error("broken")
    for use in "from safedial import wrap", "hasattr(safedial, 'wrap')":
        unload()
        import safedial
        sys.meta_path.insert(0, finder)
        try:
            exec(use)
        except BaseException as caught:
            if error is AttributeError:
                assert type(caught) is ImportError and str(caught) == "safedial.wrap can't be loaded: broken", caught
                assert caught.__cause__ is broken
            else:
                assert caught is broken
        else:
            raise AssertionError(use)
        sys.meta_path.remove(finder)
        from safedial import wrap
"""
)


def test_error_of_a_late_import_comes_out_as_it_is():
    """But not an AttributeError, such as of a user's own file socket.py: `from` and hasattr() would hide it."""
    run(BROKEN)


def test_plugin_loads_nothing_but_itself():
    code = f"import sys; {PYTEST}; before = set(sys.modules); import safedial.pytest_plugin; "
    code += "print(*sys.modules.keys() - before)"
    assert set(run(code).split()) == {"safedial", "safedial._forks", "safedial.pytest_plugin"}


# What stands in the modules and classes that a fixture may touch: before the plugin is loaded, and in each test.
SESSION = """
import asyncio, os, socket, sys, time

import tenacity

def state():
    places = socket, socket.socket, time, asyncio.BaseEventLoop, tenacity, tenacity.nap, tenacity.Retrying
    found = {(place, name): value for place in places for name, value in vars(place).items()}
    return found | {each: None for each in sys.meta_path if type(each).__module__.startswith("safedial")}

sys.before, sys.state = state(), state
import pytest
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # another plugin may patch what it likes
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "safedial.pytest_plugin", sys.argv[1]]))
"""

TESTS = """
import socket, sys

def touched():
    now = sys.state()
    return [key for key in now.keys() | sys.before if now.get(key) is not sys.before.get(key)]

def test_before():
    assert "safedial.pytest_plugin" in sys.modules
    assert "safedial.testing" not in sys.modules
    assert not any(name.startswith(("safedial._tcp", "safedial._clients")) for name in sys.modules)
    assert touched() == []

def test_with_a_fixture(self_connect, dead_port):
    fault = self_connect(dead_port)
    socket.create_connection(("127.0.0.1", dead_port)).close()
    assert fault.triggered == 1
    assert (socket.socket, "connect") in touched()

def test_after():
    assert touched() == []
"""


def test_nothing_is_patched_until_a_fixture_is_used(tmp_path):
    file = tmp_path / "test_it.py"
    file.write_text(TESTS)
    assert "3 passed" in run(SESSION, str(file))
