"""Interceptors of connect(): several at once, among the patches of others."""

import contextlib
import socket

import pytest

from safedial import testing
from tests.support.plain import with_create_connection


class TestIntercepting:
    def test_faults_nest_and_end_in_any_order(self, server, dead_port):
        with contextlib.ExitStack() as stack:
            one = stack.enter_context(testing.self_connect(dead_port, times=1))
            two = testing.address_not_available(dead_port, times=1)
            other = two.__enter__()
            with pytest.raises(OSError, match="assign"):
                with_create_connection("127.0.0.1", dead_port)
            ends = with_create_connection("127.0.0.1", dead_port)
            assert ends.local == ends.peer
            assert (one.triggered, other.triggered) == (1, 1)
            stack.close()
            assert "connect" in vars(socket.socket)
            two.__exit__(None, None, None)

    def test_an_earlier_patch_is_restored(self, monkeypatch, server):
        """pytest-socket patches like this."""
        calls = []

        def guarded(self, address):
            calls.append(address)
            return super(socket.socket, self).connect(address)

        monkeypatch.setattr(socket.socket, "connect", guarded, raising=False)
        with testing.self_connect(testing.dead_port(), unused="ignore"):
            socket.create_connection(server.getsockname()).close()
        assert vars(socket.socket)["connect"] is guarded
        assert calls == [server.getsockname()]
        monkeypatch.undo()

    def test_a_later_patch_stays_and_ours_does_nothing(self, server):
        with contextlib.ExitStack() as stack:
            stack.enter_context(testing.self_connect(testing.dead_port(), unused="ignore"))
            ours = socket.socket.connect
            socket.socket.connect = lambda self, address: ours(self, address)
        try:
            with testing.self_connect(testing.dead_port()) as fault:
                ends = with_create_connection("127.0.0.1", fault.port)
                assert ends.local == ends.peer
                assert fault.triggered == 1
            socket.create_connection(server.getsockname()).close()
        finally:
            del socket.socket.connect

    def test_connect_ex_raises_if_the_name_is_unknown(self):
        fault = testing.self_connect(testing.dead_port(), unused="ignore")
        with fault, socket.socket() as sock, pytest.raises(socket.gaierror):
            sock.connect_ex(("no.such.invalid", 80))

    def test_other_kinds_of_sockets_are_left_alone(self, tmp_path):
        with testing.self_connect(testing.dead_port(), unused="ignore") as fault:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
                datagram.connect(("127.0.0.1", fault.port))
            with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as local:
                server.bind(str(tmp_path / "s"))
                server.listen()
                local.connect(str(tmp_path / "s"))
            with socket.socket() as sock, pytest.raises(TypeError):
                sock.connect("127.0.0.1")
        assert fault.triggered == 0
