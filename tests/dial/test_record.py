"""The notes on the error of a dial."""

import asyncio
import re
import socket

import pytest

import safedial
from safedial._dial.record import Record
from tests.support import dials
from tests.support.policies import retrying
from tests.support.resolvers import hosts


@pytest.mark.parametrize("name", [name for name in dials.DIALS if "uvloop" not in name])  # resolves in C
def test_notes_name_each_address_and_its_error(name, monkeypatch, dead_port):
    monkeypatch.setattr(socket, "getaddrinfo", hosts("::1", "127.0.0.1", port=dead_port))
    with pytest.raises(OSError, match=r"refused|failed|Multiple") as caught:
        dials.DIALS[name]("db", dead_port, policy=retrying(3))
    head, *rest = caught.value.__notes__
    assert re.fullmatch(rf"safedial: gave up dialing db port {dead_port} after 3 rounds, \d+\.\d+ s", head)
    assert rest
    assert all(re.match(r"safedial: (::1|127\.0\.0\.1) port \d+, rounds 1 to 3: \[Errno 111\]", note) for note in rest)


def test_errors_that_differ_in_figures_share_a_note():
    record = Record("db", 5432, None)
    for in_use in range(1000):
        usage = safedial.PortUsage(32768, 60999, in_use, 0)
        record.failed(("192.0.2.1", 5432), safedial.PortsExhaustedError.at("192.0.2.1", 5432, usage))
    error = record.outcome(OSError("last"), all_errors=False)
    assert len(error.__notes__) == 2
    assert error.__notes__[1].endswith("reserved or bound)"), "the message has the figures"


def test_only_the_newest_addresses_are_noted():
    record = Record("db", 5432, None)
    for number in range(1200):
        record.failed((f"192.0.{number // 200}.{number % 200}", 5432), ConnectionRefusedError(111, "refused"))
    _, *rest = record.outcome(OSError("last"), all_errors=False).__notes__
    assert len(rest) == 1000
    assert "192.0.1.0 " in rest[0]
    assert "192.0.5.199 " in rest[-1]


def test_note_names_the_unknown_host(server):
    host, port = server.getsockname()
    with pytest.raises(socket.gaierror) as caught:
        dials.run(safedial.open_connection(host, port, local_addr=("no.such.host.invalid", 0)))
    assert "resolving no.such.host.invalid" in caught.value.__notes__[1]


def test_many_equal_rounds_share_a_note(dead_port):
    with pytest.raises(ConnectionRefusedError) as caught:
        safedial.safe_connect(("127.0.0.1", dead_port), policy=retrying(500))
    assert len(caught.value.__notes__) == 2
    assert "rounds 1 to 500" in caught.value.__notes__[1]


def test_failure_is_reported_before_a_cancellation(dead_port):
    events = []

    async def main():
        def report(event):
            events.append(event.kind)
            task.cancel()

        task = asyncio.ensure_future(safedial.open_connection("127.0.0.1", dead_port, on_event=report))
        with pytest.raises(asyncio.CancelledError):
            await task

    dials.run(main())
    assert events == ["failed"]


def test_no_time_is_no_failed_attempt(dial, dead_port):
    events = []
    with pytest.raises(TimeoutError) as caught:
        dial("127.0.0.1", dead_port, total_timeout=0, on_event=events.append)
    assert [(event.kind, event.reason) for event in events] == [("gave_up", "time")]
    assert len(caught.value.__notes__) == 1
