"""The scenarios of assert_resilient that are more than one fault: a server that hangs up, a name that fails."""

import asyncio
import contextlib
import re
import socket
import sys
import time

import pytest
import tenacity

import safedial
from safedial import testing
from safedial.testing import scenarios


def greeted(host, port):
    """Dial, and raise EOFError if the server hangs up."""
    sock = safedial.safe_connect((host, port), 5, policy=None)
    with contextlib.ExitStack() as stack:
        stack.callback(sock.close)
        sock.sendall(b"hello")
        if not sock.recv(5):
            raise EOFError("the server hung up")
        stack.pop_all()
    return sock


def in_a_loop(pause, attempts=1_000_000):
    def connect(host, port):
        for _ in range(attempts):
            with contextlib.suppress(OSError, EOFError):
                return greeted(host, port)
            time.sleep(pause)
        raise LookupError("no server")

    return connect


@pytest.fixture
def briefly(monkeypatch):
    monkeypatch.setattr(scenarios, "_HANGS_UP", 0.1)


def problems(connect, fault, **options):
    """Return the problems that one fault finds, in one line."""
    try:
        (found,) = testing.assert_resilient(connect, faults=[fault], **options)
    except AssertionError as error:
        return " ".join(str(error).split())
    assert not found.problems
    return ""


class TestHangsUp:
    @pytest.mark.storm
    def test_reconnect_passes(self, steering):
        """Its dials stay far below the limit, and in the end it is served."""
        seen = []

        def connect(host, port):
            seen.append(time.monotonic())
            return greeted(host, port)

        client = safedial.wrap(connect, policy=safedial.reconnect())
        assert problems(client, "hangs_up", dials_per_second=8) == ""
        assert seen[-1] - seen[0] > 1
        assert len(seen) > 4

    def test_policy_with_waits_passes(self, briefly):
        client = safedial.wrap(greeted, policy=safedial.reconnect())
        assert problems(client, "hangs_up") == ""

    @pytest.mark.parametrize("kind", ["safedial", "tenacity", "connections"])
    def test_waits_that_are_not_slept_count(self, kind, fast_retries):
        """Without a sleep, the loop dials as fast as one without a wait; but by its own clock it does not."""
        wait = tenacity.wait_fixed(0.4)

        def by_connections(host, port):
            for connection in safedial.connections((host, port), policy=safedial.reconnect()):
                with connection as sock:
                    sock.sendall(b"hello")
                    if sock.recv(5):
                        return
                    raise ConnectionResetError("the server hung up")

        client = {
            "safedial": safedial.wrap(greeted, policy=tenacity.Retrying(wait=wait)),
            "tenacity": tenacity.Retrying(wait=wait).wraps(greeted),
            "connections": by_connections,
        }[kind]
        assert problems(client, "hangs_up", dials_per_second=6) == ""
        assert fast_retries

    def test_loop_without_a_wait_fails_and_ends(self, steering):
        """It is served as soon as it has dialed too often, and does not go on for the rest of the second."""
        dialed = []

        def connect(host, port):
            while True:
                dialed.append(port)
                with contextlib.suppress(OSError, EOFError):
                    return greeted(host, port)

        assert "hangs_up FAILED returned - more than 20 dials in one second" in problems(connect, "hangs_up")
        assert len(dialed) == 21

    def test_limit_that_is_given(self, briefly):
        client = in_a_loop(0.02)
        assert problems(client, "hangs_up", dials_per_second=100) == ""
        assert "more than 1 dial in one second" in problems(client, "hangs_up", dials_per_second=1)

    def test_limit_is_for_one_second(self, fast_retries):
        """The fourth dial comes 1.2 seconds after the first."""
        client = safedial.wrap(greeted, policy=tenacity.Retrying(wait=tenacity.wait_fixed(0.4)))
        assert problems(client, "hangs_up", dials_per_second=3) == ""

    def test_a_dial_that_is_late_starts_no_server(self):
        """That of a client that could not be cancelled."""
        setting = scenarios.Setting(testing.servers.echo, "127.0.0.1", 5, 1)
        with contextlib.ExitStack() as stack:
            scenario = scenarios._HangsUp(setting, stack)
        with socket.socket() as sock:
            for _ in range(3):
                scenario._dial_begins(sock)
        assert scenario._server.state == "down"

    @pytest.mark.parametrize("connect", [greeted, in_a_loop(0, 3)], ids=["once", "three times"])
    def test_any_error_will_do(self, connect):
        assert problems(connect, "hangs_up") == ""

    def test_client_that_never_dials(self):
        assert "the client did not dial" in problems(lambda host, port: None, "hangs_up")

    def test_client_that_goes_on_is_ended(self, briefly):
        def connect(host, port):
            while True:
                with contextlib.suppress(OSError, EOFError):
                    greeted(host, port).close()
                time.sleep(0.05)

        assert "no end within 0.3 s" in problems(connect, "hangs_up", within=0.3, dials_per_second=100)

    def test_asyncio_client(self, briefly):
        async def connect(host, port):
            for _ in range(100):
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(b"x")
                with contextlib.suppress(OSError):
                    if await reader.read(1):
                        return writer
                writer.close()
                await asyncio.sleep(0.03)
            raise EOFError

        assert problems(connect, "hangs_up") == ""

    @pytest.mark.storm
    def test_server_that_is_a_command(self, briefly):
        command = [sys.executable, "-m", "http.server", "--bind", "{host}", "{port}"]

        def connect(host, port):
            while True:
                with contextlib.suppress(OSError), socket.create_connection((host, port), 5) as sock:
                    sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    if sock.recv(4) == b"HTTP":
                        return
                time.sleep(0.06)

        assert problems(connect, "hangs_up", server=command, within=30) == ""

    @pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
    def test_bad_limits(self, limit, error):
        with pytest.raises(error, match="dials_per_second"):
            testing.assert_resilient(greeted, dials_per_second=limit)


class TestNameFailure:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_policy_that_looks_up_again_passes(self, host, steering):
        named = []

        def connect(name, port):
            named.append(name)
            return safedial.safe_connect((name, port), policy=safedial.reconnect(5, 0.01))

        (found,) = testing.assert_resilient(connect, faults=["name_failure"], host=host)
        assert (found.happened, found.means) == ("returned", "simulated")
        (name,) = named
        assert re.fullmatch(r"server-\d+\.safedial\.invalid", name)

    def test_asyncio_client(self):
        async def connect(host, port):
            with contextlib.suppress(socket.gaierror):
                await asyncio.open_connection(host, port)
            with contextlib.suppress(socket.gaierror):
                await asyncio.open_connection(host, port)
            return (await asyncio.open_connection(host, port))[1]

        assert problems(connect, "name_failure") == ""

    def test_error_of_the_resolver_passes(self):
        assert problems(greeted, "name_failure") == ""

    def test_error_that_says_it_in_words_passes(self):
        """psycopg's."""

        def connect(host, port):
            said = ""
            try:
                return greeted(host, port)
            except OSError as error:
                said = f"failed to resolve host {host!r}: {error}"
            raise RuntimeError(said)

        assert problems(connect, "name_failure") == ""

    def test_another_error_does_not(self):
        def connect(host, port):
            with contextlib.suppress(OSError):
                greeted(host, port)
            raise ConnectionError("no server")

        assert "the error does not say EAI_AGAIN" in problems(connect, "name_failure")

    def test_client_that_looks_nothing_up(self):
        """As one that resolves in C, so far as can be seen."""
        said = problems(lambda host, port: None, "name_failure")
        assert "the fault was not triggered: the client resolves names in C, or not at all" in said
        assert "did not dial" not in said


@pytest.mark.parametrize("attempts", [3, 4])
def test_outage_refuses_three_dials(attempts):
    said = problems(in_a_loop(0, attempts), "outage")
    assert ("LookupError" in said) == (attempts == 3)


class TestServerThatDoesNotComeBack:
    """No client is to blame for it, nor passes."""

    @pytest.mark.parametrize("attempts", [1, 1_000_000])
    def test_one_that_never_starts_after_it_hung_up(self, attempts, briefly):
        with pytest.raises(OSError, match="false ended with status 1"):
            testing.assert_resilient(
                in_a_loop(0.02, attempts), faults=["hangs_up"], server=["false", "{port}"], within=0.3
            )

    @pytest.mark.storm
    def test_one_without_reuseaddr(self, briefly):
        """The connections that were hung up on are in its way."""

        def connect(host, port):
            while True:
                with contextlib.suppress(OSError), socket.create_connection((host, port)) as sock:
                    sock.recv(1)
                time.sleep(0.06)

        serves = "import socket; s = socket.socket(); s.bind(('{host}', {port})); s.listen(); input()"
        with pytest.raises(OSError, match="Address already in use"):
            testing.assert_resilient(connect, faults=["hangs_up"], server=[sys.executable, "-c", serves], within=1.5)

    @pytest.mark.parametrize(
        ("then", "attempts", "within", "words"),
        [
            ("exit 7", 5, 30, "sh ended with status 7"),
            pytest.param("exec sleep 9", 1000, 1.5, "sh did not listen|had not come up again", marks=pytest.mark.storm),
        ],
    )
    def test_one_that_starts_once(self, then, attempts, within, words, tmp_path):
        mark = tmp_path / "started"
        serves = "import socket, time; s = socket.create_server(('{host}', {port})); time.sleep(60)"
        script = f'test -e {mark} && {then}; touch {mark}; exec {sys.executable} -c "{serves}"'
        with pytest.raises(OSError, match=words):
            testing.assert_resilient(
                in_a_loop(0.01, attempts), faults=["outage"], server=["sh", "-c", script], within=within
            )
