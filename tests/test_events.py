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
from tests.support.policies import retrying
from tests.support.resolvers import hosts


def kinds(events):
    return [event.kind for event in events]


def test_success_is_one_event(dial, server, events):
    host, port = server.getsockname()
    dial(host, port, on_event=events.append)
    (event,) = events
    assert (event.kind, event.host, event.port, event.round) == ("connected", host, port, 1)
    assert event.address == (host, port)
    assert (event.error, event.wait) == (None, None)
    assert event.elapsed >= 0


def test_each_failure_and_each_wait_is_an_event(dial, dead_port, events):
    policy = retrying(3, 0.001)
    with pytest.raises(ConnectionRefusedError) as caught:
        dial("127.0.0.1", dead_port, policy=policy, on_event=events.append)
    assert kinds(events) == ["failed", "retry", "failed", "retry", "failed"]
    assert [event.round for event in events] == [1, 1, 2, 2, 3]
    assert [event.wait is not None for event in events] == [False, True] * 2 + [False]
    assert all(isinstance(event.error, ConnectionRefusedError) for event in events)
    assert events[-1].error is caught.value
    assert [event.elapsed for event in events] == sorted(event.elapsed for event in events)


def test_resolver_failure_is_an_event(dial, events):
    with pytest.raises(socket.gaierror):
        dial("no.such.host.invalid", 80, on_event=events.append)
    assert kinds(events) == ["failed"]
    assert events[0].address is None


def test_event_is_frozen_and_survives_pickling():
    event = safedial.DialEvent("retry", "db", 5432, None, 2, 1.5, OSError(111, "refused"), 0.5)
    with pytest.raises(AttributeError):
        event.kind = "connected"
    assert pickle.loads(pickle.dumps(event)).wait == 0.5


class TestLog:
    def test_success_in_the_first_round_is_not_at_info(self, dial, server, caplog):
        caplog.set_level(logging.INFO, "safedial")
        dial(*server.getsockname())
        assert caplog.records == []

    def test_each_attempt_is_at_debug(self, dial, server, dead_port, caplog):
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

    def test_each_wait_is_at_debug(self, dial, dead_port, caplog):
        caplog.set_level(logging.DEBUG, "safedial")
        policy = retrying(2, 0.001)
        with pytest.raises(ConnectionRefusedError):
            dial("127.0.0.1", dead_port, policy=policy)
        messages = [record.getMessage() for record in caplog.records if record.name == "safedial"]
        assert len(messages) == 3
        assert re.fullmatch(rf"127.0.0.1 port {dead_port}: round 1 failed, next round in 0\.00\d s", messages[1])

    @pytest.mark.parametrize("name", ["safe_connect", "Dialer.dial_async"])
    def test_loser_of_a_race_is_at_debug(self, name, caplog):
        caplog.set_level(logging.DEBUG, "safedial")
        with faults.black_hole_and_server() as both:
            answers = [faults.tcp(*server.getsockname()[:2]) for server in both]
            dials.DIALS[name]("db", 1, resolver=lambda *args, **hints: answers, happy_eyeballs_delay=0.01)
        lost, connected = [record.getMessage() for record in caplog.records if record.name == "safedial"]
        assert re.search(r"at ::1 port \d+: still connecting when another address answered", lost)
        assert re.search(r"at 127.0.0.1 port \d+: connected", connected)

    def test_message_has_name_and_address(self, monkeypatch, server, caplog):
        caplog.set_level(logging.DEBUG, "safedial")
        port = server.getsockname()[1]
        monkeypatch.setattr(socket, "getaddrinfo", hosts("127.0.0.1", "127.0.0.1", port=port))
        dials.DIALS["safe_connect"]("db", port)
        assert f"db port {port} at 127.0.0.1 port {port}: connected in round 1" in caplog.text

    def test_recovery_is_at_info(self, dial, dead_port, caplog, start_server):
        caplog.set_level(logging.INFO, "safedial")
        hook = start_server(dead_port, "retry")
        dial("127.0.0.1", dead_port, policy=safedial.reconnect(30, 0.001), on_event=hook)
        (record,) = [record for record in caplog.records if record.name == "safedial"]
        assert record.levelname == "INFO"
        assert "connected in round 2" in record.getMessage()


def test_bytes_hosts_can_be_logged(server):
    code = "import logging, safedial; logging.basicConfig(level=10); "
    code += f"safedial.safe_connect((b'127.0.0.1', {server.getsockname()[1]})).close()"
    done = subprocess.run([sys.executable, "-bb", "-c", code], capture_output=True, text=True, check=True)
    assert "127.0.0.1 port" in done.stderr
