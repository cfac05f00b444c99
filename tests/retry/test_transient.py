"""Spurious, transient, absent and permanent errors: the verdict on the kernel's errors, and on chains of errors."""

import asyncio
import errno
import http.client
import pickle
import socket
import ssl
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import safedial
from safedial._retry.kinds import Verdict
from safedial._retry.transient import (
    ends_connection,
    error_type,
    errors_of,
    is_spurious,
    is_transient,
    mark_as_known,
    verdict,
)

TRANSIENT, ABSENT, PERMANENT, UNKNOWN = Verdict.TRANSIENT, Verdict.ABSENT, Verdict.PERMANENT, Verdict.UNKNOWN
SELF = safedial.SelfConnectError.at("127.0.0.1", 80)
EXHAUSTED = safedial.PortsExhaustedError.at("127.0.0.1", 80, safedial.PortUsage())
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
BAD_SOURCE = OSError(errno.EADDRNOTAVAIL, "bind")
NO_NAME = socket.gaierror(socket.EAI_NONAME, "unknown")


class ClientError(Exception):
    """Some library's own."""


# The table has it as redis's.
Login = type("AuthenticationError", (ClientError,), {"__module__": "redis.exceptions"})


def tls(kind, reason):
    error = kind(1, f"[SSL: {reason}] (_ssl.c:1000)")
    error.reason = reason
    return error


def raised(error, cause=None, context=None, suppressed=False):
    """Return *error* with its links as the statement raise leaves them."""
    error.__cause__, error.__context__ = cause, context
    error.__suppress_context__ = suppressed or cause is not None
    return error


KERNEL = [
    (SELF, TRANSIENT, "self_connect"),
    (EXHAUSTED, TRANSIENT, "address_not_available"),
    (REFUSED, TRANSIENT, "connection_refused"),
    (ConnectionRefusedError(), TRANSIENT, "connection_refused"),
    (TimeoutError("timed out"), TRANSIENT, "timed_out"),
    (TimeoutError(errno.ETIMEDOUT, "timed out"), TRANSIENT, "timed_out"),
    (ConnectionResetError(errno.ECONNRESET, "reset"), TRANSIENT, "connection_reset"),
    (ConnectionResetError("Connection lost"), TRANSIENT, "connection_reset"),
    (ConnectionAbortedError("SSL handshake is taking longer than 60.0 seconds"), TRANSIENT, "connection_aborted"),
    (ConnectionError("unexpected connection_lost() call"), TRANSIENT, "connection_closed"),
    (BrokenPipeError(errno.EPIPE, "pipe"), TRANSIENT, "broken_pipe"),
    (OSError(errno.ENOTCONN, "not connected"), TRANSIENT, "connection_closed"),
    (OSError(errno.ENETUNREACH, "unreachable"), TRANSIENT, "network_unreachable"),
    (OSError(errno.EHOSTUNREACH, "unreachable"), TRANSIENT, "host_unreachable"),
    (EOFError(), TRANSIENT, "connection_closed"),
    (asyncio.IncompleteReadError(b"", 4), TRANSIENT, "connection_closed"),
    (http.client.RemoteDisconnected("hung up"), TRANSIENT, "connection_closed"),
    (socket.gaierror(socket.EAI_AGAIN, "try again"), TRANSIENT, "name_resolution_error"),
    (NO_NAME, ABSENT, "name_resolution_error"),
    (socket.gaierror(socket.EAI_NODATA, "no address"), ABSENT, "name_resolution_error"),
    (socket.gaierror(socket.EAI_FAIL, "failure"), ABSENT, "name_resolution_error"),
    (socket.gaierror(socket.EAI_ADDRFAMILY, "::1 is not IPv4"), PERMANENT, "name_resolution_error"),
    (socket.gaierror(socket.EAI_SERVICE, "service"), PERMANENT, "name_resolution_error"),
    (socket.gaierror(socket.EAI_FAMILY, "family"), PERMANENT, "name_resolution_error"),
    (socket.gaierror("no number"), UNKNOWN, "name_resolution_error"),
    (socket.gaierror(socket.EAI_SYSTEM, "EMFILE"), UNKNOWN, "name_resolution_error"),
    (BAD_SOURCE, ABSENT, "address_not_available"),
    (PermissionError(errno.EACCES, "denied"), UNKNOWN, "permission_denied"),
    (OSError(errno.EMFILE, "files"), UNKNOWN, "too_many_open_files"),
    (OSError(errno.EINVAL, "invalid"), UNKNOWN, "EINVAL"),
    (OSError(987654, "odd"), UNKNOWN, "os_error"),
    (OSError("no errno"), UNKNOWN, "OSError"),
    (tls(ssl.SSLCertVerificationError, "CERTIFICATE_VERIFY_FAILED"), PERMANENT, "certificate_error"),
    (tls(ssl.SSLError, "TLSV1_ALERT_UNKNOWN_CA"), PERMANENT, "certificate_error"),
    (tls(ssl.SSLError, "TLSV13_ALERT_CERTIFICATE_REQUIRED"), PERMANENT, "certificate_error"),
    (tls(ssl.SSLEOFError, "UNEXPECTED_EOF_WHILE_READING"), TRANSIENT, "connection_closed"),
    (tls(ssl.SSLError, "UNEXPECTED_EOF_WHILE_READING"), TRANSIENT, "connection_closed"),
    (ssl.SSLZeroReturnError(6, "closed"), TRANSIENT, "connection_closed"),
    (ssl.SSLSyscallError(5, "reset"), TRANSIENT, "connection_reset"),
    (tls(ssl.SSLError, "WRONG_VERSION_NUMBER"), UNKNOWN, "tls_error"),
    (TypeError("port"), PERMANENT, "TypeError"),
    (ValueError("port"), PERMANENT, "ValueError"),
    (KeyError("config"), PERMANENT, "KeyError"),
    (UnicodeError("label empty or too long"), PERMANENT, "UnicodeError"),
    (RuntimeError("?"), UNKNOWN, "RuntimeError"),
    (ClientError("?"), UNKNOWN, "tests.retry.test_transient.ClientError"),
]


@pytest.mark.parametrize(("error", "expected", "name"), KERNEL)
def test_verdict_and_type(error, expected, name):
    assert (verdict(error), error_type(error)) == (expected, name)
    assert is_transient(error) == (expected is TRANSIENT)
    assert is_transient(error, names=True) == (expected in (TRANSIENT, ABSENT))
    assert is_spurious(error) == (error in (SELF, EXHAUSTED))


class HolderError(Exception):
    """Holds the errors behind it in an attribute."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


# An error with another one behind it, for each way to link them.
WRAPPERS = {
    "cause": lambda error: raised(ClientError(), cause=error),
    "context": lambda error: raised(ClientError(), context=error),
    "suppressed context": lambda error: raised(ClientError(), context=error, suppressed=True),
    "group": lambda error: BaseExceptionGroup("all", [error]),
    "list": lambda error: HolderError(errors=[error]),
    "tuple": lambda error: HolderError(errors=(error,)),
    "dict": lambda error: HolderError(errors={("127.0.0.1", 22): error}),
    "args": lambda error: ClientError("failed", error),
    "pairs in args": lambda error: ClientError("failed", [(error, ("127.0.0.1", 22))]),
    "OSError": lambda error: raised(OSError("all attempts failed"), cause=error),
    "other addresses": lambda error: HolderError(_other_addresses=(error,)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
class TestBehind:
    @pytest.mark.parametrize(("error", "expected", "name"), [row for row in KERNEL if row[2].islower()][::3])
    def test_is_found(self, wrap, error, expected, name):
        for outer in (wrap(error), wrap(wrap(error))):
            assert (verdict(outer), error_type(outer)) == (expected, name)
            assert error in errors_of(outer)

    def test_is_spurious(self, wrap):
        assert is_spurious(wrap(SELF))
        assert is_spurious(wrap(wrap(EXHAUSTED)))
        assert not is_spurious(wrap(REFUSED))

    def test_known_name_is_found(self, wrap):
        error = socket.gaierror(socket.EAI_NONAME, "unknown")
        assert not is_transient(wrap(error))
        mark_as_known(error)
        assert is_transient(wrap(error))

    def test_names_are_given_for_what_is_not_known(self, wrap):
        assert error_type(wrap(RuntimeError())) in {
            "tests.retry.test_transient.ClientError",
            "tests.retry.test_transient.HolderError",
            "ExceptionGroup",
            "OSError",
        }


class TestPrecedence:
    def test_permanent_before_transient_before_absent_before_unknown(self):
        login = Login("invalid password")
        group = [PermissionError(errno.EACCES, "denied"), NO_NAME, REFUSED, login]
        for last, expected in enumerate([UNKNOWN, ABSENT, TRANSIENT, PERMANENT], 1):
            for errors in (group[:last], group[:last][::-1]):
                assert verdict(ExceptionGroup("all", errors)) is expected

    def test_kernels_error_says_nothing_of_what_was_handled(self):
        assert verdict(raised(ConnectionRefusedError(errno.ECONNREFUSED, "refused"), context=Login())) is TRANSIENT
        assert verdict(raised(PermissionError(errno.EACCES, "denied"), context=REFUSED)) is UNKNOWN
        assert verdict(raised(TimeoutError(), cause=asyncio.CancelledError())) is TRANSIENT

    def test_login_that_failed_is_not_tried_again_because_another_address_refused(self):
        assert verdict(raised(Login(), context=REFUSED)) is PERMANENT
        assert not is_spurious(raised(Login(), context=SELF))
        error = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        error._other_addresses = (Login(),)
        assert verdict(error) is PERMANENT

    @pytest.mark.parametrize("kind", [TypeError, ValueError, KeyError, AttributeError, UnicodeError])
    @pytest.mark.parametrize("group", [False, True])
    def test_mistake_outermost_is_permanent_whatever_is_behind_it(self, kind, group):
        error = raised(kind("no such option"), context=REFUSED)
        error = ExceptionGroup("tasks", [REFUSED, ExceptionGroup("", [error])]) if group else error
        assert verdict(error) is PERMANENT
        assert not is_spurious(raised(kind(), context=SELF))

    @pytest.mark.parametrize("kind", [TypeError, ValueError, KeyError, IndexError])
    def test_mistake_inside_counts_for_nothing(self, kind):
        # As anyio's BrokenResourceError, which has an IndexError for a context.
        assert verdict(ClientError(raised(kind(), context=REFUSED))) is TRANSIENT
        assert verdict(raised(ClientError(), cause=REFUSED, context=kind())) is TRANSIENT
        assert verdict(raised(ClientError(), cause=kind("[Errno 111] in its words"))) is UNKNOWN

    def test_mistakes_that_are_os_errors_are_none(self):
        assert verdict(tls(ssl.SSLCertVerificationError, "CERTIFICATE_VERIFY_FAILED")) is PERMANENT

        class RefusedError(ConnectionRefusedError, ValueError):
            pass

        assert verdict(RefusedError()) is TRANSIENT

    def test_address_that_says_nothing_leaves_it_to_the_others(self):
        no_ipv6 = OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        no_ipv6._other_addresses = (REFUSED,)
        assert verdict(no_ipv6) is TRANSIENT

    def test_foreign_timeout_is_asked_for_what_is_behind_it(self):
        kind = type("OurTimeout", (TimeoutError,), {})
        assert verdict(raised(kind(), cause=Login())) is PERMANENT
        assert verdict(kind()) is TRANSIENT


class TestWords:
    @pytest.mark.parametrize(
        ("text", "expected", "name"),
        [
            ("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] Connect", TRANSIENT, "refused"),
            ("Multiple exceptions: [Errno 101] Network is unreachable, [Errno 13] denied", TRANSIENT, "network"),
            ("[Errno -2] Name or service not known", ABSENT, "name_resolution"),
            ("[Errno -3] Temporary failure in name resolution", TRANSIENT, "name_resolution"),
            ("[Errno -8] Servname not supported", PERMANENT, "name_resolution"),
            ("[Errno 99] Cannot assign requested address", ABSENT, "address_not_available"),
            ("[Errno 13] Permission denied", UNKNOWN, "permission_denied"),
            ("db:1: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed, [Errno 111]", PERMANENT, "cert"),
            ("[Errno None] Unable to connect", UNKNOWN, "Error"),
            ("x" * 10**6 + "[Errno 111]", UNKNOWN, "Error"),
        ],
    )
    @pytest.mark.parametrize("kind", [OSError, ClientError, RuntimeError])
    @pytest.mark.skipif(sys.platform != "linux", reason="the numbers are Linux's")
    def test_number_in_words(self, kind, text, expected, name):
        assert verdict(kind(text)) is expected
        assert name in error_type(kind(text))

    def test_words_do_not_count_if_there_is_a_cause(self):
        assert verdict(raised(ClientError("[Errno 111] Connection refused"), cause=NO_NAME)) is ABSENT

    def test_words_count_if_what_is_behind_says_nothing(self):
        handled = raised(KeyError("option"), context=FileNotFoundError(errno.ENOENT, "no pgpass"))
        assert verdict(raised(ClientError("[Errno 111] refused"), context=handled)) is TRANSIENT

    @pytest.mark.parametrize("ours", [SELF, EXHAUSTED])
    def test_asyncio_drops_our_errors_but_not_their_words(self, ours):
        error = OSError(f"Multiple exceptions: {ours}, {REFUSED}")
        for each in (error, raised(ClientError(), context=error)):
            assert is_spurious(each)
            assert is_transient(each)
        assert not is_spurious(OSError(f"Multiple exceptions: {REFUSED}, {REFUSED}"))


class RaisingError(Exception):
    """Raises whatever is asked of it."""

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __str__(self):
        raise RuntimeError("no text")


class InventingError(Exception):
    """Has any attribute, as a mock."""

    def __getattr__(self, name):
        return InventingError()


class TestOddErrors:
    @pytest.mark.parametrize("kind", [RaisingError, InventingError])
    def test_attributes_and_texts_of_others_may_fail(self, kind):
        error = raised(kind(), cause=REFUSED)
        assert verdict(error) is TRANSIENT
        assert REFUSED in errors_of(error)
        assert verdict(kind()) is UNKNOWN
        assert not is_spurious(kind())
        assert not is_transient(raised(kind(), cause=NO_NAME))

    def test_rings(self):
        first, second = ClientError(), ClientError()
        raised(first, cause=second)
        raised(second, context=first)
        assert verdict(first) is UNKNOWN
        second.errors = [first, second, REFUSED]
        assert verdict(first) is verdict(second) is TRANSIENT
        assert not is_spurious(first)

    def test_depth_and_width_have_limits(self):
        error = REFUSED
        for _ in range(50_000):
            error = raised(ClientError(), cause=error)
        assert verdict(error) is UNKNOWN
        assert len(errors_of(error)) <= 500
        while error is not REFUSED:  # freeing the chain recursively would overflow the stack of the interpreter
            error.__cause__, error = None, error.__cause__
        wide = ExceptionGroup("many", [REFUSED, *(ClientError(str(number)) for number in range(50_000))])
        assert verdict(wide) is TRANSIENT
        assert len(errors_of(wide)) <= 500

    def test_shared_errors_are_seen_once(self):
        error = REFUSED
        for _ in range(200):  # 2 ** 200 paths
            error = raised(HolderError(errors=[error, error]), cause=error, context=error)
        assert verdict(error) is TRANSIENT
        assert errors_of(error).count(REFUSED) == 1

    def test_mark_survives_pickling(self):
        error = socket.gaierror(socket.EAI_NONAME, "unknown")
        mark_as_known(error)
        assert is_transient(pickle.loads(pickle.dumps(error)))


def leaves():
    return st.sampled_from([row[0] for row in KERNEL] + [Login("no"), RuntimeError("?")])


def trees():
    """Return errors that are linked in all ways, with mistakes among them."""
    return st.recursive(
        leaves(), lambda inner: st.tuples(st.sampled_from(sorted(WRAPPERS)), inner).map(lambda t: WRAPPERS[t[0]](t[1]))
    )


@given(st.lists(trees(), min_size=1, max_size=5))
def test_group_is_as_bad_as_the_worst_of_its_members(errors):
    order = [PERMANENT, TRANSIENT, ABSENT, UNKNOWN]
    worst = min((verdict(error) for error in errors), key=order.index)
    assert verdict(ExceptionGroup("all", errors)) is worst


@given(trees())
def test_functions_agree(error):
    found = verdict(error)
    assert is_transient(error) == (found is TRANSIENT)
    assert is_transient(error, names=True) == (found in (TRANSIENT, ABSENT))
    if is_spurious(error):
        assert found is TRANSIENT
    assert error_type(error)


def test_is_cheap_for_the_kernels_errors():
    """A refused connection is judged without a look at the table: as often as a dead server is dialed."""
    calls = []
    sys.setprofile(lambda frame, event, arg: calls.append(frame.f_code.co_name) if event == "call" else None)
    try:
        is_transient(REFUSED)
    finally:
        sys.setprofile(None)
    assert len(calls) < 12, calls


def test_imports_no_client():
    judge = "import sys, safedial._retry.transient as t; t.verdict(RuntimeError()); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", judge], capture_output=True, text=True, check=True)
    assert not {"ssl", "redis", "psycopg", "pymysql", "asyncio"} & set(done.stdout.split())


@pytest.mark.parametrize("error", [OSError("socket error", "peer went away"), ConnectionResetError("lost", "x")])
def test_errno_that_is_no_number_is_none(error):
    assert verdict(error) in (UNKNOWN, TRANSIENT)
    assert not is_spurious(error)


def test_users_data_in_a_servers_answer_says_nothing():
    import psycopg
    import pymysql
    import redis

    quoting = [
        psycopg.errors.UniqueViolation("Key (msg)=(Connection refused) already exists"),
        psycopg.errors.RaiseException("Connection timed out"),
        pymysql.err.IntegrityError(1062, "Duplicate entry 'server is starting' for key 'state'"),
        pymysql.err.OperationalError(1205, "Lock wait timeout exceeded; try restarting transaction"),
        redis.ResponseError("user_script: job state LOADING"),
    ]
    assert [verdict(error) for error in quoting] == [UNKNOWN] * len(quoting)


def test_ends_connection_asks_only_classes_that_say_something():
    class OrderFailedError(Exception):
        pass

    own = OrderFailedError("order 42: [Errno 111] Connection refused")
    own.__cause__ = REFUSED
    assert is_transient(own)
    assert not ends_connection(own)
    assert ends_connection(REFUSED)
    assert ends_connection(EOFError())
