"""A program's own function in place of `socket.getaddrinfo` is asked about numeric hosts, too."""

import asyncio
import functools
import importlib.util
import socket
import subprocess
import sys

import pytest

import safedial
from safedial._dial import replaced
from tests.support import dials

FORBIDDEN = ("169.254.169.254", "127.0.0.1")
# uvloop's own getaddrinfo() is libuv's, and asks nobody, whoever dials.
DIALS = {name: dial for name, dial in dials.DIALS.items() if "uvloop" not in name}


class ForbiddenError(OSError):
    """An address that the program must not reach."""


class Proxy:
    """Looks like the function that it stands for, as wrapt's proxies do: tracers put these in place."""

    def __init__(self, function, guard):
        self._function, self._guard = function, guard

    def __getattr__(self, name):
        return getattr(self._function, name)

    def __call__(self, *args, **kwds):
        return self._guard(*args, **kwds)


@pytest.fixture(
    params=[lambda _, guard: guard, lambda original, guard: functools.wraps(original)(guard), Proxy],
    ids=["plain", "functools.wraps", "proxy"],
)
def guarded(request, monkeypatch):
    """Put a guard in place of getaddrinfo(), as programs do against SSRF; return the hosts it was asked for."""
    asked, original = [], socket.getaddrinfo

    def getaddrinfo(host, *args, **kwds):
        asked.append(host)
        if host in FORBIDDEN:
            raise ForbiddenError(f"{host} is forbidden")
        return original(host, *args, **kwds)

    monkeypatch.setattr(socket, "getaddrinfo", request.param(original, getaddrinfo))
    return asked


@pytest.mark.parametrize("dial", DIALS.values(), ids=DIALS)
@pytest.mark.parametrize("host", FORBIDDEN)
def test_forbidden_number_is_not_dialed(dial, guarded, server, host):
    with pytest.raises(ForbiddenError):
        dial(host, server.getsockname()[1])
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.accept()


@pytest.mark.parametrize("dial", DIALS.values(), ids=DIALS)
def test_number_that_is_allowed_is_dialed(dial, guarded, dead_port):
    with pytest.raises(ConnectionRefusedError):
        dial("127.0.0.2", dead_port)
    assert guarded == ["127.0.0.2"]


@pytest.mark.parametrize("dial", DIALS.values(), ids=DIALS)
def test_resolver_option_is_for_names(dial, guarded, server):
    with pytest.raises(ForbiddenError):
        dial("127.0.0.1", server.getsockname()[1], resolver=lambda *args, **kwds: pytest.fail("asked"))


@pytest.mark.parametrize("dial", DIALS.values(), ids=DIALS)
def test_source_address_is_not_asked_for(dial, guarded, dead_port):
    with pytest.raises(ConnectionRefusedError):
        dial("127.0.0.2", dead_port, source=("127.0.0.1", 0))
    assert guarded == ["127.0.0.2"]


def test_loop_over_connections_asks(guarded, server):
    connection = next(iter(safedial.connections(server.getsockname(), policy=safedial.redial(1))))
    with pytest.raises(ForbiddenError):
        connection.__enter__()


@pytest.mark.parametrize("dial", DIALS.values(), ids=DIALS)
def test_standard_resolver_is_not_asked_for_numbers(dial, server, monkeypatch):
    monkeypatch.setattr("safedial._dial.blocking.resolve", None)
    monkeypatch.setattr("safedial._dial.aio.resolve_async", None)
    dial(*server.getsockname())


def test_resolver_that_is_put_back_is_the_standard_one_again(monkeypatch):
    assert replaced.skips_resolver()
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", lambda *args: [])
        assert not replaced.skips_resolver()
    assert replaced.skips_resolver()


def test_resolver_that_was_replaced_before_the_import(server):
    code = f"""
import socket
original = socket.getaddrinfo
def getaddrinfo(*args, **kwds):
    raise PermissionError("forbidden")
socket.getaddrinfo = getaddrinfo
import safedial
try:
    safedial.safe_connect({server.getsockname()})
except PermissionError:
    raise SystemExit(5)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 5


@pytest.mark.parametrize("package", ["gevent.monkey", "eventlet"])
def test_cooperative_resolvers_count_as_standard(package, server):
    if importlib.util.find_spec(package.partition(".")[0]) is None:  # not imported here: eventlet warns of each fork
        pytest.skip(f"{package} is not installed")
    patch = "gevent.monkey.patch_all()" if "gevent" in package else "eventlet.monkey_patch()"
    ask = "from safedial._dial import replaced; raise SystemExit(5 if replaced.skips_resolver() else 6)"
    code = f"import {package}; {patch}; {ask}"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 5


def test_loop_of_a_running_program_asks(guarded, server):
    async def main():
        await safedial.Dialer().dial_async(server.getsockname())

    with pytest.raises(ForbiddenError):
        asyncio.run(main())
