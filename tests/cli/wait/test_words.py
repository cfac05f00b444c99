"""What a person reads who waits."""

import errno
import os
import signal
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

import safedial
from safedial.cli.wait import words
from safedial.cli.wait.progress import NotReady, Progress
from safedial.cli.wait.targets import Target, parse

DB, LOCAL, FILE = (parse(text, {}) for text in ("db:5432", "localhost:5432", "unix:/run/x.sock"))
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
UNKNOWN_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def numbered(number):
    return OSError(number, os.strerror(number))


def untrusted(code=19, message="self-signed certificate"):
    error = ssl.SSLCertVerificationError(1, f"[SSL: CERTIFICATE_VERIFY_FAILED] failed: {message} (_ssl.c:1006)")
    error.reason, error.verify_code, error.verify_message = "CERTIFICATE_VERIFY_FAILED", code, message
    return error


def alert(reason):
    error = ssl.SSLError(1, f"[SSL: {reason}] failed (_ssl.c:1006)")
    error.reason = reason
    return error


def no_tls():
    """Return the error of a handshake with a server that has no TLS."""
    reading, writing = ssl.MemoryBIO(), ssl.MemoryBIO()
    reading.write(b"SSH-2.0-OpenSSH_9.2p1\r\n")
    try:
        ssl.create_default_context().wrap_bio(reading, writing, server_hostname="db").do_handshake()
    except ssl.SSLError as error:
        return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (REFUSED, "Connection refused"),
        (OSError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 5432)"), "Connection refused"),  # asyncio's
        (safedial.SelfConnectError.at("127.0.0.1", 40000), "Connection refused (the kernel connected the socket to it"),
        (safedial.PortsExhaustedError.at("127.0.0.1", 40000), "no local port is free to reach it"),
        (TimeoutError("timed out"), "timed out"),
        (TimeoutError(), "timed out"),
        (UNKNOWN_NAME, "the name does not resolve: Name or service not known"),
        (untrusted(), "its certificate is not accepted: self-signed certificate"),
        (no_tls(), "TLS failed: wrong version number"),
        (NotReady("HTTP status 503"), "HTTP status 503"),
        (NotReady(errno.EADDRINUSE, "taken: LISTEN,\nprocess 7 (db\x1b[2J)"), "taken: LISTEN, process 7 (db\\x1b[2J)"),
        (NotReady("it sent '" + "x" * 500), "it sent 'xxx"),
        (ValueError("no such URL: redis://me:secret@db/?password=secret"), "no such URL: redis://…@db/?…"),
    ],
)
def test_error_in_a_few_words(error, said):
    found = words.said(error)
    assert found.startswith(said)
    assert len(found) < 210


@given(st.text())
def test_whatever_an_error_says_is_one_line(text):
    error = NotReady(errno.EPROTO, text)
    assert words.said(error).isprintable()
    assert words.state(Progress(DB, error=error)).isprintable()


HTTP = "The server is up"


@pytest.mark.parametrize(
    ("error", "target", "says"),
    [
        (REFUSED, DB, "not only on its localhost?"),
        (REFUSED, LOCAL, "In a container, localhost is the container"),
        (REFUSED, parse("127.0.0.2:80", {}), "In a container, localhost is the container"),
        (REFUSED, parse("[::1]:80", {}), "In a container, localhost is the container"),
        (REFUSED, FILE, "it may be left over from one that has ended"),
        (safedial.SelfConnectError.at("127.0.0.1", 5432), DB, "safedial doctor 5432"),
        (safedial.PortsExhaustedError.at("127.0.0.1", 5432), DB, "uses the local ports up: safedial doctor 5432"),
        (numbered(errno.EADDRINUSE), DB, "how to free it: safedial doctor 5432"),
        (numbered(errno.ETIMEDOUT), DB, "firewall"),
        (TimeoutError("timed out"), DB, "firewall"),
        (TimeoutError("timed out"), LOCAL, "its backlog is full"),
        (alert("TLSV13_ALERT_CERTIFICATE_REQUIRED"), DB, "a certificate of the client"),
        (alert("UNSUPPORTED_PROTOCOL"), DB, "another version"),
        (numbered(errno.EHOSTUNREACH), DB, "no route"),
        (numbered(errno.ENETUNREACH), DB, "no route"),
        (numbered(errno.EADDRNOTAVAIL), DB, "IPv6 switched off"),
        (numbered(errno.ECONNRESET), DB, "A forwarder, such as docker's"),
        (UNKNOWN_NAME, DB, "getent hosts db"),
        (untrusted(), DB, "--ca FILE"),
        (untrusted(62, "Hostname mismatch, certificate is not valid for 'db'."), DB, "other names than db"),
        (untrusted(62, "mismatch"), FILE, "other names than localhost"),
        (untrusted(10, "certificate has expired"), DB, "set the clock"),
        (no_tls(), DB, "PostgreSQL and MySQL do not"),
        (NotReady(errno.ETIMEDOUT, "no answer in HTTP within 10 s", hint="It hangs."), DB, "It hangs."),
        (numbered(errno.EPERM), DB, "forbids the connection"),
        (numbered(errno.EMFILE), DB, "ulimit -n"),
    ],
)
def test_hints(error, target, says):
    hint = words.hint(Progress(target, error=error))
    assert says in hint
    assert hint.isascii()


def test_hint_for_a_port_that_only_root_may_bind():
    hint = words.hint(Progress(parse("localhost:80", {}), error=numbered(errno.EACCES), gone=True))
    assert hint == "Only root may bind ports such as 80: net.ipv4.ip_unprivileged_port_start"


def test_no_hint_is_better_than_a_wrong_one():
    assert words.hint(Progress(DB, error=numbered(errno.EPROTO))) == ""
    assert words.hint(Progress(DB, error=ValueError("what"))) == ""


def test_no_hint_where_nothing_is_wrong():
    assert words.hint(Progress(DB)) == ""
    assert words.hint(Progress(DB, "ready", error=REFUSED)) == ""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "Waiting for db:5432, localhost:5432, for at most 60 s."),
        ({"timeout": None}, "Waiting for db:5432, localhost:5432, without a time limit."),
        ({"timeout": 0.5}, "Waiting for db:5432, localhost:5432, for at most 0.5 s."),
        ({"any_of": True}, "Waiting for one of db:5432, localhost:5432, for at most 60 s."),
    ],
)
def test_opening(options, says):
    targets = [Progress(DB), Progress(LOCAL)]
    assert words.opening(targets, **{"any_of": False, "timeout": 60.0, **options}) == says


def test_one_of_one_is_that_one():
    assert words.opening([Progress(DB)], any_of=True, timeout=60.0) == "Waiting for db:5432, for at most 60 s."


@pytest.mark.parametrize(
    ("progress", "says"),
    [
        (Progress(DB), "db:5432: waiting"),
        (Progress(DB, rounds=1, error=REFUSED), "db:5432: not ready yet: Connection refused"),
        (Progress(DB, "ready", 2, REFUSED, 1.234), "db:5432: ready after 1.2 s"),
        (Progress(DB, "failed", 1, UNKNOWN_NAME), "db:5432: failed: the name does not resolve: Name or service not"),
        (Progress(DB, "not needed", 1, REFUSED), "db:5432: not needed"),
    ],
)
def test_state(progress, says):
    assert words.state(progress).startswith(says)


def test_states_of_a_port_that_is_to_be_free():
    taken = Progress(DB, rounds=1, error=NotReady(errno.EADDRINUSE, "taken: LISTEN"), gone=True)
    opening = words.opening([taken], any_of=False, timeout=60.0)
    assert opening == "Waiting until a server can bind db:5432, for at most 60 s."
    assert words.state(taken) == "db:5432: not free yet: taken: LISTEN"
    assert words.failure([taken], "timed out", after=1)[1] == "db:5432: not free: taken: LISTEN (1 round)"
    assert words.state(Progress(DB, "ready", 1, None, 0.0, gone=True)) == "db:5432: free after 0 s"


def test_time_out():
    ready, late = Progress(LOCAL, "ready", 1, None, 0.1), Progress(DB, rounds=1, error=REFUSED)
    first, last, hint = words.failure([ready, late], "timed out", after=60.04)
    assert first == "Timed out after 60 s."
    assert last == "db:5432: not ready: Connection refused (1 round)"
    assert hint == f"db:5432: hint: {words.hint(late)}"


def test_permanent_error():
    failed = Progress(DB, "failed", 2, numbered(errno.EPROTO))
    first, last = words.failure([failed], "failed", after=0.2)
    assert first == "Failed after 0.2 s: waiting does not help."
    assert last == "db:5432: failed: Protocol error (2 rounds)"


def test_signal():
    over, error, _ = words.failure([Progress(DB, error=REFUSED)], signal.SIGTERM, after=3)
    assert (over, error) == ("Ended by SIGTERM after 3 s.", "db:5432: not ready: Connection refused")


def test_target_names_are_shown_as_they_are():
    target = Target("postgresql://db:5432", "db", 5432)
    assert words.state(Progress(target)) == "postgresql://db:5432: waiting"
