"""assert_resilient: what it finds in clients, and what it reports."""

import contextlib
import errno
import socket
import threading
import time

import pytest
import tenacity

import safedial
from safedial import safe_connect, testing
from safedial.testing import run


def refuse(host, port):
    raise ConnectionRefusedError(errno.ECONNREFUSED, "without a dial")


def guarded(host, port):
    return safe_connect((host, port), 1)


class TestAssertResilient:
    def test_safe_connect_is_resilient(self, mechanism):
        policy = safedial.reconnect(3600, 0.01, 0.02).copy(stop=tenacity.stop_after_attempt(4))
        findings = testing.assert_resilient(
            lambda host, port: safedial.safe_connect((host, port), 0.1, policy=policy), within=60
        )
        assert [finding.fault for finding in findings] == list(testing.FAULTS)
        assert {finding.fault: finding.happened.partition(":")[0] for finding in findings} == {
            "self_connect": "SelfConnectError",
            "refused_port": "ConnectionRefusedError",
            "address_not_available": "returned",
            "ports_exhausted": "PortsExhaustedError",
            "outage": "returned",
            "hangs_up": "returned",
            "frozen": "TimeoutError",
            "name_failure": "returned",
        }

    @pytest.mark.parametrize("name", ["open_connection", "dial_async"])
    def test_async_dials_are_resilient(self, name):
        async def connect(host, port):
            if name == "dial_async":
                return await safedial.Dialer(timeout=0.3, policy=None).dial_async((host, port))
            return await safedial.open_connection(host, port, timeout=0.3, policy=None)

        testing.assert_resilient(connect)

    def test_create_connection_is_not_resilient(self, outage_at_no_risk):
        with pytest.raises(AssertionError) as caught:
            testing.assert_resilient(lambda host, port: socket.create_connection((host, port), 0.3), within=2)
        table = str(caught.value)
        lines = table.splitlines()
        assert lines[0] == "the client is not resilient"
        assert lines[1].split()[:3] == ["self_connect", "FAILED", "returned"]
        assert "the client was connected to itself" in table
        assert "the server could not bind" in table
        assert table.count("FAILED") == 1
        assert table.count(" ok ") == 7

    @pytest.mark.parametrize(
        ("connect", "fault", "words"),
        [
            (lambda host, port: time.sleep(3600), "frozen", "the client hung: no end within 0.2 s"),
            (lambda host, port: None, "refused_port", "the client returned, although nobody listens"),
            (lambda host, port: None, "frozen", "the client returned, although nothing answers"),
            (lambda host, port: {}["x"], "refused_port", "the error does not say ECONNREFUSED"),
            (lambda host, port: {}["x"], "frozen", "the error is not a timeout"),
            (
                lambda host, port: None,
                "outage",
                "it did not dial, or dials in C: no Python connect\\(\\) was seen",
            ),
            (refuse, "self_connect", "the fault was not triggered"),
            (refuse, "address_not_available", "the fault was not triggered"),
            (refuse, "ports_exhausted", "the fault was not triggered"),
        ],
    )
    def test_problems_that_it_finds(self, connect, fault, words, monkeypatch):
        if "hung" in words:
            over = threading.Event()
            connect = lambda host, port: over.wait(3600)  # noqa: E731
            monkeypatch.setattr(run, "_GRACE", 0)
        with pytest.raises(AssertionError, match=words):
            testing.assert_resilient(connect, faults=[fault], within=0.2 if "hung" in words else 5)
        if "hung" in words:
            over.set()

    def test_sockets_of_other_threads_are_no_leaks(self, server):
        kept = []

        def connect(host, port):
            kept.append(socket.create_connection(server.getsockname()))
            return safedial.safe_connect((host, port), policy=None)

        testing.assert_resilient(connect, faults=["refused_port"], within=5)
        for sock in kept:
            sock.close()

    def test_a_leak_is_found(self):
        kept = []

        def connect(host, port):
            kept.append(socket.socket())
            kept[-1].connect((host, port))

        with pytest.raises(AssertionError, match="sockets left open: 1"):
            testing.assert_resilient(connect, faults=["refused_port"], within=5)
        kept[-1].close()

    def test_a_client_that_hangs_is_ended(self, dead_port):
        """PyMySQL and smtplib wait for a greeting that never comes."""

        def connect(host, port):
            with socket.create_connection((host, port)) as sock:
                sock.recv(1)

        with pytest.raises(AssertionError, match="the client hung"):
            testing.assert_resilient(connect, faults=["self_connect"], within=0.2)

    @pytest.mark.parametrize("faults", ["self_connect", ["nonsense"]])
    def test_bad_faults(self, faults):
        with pytest.raises(ValueError, match="faults must be some of self_connect"):
            testing.assert_resilient(print, faults=faults)

    @pytest.mark.parametrize(("within", "error"), [(0, ValueError), (-1, ValueError), ("1", TypeError)])
    def test_bad_limits(self, within, error):
        with pytest.raises(error, match="within"):
            testing.assert_resilient(print, within=within)

    def test_connect_must_be_callable(self):
        with pytest.raises(TypeError, match="connect must be callable"):
            testing.assert_resilient("redis://")


class TestTable:
    def table(self, connect, **options):
        with pytest.raises(AssertionError) as caught:
            testing.assert_resilient(connect, **options)
        lines = str(caught.value).splitlines()
        assert max(map(len, lines)) <= 68, "pytest puts 12 columns before them"
        return lines

    def test_long_words_are_wrapped_and_cut(self):
        def connect(host, port):
            raise LookupError("words " * 200)

        lines = self.table(connect, faults=["refused_port"])
        assert lines[1] == "  refused_port  FAILED  LookupError: words words words words words"
        assert lines[2] == "                        words words words words words words words"
        assert lines[5].endswith("words ...")
        assert lines[6:] == [
            "    - the error does not say ECONNREFUSED",
            "    - it did not dial, or dials in C: no Python connect() was seen",
        ]

    def test_of_an_error_that_is_right_the_class_is_enough(self):
        kept = []

        def connect(host, port):
            kept.append(guarded(host, port))

        lines = self.table(connect, faults=["refused_port", "address_not_available"])
        kept.pop().close()
        assert lines == [
            "the client is not resilient",
            "  refused_port           ok      ConnectionRefusedError",
            "  address_not_available  FAILED  returned",
            "    - sockets left open: 1",
        ]


class TestFindings:
    def test_name_the_means(self, means, monkeypatch):
        if means == "bind":
            monkeypatch.setattr("safedial.testing.faults._narrow", lambda *args: None)
        (found,) = testing.assert_resilient(guarded, faults=["self_connect"])
        assert found.means == {"bind": "bind", "option": "IP_LOCAL_PORT_RANGE"}[means]

    def test_name_the_process_that_holds_the_port(self):
        kept = []

        def connect(host, port):
            kept.append(socket.create_connection((host, port), 1))
            return

        try:
            with pytest.raises(AssertionError, match=r"ESTABLISHED\s+to\s+itself,\s+of\s+process\s+\d+"):
                testing.assert_resilient(connect, faults=["self_connect"], within=0.3)
        finally:
            kept.pop().close()

    def test_at_least_one_fault_is_needed(self):
        with pytest.raises(ValueError, match="faults must be some of"):
            testing.assert_resilient(guarded, faults=[])


class FrozenError(Exception):
    """Like a frozen dataclass: none of its attributes can be set."""

    def __setattr__(self, name, value):
        raise AttributeError(f"cannot assign to field {name!r}")

    def __str__(self):
        raise LookupError("no words")


class NoGroupError(Exception):
    exceptions = None


@pytest.mark.parametrize("kind", [FrozenError, NoGroupError])
def test_strange_errors_are_errors(kind):
    def connect(host, port):
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), 1).close()
        raise kind

    with pytest.raises(AssertionError, match=f"FAILED  {kind.__name__}"):
        testing.assert_resilient(connect, faults=["outage"], within=2)
    with testing.Outage() as server:
        assert isinstance(run.run_client(connect, server.host, server.port, 5).error, kind)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"faults": 5}, TypeError, "faults"),
        ({"faults": [[]]}, ValueError, "faults"),
        ({"host": 5}, TypeError, "host"),
        ({"host": "localhost"}, ValueError, "host"),
        ({"server": 5, "faults": ["refused_port"]}, TypeError, "server"),
    ],
)
def test_bad_arguments(arguments, error, named):
    with pytest.raises(error, match=named):
        testing.assert_resilient(guarded, **arguments)
