"""assert_resilient: what it finds in clients, and what it reports."""

import concurrent.futures
import contextlib
import errno
import inspect
import os
import socket
import threading
import time

import freezegun
import pytest
import tenacity
import trio

import safedial
from safedial import safe_connect, testing
from safedial.testing import run


def refuse(host, port):
    raise ConnectionRefusedError(errno.ECONNREFUSED, "without a dial")


def guarded(host, port):
    return safe_connect((host, port), 1)


def returns_anyway(host, port):
    guarded_or_nothing(host, port)


def from_a_port_it_chose(host, port):
    with socket.socket() as sock:
        sock.bind((host, 0))
        sock.connect((host, port))


def guarded_briefly(host, port):
    return safe_connect((host, port), 0.1, policy=None)


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
            (returns_anyway, "refused_port", "the client returned, although nobody listens"),
            (returns_anyway, "frozen", "the client returned, although nothing answers"),
            (from_a_port_it_chose, "self_connect", "not triggered: the client dials from a port it chose"),
        ],
    )
    def test_problems_that_it_finds(self, connect, fault, words, monkeypatch):
        if "hung" in words:
            over = threading.Event()
            connect = lambda host, port: over.wait(3600)  # noqa: E731
            monkeypatch.setattr(run, "_GRACE", 0)
        with pytest.raises(AssertionError) as caught:
            testing.assert_resilient(connect, faults=[fault], within=0.2 if "hung" in words else 5)
        assert words in " ".join(str(caught.value).split())
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

        with pytest.raises(AssertionError, match=r"the client hung: no end within [\d.]+ s\n"):
            testing.assert_resilient(connect, faults=["self_connect"], within=0.2)

    @pytest.mark.parametrize(
        ("faults", "error", "words"),
        [
            ("self_connect", TypeError, "must be a list of names, not 'self_connect': some of self_connect, refused"),
            (5, TypeError, "must be a list of names, not 5"),
            (["self_connect", "hanging_up"], ValueError, "there is no 'hanging_up', only self_connect, refused_port"),
            ([[]], ValueError, "there is no \\[\\]"),
            ([], ValueError, "faults is empty"),
        ],
    )
    def test_bad_faults(self, faults, error, words):
        with pytest.raises(error, match=words):
            testing.assert_resilient(print, faults=faults)

    @pytest.mark.parametrize(("within", "error"), [(0, ValueError), (-1, ValueError), ("1", TypeError)])
    def test_bad_limits(self, within, error):
        with pytest.raises(error, match="within"):
            testing.assert_resilient(print, within=within)

    def test_connect_must_be_callable(self):
        with pytest.raises(TypeError, match="connect must be callable"):
            testing.assert_resilient("redis://")


@pytest.mark.parametrize(
    ("error", "fault", "passes"),
    [
        (TimeoutError("late"), "refused_port", False),
        (TimeoutError("late"), "frozen", True),
        (RuntimeError(f"[Errno {errno.ECONNREFUSED}] in words alone"), "refused_port", True),
        (RuntimeError(f"[Errno {errno.EPERM}] in words alone"), "refused_port", False),
    ],
)
def test_error_must_say_what_the_fault_was(error, fault, passes):
    def connect(host, port):
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), 0.05)
        error.__context__ = None
        raise error

    if passes:
        testing.assert_resilient(connect, faults=[fault])
    else:
        with pytest.raises(AssertionError, match="does not say ECONNREFUSED"):
            testing.assert_resilient(connect, faults=[fault])


class TestTable:
    def table(self, connect, **options):
        with pytest.raises(AssertionError) as caught:
            testing.assert_resilient(connect, **options)
        lines = str(caught.value).splitlines()
        assert max(map(len, lines)) <= 68, "pytest puts 12 columns before them"
        return lines

    def test_long_words_are_wrapped_and_cut_in_the_middle(self):
        """The reason often comes last: requests' "(Caused by …)"."""

        def connect(host, port):
            with contextlib.suppress(OSError):
                guarded(host, port)
            raise LookupError("words " * 200 + "(Caused by the reason)")

        lines = self.table(connect, faults=["refused_port"])
        assert lines[1:4] == [
            "  refused_port  FAILED  LookupError: words words words words words",
            "                        words words words words words words words",
            "                        ...",
        ]
        assert " ".join(" ".join(lines[4:6]).split()).endswith("words words words (Caused by the reason)")
        assert lines[6].startswith("    - the error does not say ECONNREFUSED, raised")

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

    def test_what_could_change_the_terminal_is_escaped(self):
        def connect(host, port):
            with contextlib.suppress(OSError):
                guarded(host, port)
            raise LookupError("red \x1b[31m, \u202eright to left, \udc80\nand another line")

        table = "\n".join(self.table(connect, faults=["refused_port"]))
        assert "\\x1b[31m," in table
        assert "\\u202eright" in table
        assert "\\udc80 and" in table
        assert table.replace("\n", "").isprintable()

    def test_a_word_without_an_end_is_cut(self):
        def connect(host, port):
            with contextlib.suppress(OSError):
                guarded(host, port)
            raise LookupError("x" * 200_000)

        assert len(self.table(connect, faults=["refused_port"])) < 10


class TestMistakes:
    """Errors of the client's own code, which a table would hide."""

    def test_one_before_a_dial_is_raised(self):
        def connect(host, port):
            return safe_connect(({}["hots"], port))

        with pytest.raises(KeyError, match="hots") as caught:
            testing.assert_resilient(connect, faults=["outage"])
        assert caught.traceback[-1].name == "connect"
        (note,) = caught.value.__notes__
        assert note.startswith("safedial: raised in assert_resilient's scenario 'outage', before a dial was seen: ")

    def test_pytest_shows_the_line(self, run_alone):
        result = run_alone(
            """
            from safedial import testing

            def connect(host, port):
                return config["hots"]  # the line

            config = {}

            def test_it():
                testing.assert_resilient(connect)
            """
        )
        result.stdout.fnmatch_lines(["*config*# the line", "E * KeyError: 'hots'", "E * scenario 'self_connect'*"])
        result.stdout.no_fnmatch_line("*safedial/testing/*")

    def test_wrong_signature(self):
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            testing.assert_resilient(lambda host, port, db: None)

    def test_one_after_a_dial_has_its_place(self):
        line = inspect.getsourcelines(fails_later)[1] + 2
        with pytest.raises(AssertionError) as caught:
            testing.assert_resilient(fails_later, faults=["frozen"])
        place = f"{__file__.removeprefix(os.getcwd() + os.sep)}:{line}"
        assert f"the error is not a timeout, raised at {place}" in " ".join(str(caught.value).split())

    @pytest.mark.parametrize("connect", [lambda host, port: None, refuse], ids=["returns", "raises"])
    @pytest.mark.parametrize("fault", [name for name in testing.FAULTS if name != "name_failure"])
    def test_no_dial_seen_is_one_line(self, connect, fault):
        """As of a client that dials in C."""
        with pytest.raises(AssertionError) as caught:
            testing.assert_resilient(connect, faults=[fault])
        assert " ".join(str(caught.value).split()).split(" - ")[1:] == [
            "no Python connect() was seen: the client did not dial, or dials in C, which assert_resilient does not see"
        ]


def fails_later(host, port):
    guarded_or_nothing(host, port)
    int("no number")


def guarded_or_nothing(host, port):
    with contextlib.suppress(OSError):
        guarded_briefly(host, port).close()


@pytest.mark.storm
@pytest.mark.parametrize("kind", ["retrying", "hung"])
def test_frozen_clock_is_named(kind):
    """tenacity's stop_after_delay never comes, and more seconds would not help."""
    policy = tenacity.Retrying(stop=tenacity.stop_after_delay(0.1), wait=tenacity.wait_fixed(0.02))

    def connect(host, port):
        policy(socket.create_connection, (host, port)) if kind == "retrying" else threading.Event().wait(0.6)

    with freezegun.freeze_time("2026-01-01"), pytest.raises(AssertionError) as caught:
        testing.assert_resilient(connect, faults=["refused_port"], within=0.5)
    said = " ".join(str(caught.value).split())
    assert "no end within 0.5 s: the clock of the test is frozen, so that no time limit" in said
    assert "give the client fewer retries" not in said


def test_several_at_once():
    """They share what is replaced while clients run."""
    clients = [guarded_briefly, lambda host, port: socket.create_connection((host, port), 0.3)] * 3
    faults = ["self_connect", "address_not_available", "outage", "hangs_up", "name_failure"]

    def problems(connect):
        try:
            testing.assert_resilient(connect, faults=faults)
        except AssertionError as error:
            return str(error).count("FAILED"), "the client was connected to itself" in str(error)
        return 0, False

    with concurrent.futures.ThreadPoolExecutor(len(clients)) as pool:
        assert list(pool.map(problems, clients)) == [(0, False), (1, True)] * 3
    assert not hasattr(socket.socket._real_close, "_replacement")


def trio_timeout(host, port):
    async def main():
        with trio.fail_after(0.1):
            await trio.open_tcp_stream(host, port)

    trio.run(main)


def test_timeout_of_trio():
    testing.assert_resilient(trio_timeout, faults=["frozen"])


class DeliveryTimedOutError(Exception):
    pass


class LikeUrllib3sNewConnectionError(DeliveryTimedOutError):
    pass


def test_timeouts_are_known_by_their_own_names():
    def connect(host, port):
        guarded_or_nothing(host, port)
        raise kind

    kind = DeliveryTimedOutError
    testing.assert_resilient(connect, faults=["frozen"])
    kind = LikeUrllib3sNewConnectionError
    with pytest.raises(AssertionError, match="the error is not a timeout"):
        testing.assert_resilient(connect, faults=["frozen"])


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


class FrozenError(Exception):
    """Like a frozen dataclass: none of its attributes can be set."""

    def __setattr__(self, name, value):
        raise AttributeError(f"cannot assign to field {name!r}")

    def __str__(self):
        raise LookupError("no words")


class NoGroupError(Exception):
    exceptions = None


class NoAttributesError(Exception):
    def __getattr__(self, name):
        raise KeyError(name)


class NoErrnoError(Exception):
    @property
    def errno(self):
        raise LookupError("no errno")


class NoArgsError(Exception):
    args = None


class NoCauseError(Exception):
    @property
    def _fails(self):
        raise LookupError("no cause")

    args = __cause__ = __context__ = __traceback__ = _fails


class NoWordsError(Exception):
    def __str__(self):
        raise SystemExit


@pytest.mark.parametrize(
    "kind",
    [FrozenError, NoGroupError, NoAttributesError, NoErrnoError, NoArgsError, NoCauseError, NoWordsError],
)
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
        ({"host": 5}, TypeError, "host"),
        ({"host": "localhost"}, ValueError, "host"),
        ({"server": 5, "faults": ["refused_port"]}, TypeError, "server"),
    ],
)
def test_bad_arguments(arguments, error, named):
    with pytest.raises(error, match=named):
        testing.assert_resilient(guarded, **arguments)
