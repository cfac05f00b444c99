"""In an event loop a thread looks at the settings, once a second."""

import asyncio
import os
import socket
import threading

import pytest

import safedial
from safedial._tcp import namespaces, settings_thread
from tests.support import dials, exhaustion, faults, namespace


def test_look_of_a_thread_in_another_namespace_sees_nothing():
    namespace.require()
    with socket.socket() as sock:
        try:
            sock.getsockopt(socket.SOL_SOCKET, namespaces._SO_NETNS_COOKIE, 8)
        except OSError:
            pytest.skip("this kernel has no SO_NETNS_COOKIE (Linux 5.14), and no event loop reads a file instead")
    assert namespace.call(look_from_another_namespace) == [True, False]


def look_from_another_namespace():
    """Return whether a look knows the range: one from the socket's namespace, then one from another."""
    found = []

    async def dial(sock):
        await settings_thread.range_now(asyncio.get_running_loop(), sock, None)
        found.append(settings_thread.last_look(namespaces.namespace_of(sock)).settings is not None)

    with socket.socket() as sock:
        dials.run(dial(sock))
        exhaustion.forget()
        namespace.enter_network()
        dials.run(dial(sock))
    return found


@pytest.fixture
def no_look_yet():
    settings_thread._looks.clear()
    yield
    settings_thread._looks.clear()


@pytest.mark.usefixtures("no_look_yet")
class TestLook:
    """In an event loop a thread looks at the settings."""

    def dial(self, server, **options):
        port = server.getsockname()[1]
        narrow = [faults.option(port, port)]
        return safedial.open_connection("127.0.0.1", port, policy=None, socket_options=narrow, **options)

    def test_many_dials_start_one_thread(self, server, monkeypatch):
        started = []
        start = settings_thread._thread.start_new_thread
        monkeypatch.setattr(
            settings_thread._thread, "start_new_thread", lambda *args: started.append(args) or start(*args)
        )

        async def main():
            return await asyncio.gather(*(self.dial(server) for _ in range(20)), return_exceptions=True)

        assert {type(error) for error in dials.run(main())} == {safedial.PortsExhaustedError}
        assert [function.__name__ for function, *_ in started].count("_read") == 1

    @pytest.mark.parametrize(("patience", "limit"), [(100, {"timeout": 0.05}), (0.01, {"total_timeout": 60})])
    def test_late_look_costs_its_settings_and_not_the_error(self, server, monkeypatch, patience, limit):
        """A dial waits for the look for half of its limit at most."""
        go_on, looks = threading.Event(), []
        read = settings_thread.Look._read
        monkeypatch.setattr(
            settings_thread.Look, "_read", lambda look: (looks.append(look), go_on.wait(20), read(look))
        )
        monkeypatch.setattr(settings_thread, "_PATIENCE", patience)
        try:
            with pytest.raises(safedial.PortsExhaustedError):
                dials.run(self.dial(server, **limit))
            assert not any(look.done for look in looks)
        finally:
            go_on.set()

    @pytest.mark.parametrize(("limit", "patience"), [(None, 0.1), (60, 0.1), (0.05, 0.025)])
    def test_dial_waits_for_half_of_its_limit_at_most(self, monkeypatch, limit, patience):
        waited = []

        async def over(look, loop, seconds):
            waited.append(seconds)

        async def main():
            with socket.socket() as sock:
                assert await settings_thread.range_now(asyncio.get_running_loop(), sock, limit) is None

        monkeypatch.setattr(settings_thread.Look, "begin", lambda look: None)
        monkeypatch.setattr(settings_thread.Look, "over", over)
        asyncio.run(main())
        assert waited == [patience]

    def test_dial_that_waits_no_longer_is_forgotten(self):
        look = settings_thread.Look(0)

        async def main():
            await look.over(asyncio.get_running_loop(), 0)

        asyncio.run(main())
        assert not look._waiting

    def test_number_of_looks_is_bounded(self, monkeypatch):
        monkeypatch.setattr(settings_thread, "_MOST", 2)
        looks = [settings_thread.last_look(namespace) for namespace in (1, 2, 3)]
        assert [look for _, look in settings_thread._looks.values()] == looks[2:]

    @faults.forks_among_threads
    def test_child_forked_meanwhile_looks_itself(self, monkeypatch):
        monkeypatch.setattr(settings_thread.Look, "begin", lambda look: None)
        look = settings_thread.last_look(1)
        assert settings_thread.last_look(1) is look
        pid = os.fork()
        if not pid:
            os._exit(settings_thread.last_look(1) is look)
        assert os.waitpid(pid, 0)[1] == 0

    def test_no_thread_can_be_started(self, server, monkeypatch):
        def fail(*args):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(settings_thread._thread, "start_new_thread", fail)
        with pytest.raises(safedial.PortsExhaustedError):
            dials.run(self.dial(server))

    def test_cancelled_meanwhile(self, server, monkeypatch):
        begun, go_on = threading.Event(), threading.Event()
        read = settings_thread.Look._read
        monkeypatch.setattr(settings_thread.Look, "_read", lambda look: (begun.set(), go_on.wait(10), read(look)))
        monkeypatch.setattr(settings_thread, "_PATIENCE", 100)

        async def main():
            task, other = asyncio.ensure_future(self.dial(server)), asyncio.ensure_future(self.dial(server))
            await asyncio.to_thread(begun.wait, 10)
            task.cancel()
            try:
                with pytest.raises(asyncio.CancelledError):
                    await task
            finally:
                go_on.set()
            with pytest.raises(safedial.PortsExhaustedError):  # the look goes on for the others, and wakes them
                await asyncio.wait_for(other, 20)

        dials.run(main())
