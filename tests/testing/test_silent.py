"""A port that never answers."""

import asyncio
import contextlib
import errno
import selectors
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import safedial
from safedial import testing
from tests.support import dials, faults, namespace

HOSTS = ["127.0.0.1", "::1", "127.0.0.5"]


def assert_silent(host, port, times, seconds):
    """Dial many times at once, and assert that nobody hears anything for *seconds*."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(times):
            sock = stack.enter_context(socket.socket(family))
            sock.setblocking(False)
            assert sock.connect_ex((host, port)) == errno.EINPROGRESS
            selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
        assert selector.select(seconds) == []


@pytest.mark.parametrize("host", HOSTS)
def test_never_answers(host):
    with testing.silent_port(host) as port:
        for _ in range(3):
            assert_silent(host, port, 100, 0.05)
    faults.assert_server_can_bind(host, port)


@pytest.mark.storm
@pytest.mark.parametrize("host", HOSTS)
def test_nor_does_it_answer_a_syn_that_is_sent_again(host):
    """Linux sends it again after one second and after three."""
    with testing.silent_port(host) as port:
        for _ in range(500):
            assert_silent(host, port, 1, 0)
        assert_silent(host, port, 300, 3.5)
        assert_silent(host, port, 300, 0.05)


def _with_settings(all_settings, seconds):
    for settings in all_settings:
        for name, value in settings.items():
            Path(f"/proc/sys/net/ipv4/{name}").write_text(value)
        with testing.silent_port() as port, testing.silent_port("::1") as other:
            for wait in (seconds, 0.05):
                assert_silent("127.0.0.1", port, 300, wait)
                assert_silent("::1", other, 300, 0)
    return True


OVERFLOW, COOKIES, NO_COOKIES = {"tcp_abort_on_overflow": "1"}, {"tcp_syncookies": "2"}, {"tcp_syncookies": "0"}


def test_whatever_the_settings():
    namespace.require()
    assert namespace.call(_with_settings, [OVERFLOW | COOKIES, NO_COOKIES], 0.05)


@pytest.mark.storm
@pytest.mark.parametrize("settings", [OVERFLOW, COOKIES, NO_COOKIES], ids=str)
def test_whatever_the_settings_for_long(settings):
    namespace.require()
    assert namespace.call(_with_settings, [settings], 3.5)


def _among_few_ports():
    with testing.silent_port() as port:
        assert 40000 <= port <= 40005
        for _ in range(200):
            assert_silent("127.0.0.1", port, 1, 0)
    return True


def test_the_kernel_never_draws_it():
    namespace.require()
    assert namespace.call(_among_few_ports, port_range=(40000, 40005))


def test_for_c_code_and_other_processes():
    with testing.silent_port() as port:
        for factory in dials.LOOPS.values():  # uvloop's connect() is libuv's
            with pytest.raises(TimeoutError):
                dials.run(asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 0.05), factory)
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 0.05)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "TimeoutError" in done.stderr


def test_it_is_nobodys_dial(events):
    """Neither a fault nor a hook hears of the connection that fills the backlog."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(safedial.guard(on_event=events.append))
        fault = stack.enter_context(testing.address_not_available(unused="ignore"))
        stack.enter_context(testing.silent_port())
    assert not events
    assert not fault.triggered


def test_a_server_that_accepts_again():
    """What is full is a listener's backlog: once it is not, its server serves."""
    with faults.full_listener() as server:
        port = server.getsockname()[1]
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", port), 0.02)
        server.accept()[0].close()
        socket.create_connection(("127.0.0.1", port), 5).close()


@pytest.mark.parametrize(("host", "kind"), [("192.0.2.1", OSError), ("localhost", ValueError), (None, TypeError)])
def test_wrong_hosts(host, kind):
    with pytest.raises(kind), testing.silent_port(host):
        pass
