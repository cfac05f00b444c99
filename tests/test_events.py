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
    assert kinds(events) == ["failed", "retry", "failed", "retry", "failed", "gave_up"]
    assert [event.round for event in events] == [1, 1, 2, 2, 3, 3]
    assert [event.wait is not None for event in events] == [False, True] * 2 + [False, False]
    assert [event.duration is not None for event in events] == [True, False] * 3
    assert {event.error_type for event in events} == {"connection_refused"}
    assert [event.reason for event in events] == [None] * 5 + ["policy"]
    assert all(isinstance(event.error, ConnectionRefusedError) for event in events)
    assert events[-1].error is caught.value
    assert [event.elapsed for event in events] == sorted(event.elapsed for event in events)


def test_resolver_failure_is_an_event(dial, events):
    with pytest.raises(socket.gaierror):
        dial("no.such.host.invalid", 80, on_event=events.append)
    assert kinds(events) == ["failed", "gave_up"]
    assert events[0].address is None
    assert events[0].error_type == "name_resolution_error"
    assert events[0].duration >= 0


def test_resolution_is_an_event(dial, server, events):
    port = server.getsockname()[1]
    dial("localhost", port, family=socket.AF_INET, on_event=events.append)
    assert kinds(events) == ["resolved", "connected"]
    assert all(0 <= event.duration <= event.elapsed for event in events)


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

    def test_rounds_1_2_4_8_and_giving_up_are_at_info(self, dial, dead_port, caplog):
        caplog.set_level(logging.DEBUG, "safedial")
        with pytest.raises(ConnectionRefusedError):
            dial("127.0.0.1", dead_port, policy=retrying(10, 0.001))
        own = [record for record in caplog.records if record.name == "safedial"]
        retries = [record for record in own if "next round" in record.msg]
        assert [record.round for record in retries] == list(range(1, 10))
        assert [record.round for record in retries if record.levelname == "INFO"] == [1, 2, 4, 8]
        pattern = rf"127.0.0.1 port {dead_port}: round 1 failed: \[Errno 111\] Conn.*; next round in 0\.00\d s, "
        pattern += r"0\.\d s so far"
        assert re.match(pattern, retries[0].getMessage())
        assert own[-1].levelname == "INFO"
        pattern = rf"127.0.0.1 port {dead_port}: gave up after round 10, \d\.\d+ s: .*the policy allows no other round"
        assert re.match(pattern, own[-1].getMessage())

    def test_records_have_fields_and_one_template_for_each_kind(self, dial, dead_port, refused_port, caplog):
        caplog.set_level(logging.DEBUG, "safedial")
        for port in (dead_port, refused_port):
            with pytest.raises(ConnectionRefusedError):
                dial("127.0.0.1", port, policy=retrying(3, 0.001))
        own = [record for record in caplog.records if record.name == "safedial"]
        assert {record.port for record in own} == {dead_port, refused_port}
        assert len({record.msg for record in own}) == 3
        for record in own:
            assert (record.host, record.error_type) == ("127.0.0.1", "connection_refused")
            assert record.elapsed >= 0
            assert (record.wait is not None) == ("next round" in record.msg)

    def test_unrecognised_error_says_how_to_add_it(self, caplog):
        caplog.set_level(logging.INFO, "safedial")

        def connect(host, port):
            raise RuntimeError("the server is on fire")

        with pytest.raises(RuntimeError):
            safedial.wrap(connect, policy=safedial.reconnect())("db", 5432)
        (record,) = [record for record in caplog.records if record.name == "safedial"]
        assert record.levelname == "INFO"
        assert "db port 5432: gave up after round 1" in record.getMessage()
        assert "the server is on fire" in record.getMessage()
        assert "safedial.reconnect(also=(RuntimeError,))" in record.getMessage()

    def test_fields_that_a_programs_own_records_have_are_left_out(self, dial, dead_port, caplog):
        caplog.set_level(logging.DEBUG, "safedial")
        factory = logging.getLogRecordFactory()

        def with_host(*args, **kwds):
            record = factory(*args, **kwds)
            record.host = "this machine"
            return record

        logging.setLogRecordFactory(with_host)
        try:
            with pytest.raises(ConnectionRefusedError):
                dial("127.0.0.1", dead_port, policy=retrying(2, 0.001))
        finally:
            logging.setLogRecordFactory(factory)
        assert "gave up after round 2" in caplog.text

    def test_host_can_not_forge_a_line(self, dial, caplog):
        caplog.set_level(logging.INFO, "safedial")
        with pytest.raises(OSError, match=r".") as caught:
            dial("x.invalid\n2026 CRITICAL forged", 80, policy=retrying(1))
        assert "\n" not in caplog.records[-1].getMessage()
        assert not any("\n" in note for note in caught.value.__notes__)

    @pytest.mark.parametrize("error", [ValueError, TypeError, KeyError])
    def test_errors_about_arguments_are_named_without_their_text(self, error, caplog):
        caplog.set_level(logging.DEBUG, "safedial")

        def connect(url):
            raise error(f"bad URL: {url}")

        with pytest.raises(error):
            safedial.wrap(connect, policy=safedial.reconnect())("redis://user:hunter2@db:6379")
        assert "hunter2" not in caplog.text
        assert re.search(rf"db port 6379: gave up after round 1, [\d.]+ s: {error.__name__} \(", caplog.text)

    @pytest.mark.parametrize("name", ["safe_connect", "Dialer.dial_async"])
    def test_loser_of_a_race_is_at_debug(self, name, caplog):
        caplog.set_level(logging.DEBUG, "safedial")
        with faults.black_hole_and_server() as both:
            answers = [faults.tcp(*server.getsockname()[:2]) for server in both]
            dials.DIALS[name]("db", 1, resolver=lambda *args, **hints: answers, happy_eyeballs_delay=0.01)
        _, lost, connected = [record.getMessage() for record in caplog.records if record.name == "safedial"]
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
        retry, recovery = [record for record in caplog.records if record.name == "safedial"]
        assert {retry.levelname, recovery.levelname} == {"INFO"}
        assert "round 1 failed" in retry.getMessage()
        assert "connected in round 2" in recovery.getMessage()


def test_bytes_hosts_can_be_logged(server):
    code = "import logging, safedial; logging.basicConfig(level=10); "
    code += f"safedial.safe_connect((b'127.0.0.1', {server.getsockname()[1]})).close()"
    done = subprocess.run([sys.executable, "-bb", "-c", code], capture_output=True, text=True, check=True)
    assert "127.0.0.1 port" in done.stderr
