"""Handlers of the log and hooks that dial themselves: a record must not cause the next one, for ever."""

import asyncio
import contextlib
import http.server
import logging
import logging.handlers
import socketserver
import threading

import pytest

import safedial
from safedial import events as safedial_events
from tests.support import faults


class SafeSocketHandler(logging.handlers.SocketHandler):
    """A handler that dials for each record."""

    options = {}  # noqa: RUF012  # never changed

    def makeSocket(self, timeout=1.0):  # noqa: N802  # the stdlib's name
        return safedial.safe_connect((self.host, self.port), timeout=timeout, **self.options)

    def emit(self, record):
        super().emit(record)
        self.close()


class Requests(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.received.append(self.path)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def collector():
    """A server that answers HTTP requests, and lists them as ``received``."""
    with socketserver.TCPServer(("127.0.0.1", 0), Requests) as server:
        server.received = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def accepted(listening):
    """Return how many connections wait in the backlog of *listening*."""
    listening.setblocking(False)
    for count in range(1000):
        try:
            listening.accept()[0].close()
        except BlockingIOError:
            return count
    raise AssertionError("a thousand connections")


@contextlib.contextmanager
def added(handler):
    """Add *handler* to the root logger, with safedial's log at DEBUG."""
    root, ours = logging.getLogger(), logging.getLogger("safedial")
    level = ours.level
    root.addHandler(handler)
    ours.setLevel(logging.DEBUG)
    try:
        yield handler
    finally:
        ours.setLevel(level)
        root.removeHandler(handler)
        handler.close()


def test_socket_handler_dials_once_for_each_record(dial, server):
    with faults.listener() as other, added(SafeSocketHandler(*server.getsockname())):
        dial(*other.getsockname())
        dial(*other.getsockname())
    assert accepted(server) == 2


def test_socket_handler_of_a_dead_collector_ends(dial, server, dead_port, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with added(SafeSocketHandler("127.0.0.1", dead_port)):
        dial(*server.getsockname())


def test_http_handler_under_the_guard(server, collector):
    host, port = collector.server_address
    handler = logging.handlers.HTTPHandler(f"{host}:{port}", "/log")
    with safedial.guard(), added(handler):
        safedial.safe_connect(server.getsockname()).close()
    assert len(collector.received) == 1


class HoldingHandler(logging.Handler):
    """A handler that holds a port for each record, as `install` does if a database's driver in C writes the log."""

    records = 0

    def emit(self, record):
        self.records += 1
        with safedial.hold(("192.0.2.1", 5432)):  # a line at DEBUG: that is another host
            pass


def test_handler_that_holds_a_port():
    with added(HoldingHandler()) as handler:
        with safedial.hold(("192.0.2.1", 5432)):
            pass
        assert handler.records == 1


@pytest.mark.parametrize("guarded", [False, True])
def test_record_of_the_program_is_one_request(collector, monkeypatch, guarded):
    """The collector serves one connection at a time: a second one, of a record of ours, would wait for ever."""
    host, port = collector.server_address
    monkeypatch.setattr("socket.create_connection", safedial.safe_connect)
    handler = logging.handlers.HTTPHandler(f"{host}:{port}", "/log")
    with safedial.guard() if guarded else contextlib.nullcontext(), added(handler):
        logging.getLogger("program").warning("one")
    assert len(collector.received) == 1


def test_hook_that_dials_is_told_once(dial, server, events):
    dialer = safedial.Dialer(on_event=lambda event: (events.append(event), dialer.dial(server.getsockname()).close()))
    dialer.dial(server.getsockname()).close()
    assert [event.kind for event in events] == ["connected"]


def test_hook_that_logs_to_a_handler_that_dials(server, events):
    def hook(event):
        events.append(event)
        logging.getLogger("program").warning("told")

    class Handler(SafeSocketHandler):
        options = {"on_event": hook}  # noqa: RUF012  # set once

    with added(Handler(*server.getsockname())):
        safedial.safe_connect(server.getsockname(), on_event=hook).close()
    assert 1 <= len(events) <= 3  # one for the dial, and one for each record's


def test_task_that_a_handler_starts_logs(server, caplog):
    caplog.set_level(logging.DEBUG, "safedial")
    tasks = []

    class Starting(logging.Handler):
        def emit(self, record):
            if not tasks:
                tasks.append(asyncio.get_running_loop().create_task(one_more()))

    async def one_more():
        _, writer = await safedial.open_connection(*server.getsockname())
        writer.close()

    async def main():
        with added(Starting()):
            _, writer = await safedial.open_connection(*server.getsockname())
            writer.close()
            await asyncio.gather(*tasks)

    asyncio.run(main())
    assert sum("connected" in record.message for record in caplog.records) == 2


def test_error_of_a_handler_ends_the_silence(server, caplog):
    class Failing(logging.Handler):
        def handle(self, record):
            raise ZeroDivisionError

    with added(Failing()), pytest.raises(ZeroDivisionError):
        safedial_events.warn("%s", "first")
    safedial_events.warn("%s", "second")
    assert "second" in caplog.text


def test_other_threads_log_meanwhile(server, caplog):
    caplog.set_level(logging.WARNING, "safedial")

    class NoLock(contextlib.nullcontext):
        def acquire(self):
            pass

        release = acquire

    class Waiting(logging.Handler):
        def createLock(self):  # noqa: N802  # the stdlib's name
            self.lock = NoLock()

        def emit(self, record):
            if record.args == ("first",):
                other = threading.Thread(target=safedial_events.warn, args=("%s", "other"))
                other.start()
                other.join()

    with added(Waiting()):
        safedial_events.warn("%s", "first")
    assert "other" in caplog.text
