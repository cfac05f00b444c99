"""`on_event` of `guard` and `install`."""

import asyncio
import socket

import pytest

import safedial
from tests.support import faults

HOST = "127.0.0.1"


def connect(port):
    with socket.socket() as sock:
        sock.connect((HOST, port))


def kinds(events):
    return [event.kind for event in events]


@pytest.fixture
def server():
    with faults.listener() as sock:
        yield sock.getsockname()[1]


class TestGuard:
    def test_hears_of_each_connect(self, server, dead_port, force, events):
        with safedial.guard(on_event=events.append):
            connect(server)
            with pytest.raises(ConnectionRefusedError):
                connect(dead_port)
            force(dead_port, times=1)
            with pytest.raises(safedial.SelfConnectError):
                connect(dead_port)
        assert kinds(events) == ["connected", "failed", "self_connect"]
        assert [event.error_type for event in events] == [None, "connection_refused", "self_connect"]
        assert [event.address for event in events] == [(HOST, server), (HOST, dead_port), (HOST, dead_port)]
        assert all(event.duration == event.elapsed >= 0 for event in events)

    def test_hears_only_of_its_own_block(self, server, events):
        others = []
        with safedial.guard(on_event=others.append):
            with safedial.guard(on_event=events.append):
                connect(server)
            connect(server)
        connect(server)
        assert (kinds(events), kinds(others)) == (["connected"], ["connected"] * 2)

    def test_decorator(self, server, events):
        safedial.guard(on_event=events.append)(connect)(server)
        assert kinds(events) == ["connected"]

    def test_decorated_coroutine(self, server, events):
        @safedial.guard(on_event=events.append)
        async def main():
            connect(server)

        asyncio.run(main())
        assert kinds(events) == ["connected"]

    def test_non_blocking_connect_tells_what_is_known_at_once(self, server, dead_port, events, force):
        force(dead_port, times=1)
        with safedial.guard(on_event=events.append):
            for port in (server, dead_port):
                with socket.socket() as sock:
                    sock.setblocking(False)
                    sock.connect_ex((HOST, port))
        assert kinds(events) == ["self_connect"]

    def test_error_of_the_hook_does_not_end_the_connect(self, server):
        with safedial.guard(on_event=lambda event: 1 / 0):
            connect(server)

    def test_hook_may_dial_itself(self, server):
        told = []

        def report(event):
            told.append(event.kind)
            connect(server)  # to the metrics server

        with safedial.guard(on_event=report):
            connect(server)
        assert told == ["connected"]

    def test_checks_its_hook(self):
        with pytest.raises(TypeError, match="on_event"):
            safedial.guard(on_event=3)


class TestInstall:
    @pytest.fixture(autouse=True)
    def _uninstalled(self):
        yield
        safedial.uninstall()

    def test_hears_of_each_connect_until_it_is_replaced(self, server, events):
        others = []
        safedial.install(on_event=events.append)
        connect(server)
        safedial.install(on_event=others.append)
        connect(server)
        safedial.uninstall()
        connect(server)
        assert (kinds(events), kinds(others)) == (["connected"], ["connected"])

    def test_checks_its_hook(self):
        with pytest.raises(TypeError, match="on_event"):
            safedial.install(on_event=3)
