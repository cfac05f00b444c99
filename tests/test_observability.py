"""The code of docs/observability.md runs, and does what the text beside it says."""

import asyncio
import ftplib
import io
import json
import logging
import re
import socket
from pathlib import Path

import pytest

import safedial
from safedial import testing
from safedial.adapters import http as http_adapter
from safedial.adapters import socket as socket_adapter
from tests.support import namespace
from tests.support.policies import retrying

HOST = "127.0.0.1"
PAGE = (Path(__file__).parents[1] / "docs" / "observability.md").read_text()


def blocks(language, text=PAGE):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def section(heading):
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def code(heading):
    """Run the code under *heading*, and return its names."""
    (text,) = blocks("python", section(heading))
    names = {}
    exec(text, names)
    return names


def dial_through_an_outage(on_event, dials=5):
    """Dial a server that refuses *dials* times; then one that nobody starts."""
    with testing.Outage() as server:
        server.refuse_for(dials=dials)
        safedial.safe_connect(server.address, policy=retrying(), on_event=on_event).close()
    with testing.refused_port() as port, pytest.raises(ConnectionRefusedError):
        safedial.safe_connect((HOST, port), policy=retrying(2), on_event=on_event)


class TestPrometheus:
    def test_counts_events_and_times_attempts(self):
        counted, timed = namespace.call_outside(count)  # the registry belongs to the process
        assert counted == {
            ("connected", ""): 1,
            ("failed", "connection_refused"): 7,
            ("retry", "connection_refused"): 6,
            ("gave_up", "connection_refused"): 1,
        }
        assert timed == {"connected": 1, "failed": 7}

    def test_the_queries_ask_for_metrics_that_are_there(self):
        names = set(re.findall(r"safedial_\w+(?=\{)", PAGE))
        assert names == {"safedial_events_total"}
        kinds = set(re.findall(r'kind="(\w+)"', PAGE))
        assert kinds <= set(safedial.events.EventKind.__args__)


def count():
    import prometheus_client

    names = code("Prometheus")
    dial_through_an_outage(names["count"])
    assert names["dialer"].on_event is names["count"]
    counted, timed = {}, {}
    for family in prometheus_client.REGISTRY.collect():
        for sample in family.samples:
            if sample.name == "safedial_events_total":
                counted[sample.labels["kind"], sample.labels["error_type"]] = sample.value
            elif sample.name == "safedial_attempt_seconds_count":
                timed[sample.labels["kind"]] = sample.value
    return counted, timed


class TestOpenTelemetry:
    @pytest.mark.parametrize("dial", ["blocking", "asyncio"])
    def test_attempts_are_spans_within_the_programs_own(self, dial):
        spans, port = namespace.call_outside(trace, dial)  # the tracer provider belongs to the process
        *attempts, (name, events, *_) = spans
        assert name == "request"
        assert events == ["safedial.retry", "safedial.retry"]
        assert [each[0] for each in attempts] == ["dial failed", "dial failed", "dial connected"]
        for _, _, attributes, inside, seconds, failed in attempts:
            assert attributes["server.address"] == HOST
            assert attributes["server.port"] == port
            assert attributes.get("error.type") == ("connection_refused" if failed else None)
            assert inside
            assert seconds > 0
        assert [each[-1] for each in attempts] == [True, True, False]


def trace(dial):
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    dialer = code("OpenTelemetry")["dialer"]
    with testing.Outage() as server:
        server.refuse_for(dials=2)
        with trace.get_tracer("program").start_as_current_span("request"):
            if dial == "blocking":
                dialer.dial(server.address).close()
            else:
                asyncio.run(dialer.dial_async(server.address)).close()
    spans = exporter.get_finished_spans()
    outer = spans[-1].context.span_id
    return [
        (
            span.name,
            [event.name for event in span.events],
            dict(span.attributes),
            span.parent is not None and span.parent.span_id == outer,
            span.end_time - span.start_time,
            not span.status.is_unset,
        )
        for span in spans
    ], server.port


def log_of_an_outage():
    """Return the lines of the JSON log, and the messages of a plain one."""
    names = code("What the log shows at three in the morning")
    lines, plain = io.StringIO(), io.StringIO()
    names["handler"].setStream(lines)
    handler = logging.StreamHandler(plain)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.getLogger("safedial").addHandler(handler)
    dial_through_an_outage(None)
    return [json.loads(line) for line in lines.getvalue().splitlines()], plain.getvalue().splitlines()


def shape(line):
    numbers = re.sub(r"\d+(\.\d+)? s\b|port \d+|round \d+", "N", line)
    # A numeric host is not said twice.
    return re.sub(r"db\.internal|10\.0\.0\.7|127\.0\.0\.1", "HOST", numbers).replace("HOST N at HOST N", "HOST N")


class TestLog:
    def test_lines_are_as_shown(self):
        _, messages = namespace.call_outside(log_of_an_outage)
        rounds = [re.search(r"round (\d+)", line)[1] for line in messages]
        assert rounds == ["1", "2", "4", "6", "1", "2"]
        shown = "".join(blocks("text")).splitlines()
        assert [shape(line) for line in [*messages[:4], messages[-1]]] == [shape(line) for line in shown]

    def test_json_has_the_fields(self):
        lines, messages = namespace.call_outside(log_of_an_outage)
        assert [f"{line['level']} {line['message']}" for line in lines] == messages
        first, recovery = lines[0], lines[3]
        assert (first["host"], first["round"], first["error_type"]) == (HOST, 1, "connection_refused")
        assert first["wait"] == 0
        assert "%s" in first["template"]
        assert HOST not in first["template"]
        assert "error_type" not in recovery
        assert recovery["elapsed"] > 0


class TestHook:
    """The table of ways to give it; tests/adapters/test_events.py has the adapters."""

    def test_under_the_guard(self, refused_port, events):
        with safedial.guard(on_event=events.append):
            with pytest.raises(ConnectionRefusedError):
                http_adapter.SafeFTP().connect(HOST, refused_port)
            with pytest.raises(ConnectionRefusedError):
                ftplib.FTP().connect(HOST, refused_port)
            with socket_adapter.socket() as sock, pytest.raises(ConnectionRefusedError):
                sock.connect((HOST, refused_port))
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((HOST, refused_port))
        assert [event.kind for event in events] == ["failed"] * 4

    def test_that_raises_is_logged_once_and_the_dial_goes_on(self, server, caplog):
        def broken(event):
            raise LookupError(event.kind)

        for _ in range(2):
            safedial.safe_connect(server.getsockname(), on_event=broken).close()
        assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]

    def test_page_names_every_adapter(self):
        from tests.adapters.test_adapters import ADAPTERS

        assert [name for name in ADAPTERS if not re.search(rf"\b{name}\b", section("The hook"))] == []
