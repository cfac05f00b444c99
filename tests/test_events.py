"""Events and the log of a dial."""

import logging
import pickle
import re
import socket
import subprocess
import sys

import pytest

import safedial
from tests.support import dials, faults
from tests.support.resolvers import named


def kinds(events):
    return [event.kind for event in events]


def test_success_is_one_event(dial, server):
    seen = []
    host, port = server.getsockname()
    dial(host, port, on_event=seen.append)
    (event,) = seen
    assert (event.kind, event.host, event.port, event.round) == ("connected", host, port, 1)
    assert event.address == (host, port)
    assert (event.error, event.wait) == (None, None)
    assert event.elapsed >= 0


def test_each_address_and_each_wait_is_an_event(dial, dead_port):
    seen = []
    policy = safedial.reconnect(30, 0.001, 0.001).copy(stop=lambda state: state.attempt_number == 3)
    with pytest.raises(ConnectionRefusedError) as caught:
        dial("127.0.0.1", dead_port, policy=policy, on_event=seen.append)
    assert kinds(seen) == ["failed", "retry", "failed", "retry", "failed"]
    assert [event.round for event in seen] == [1, 1, 2, 2, 3]
    assert [event.wait is not None for event in seen] == [False, True] * 2 + [False]
    assert all(isinstance(event.error, ConnectionRefusedError) for event in seen)
    assert seen[-1].error is caught.value
    assert [event.elapsed for event in seen] == sorted(event.elapsed for event in seen)


def test_resolver_failure_is_an_event(dial):
    seen = []
    with pytest.raises(socket.gaierror):
        dial("no.such.host.invalid", 80, on_event=seen.append)
    assert kinds(seen) == ["failed"]
    assert seen[0].address is None


def test_event_is_frozen_and_survives_pickling():
    event = safedial.DialEvent("retry", "db", 5432, None, 2, 1.5, OSError(111, "refused"), 0.5)
    with pytest.raises(AttributeError):
        event.kind = "connected"
    assert pickle.loads(pickle.dumps(event)).wait == 0.5


class TestLog:
    def test_plain_success_is_quiet(self, dial, server, caplog):
        caplog.set_level(logging.INFO, "safedial")
        dial(*server.getsockname())
        assert caplog.records == []

    def test_each_attempt_at_debug(self, dial, server, dead_port, caplog):
        caplog.set_level(logging.DEBUG, "safedial")
        dial(*server.getsockname())
        with pytest.raises(ConnectionRefusedError):
            dial("127.0.0.1", dead_port)
        own = [record for record in caplog.records if record.name == "safedial"]
        assert [record.levelname for record in own] == ["DEBUG", "DEBUG"]
        assert f"127.0.0.1 port {dead_port}" in own[1].getMessage()
        assert "[Errno 111]" in own[1].getMessage()

    def test_self_connect_is_a_warning(self, dial, force, dead_port, caplog):
        force(dead_port, times=1)
        with pytest.raises(ConnectionRefusedError):
            dial("127.0.0.1", dead_port)
        (record,) = [record for record in caplog.records if record.name == "safedial"]
        assert record.levelname == "WARNING"
        assert "self-connect" in record.getMessage()
        assert str(dead_port) in record.getMessage()

    def test_each_wait_at_debug(self, dial, dead_port, caplog):
        caplog.set_level(logging.DEBUG, "safedial")
        policy = safedial.reconnect(30, 0.001, 0.001).copy(stop=lambda state: state.attempt_number == 2)
        with pytest.raises(ConnectionRefusedError):
            dial("127.0.0.1", dead_port, policy=policy)
        said = [record.getMessage() for record in caplog.records if record.name == "safedial"]
        assert len(said) == 3
        assert re.fullmatch(rf"127.0.0.1 port {dead_port}: round 1 failed, next round in 0\.00\d s", said[1])

    @pytest.mark.parametrize("name", ["safe_connect", "Dialer.dial_async"])
    def test_who_lost_the_race_is_told_at_debug(self, name, caplog):
        caplog.set_level(logging.DEBUG, "safedial")
        with faults.black_hole_and_server() as both:
            answers = [faults.tcp(*server.getsockname()[:2]) for server in both]
            dials.DIALS[name]("db", 1, resolver=lambda *args, **hints: answers, happy_eyeballs_delay=0.01)
        lost, connected = [record.getMessage() for record in caplog.records if record.name == "safedial"]
        assert re.search(r"at ::1 port \d+: still connecting when another address answered", lost)
        assert re.search(r"at 127.0.0.1 port \d+: connected", connected)

    def test_name_and_address_are_both_told(self, monkeypatch, server, caplog):
        caplog.set_level(logging.DEBUG, "safedial")
        port = server.getsockname()[1]
        monkeypatch.setattr(socket, "getaddrinfo", named("127.0.0.1", "127.0.0.1", port))
        dials.DIALS["safe_connect"]("db", port)
        assert f"db port {port} at 127.0.0.1 port {port}: connected in round 1" in caplog.text

    def test_recovery_is_an_info(self, dial, dead_port, caplog):
        caplog.set_level(logging.INFO, "safedial")
        servers = []

        def come_back(event):
            if event.kind == "retry" and not servers:
                servers.append(socket.create_server(("127.0.0.1", dead_port)))

        dial("127.0.0.1", dead_port, policy=safedial.reconnect(30, 0.001), on_event=come_back)
        servers[0].close()
        (record,) = [record for record in caplog.records if record.name == "safedial"]
        assert record.levelname == "INFO"
        assert "connected in round 2" in record.getMessage()


def test_bytes_hosts_can_be_logged(server):
    code = "import logging, safedial; logging.basicConfig(level=10); "
    code += f"safedial.safe_connect((b'127.0.0.1', {server.getsockname()[1]})).close()"
    done = subprocess.run([sys.executable, "-bb", "-c", code], capture_output=True, text=True, check=True)
    assert "127.0.0.1 port" in done.stderr
