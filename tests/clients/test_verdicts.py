"""The verdict on the real errors of the real clients: for faults of any server, and for what real servers answer."""

import asyncio
import contextlib
import errno

import pytest

import safedial
from tests.support import namespace, verdicts, web
from tests.support.policies import retrying

# The kinds that clients may give a fault: one that drops the kernel's word calls it by its own.
KINDS = {
    "refused": {"connection_refused"},
    "both addresses refused": {"connection_refused"},
    # A client may write before it reads.
    "end of file": {"connection_closed", "connection_reset", "broken_pipe"},
    "reset": {"connection_closed", "connection_reset", "broken_pipe"},
    "timed out": {"timed_out", "connection_closed"},
    "no name": {"name_resolution_error"},
}
VAGUE = {"timed_out", "server_unavailable"}
VAGUE_CLIENTS = verdicts.BLIND | {"pymongo", "grpc", "aiomqtt"}


@pytest.mark.storm
@pytest.mark.parametrize(
    "faults", [("refused", "both addresses refused", "no name"), ("reset", "timed out", "end of file")]
)
def test_fault_of_a_server(faults):
    cells = namespace.call_outside(verdicts.judge, *faults)
    assert {fault for fault, _ in cells} == set(faults)
    for (fault, client), (verdict, kind) in cells.items():
        cell = f"{client}, {fault}: {verdict}, {kind}"
        if client in verdicts.SILENT and fault not in ("refused", "both addresses refused", "no name"):
            assert verdict == "no error" or (verdict, kind) == ("TRANSIENT", "connection_reset"), cell
            continue
        # It sets an option of its socket after the dial: asyncio has closed that if it has read the reset by then.
        if (fault, client, kind) == ("reset", "aiomysql", "EBADF"):
            assert verdict == "UNKNOWN", cell
            continue
        absent = fault == "no name" and client not in verdicts.BLIND
        assert verdict == ("ABSENT" if absent else "TRANSIENT") or (absent and client in verdicts.IN_C), cell
        if (fault, client) == ("reset", "mysqlclient"):  # it can't connect, if the reset comes before its first look
            assert kind in KINDS[fault] | KINDS["refused"], cell
            continue
        assert kind in KINDS[fault] | (VAGUE if client in VAGUE_CLIENTS else set()), cell


def refused():
    return ConnectionRefusedError(errno.ECONNREFUSED, "refused")


def mistake_in_a_task():
    """Fail in the handler of a refused connection, as in a TaskGroup."""
    try:
        raise refused()
    except OSError:
        try:
            {}["backup"]
        except KeyError as error:
            raise ExceptionGroup("tasks", [error]) from None


def fallback_with_a_wrong_password():
    from redis import AuthenticationError

    try:
        raise refused()
    except OSError:
        raise AuthenticationError("WRONGPASS") from None


def raising(kind):
    def dial():
        raise kind("?") from refused()

    return dial


@pytest.mark.parametrize(
    ("factory", "dials"),
    [
        (raising(TypeError), 1),
        (raising(ValueError), 1),
        (raising(KeyError), 1),
        (mistake_in_a_task, 1),
        (fallback_with_a_wrong_password, 1),
        (raising(RuntimeError), 3),
    ],
)
def test_permanent_error_is_dialed_once(factory, dials):
    rounds = []
    connect = safedial.wrap(factory, policy=retrying(3, 0, before=lambda state: rounds.append(state.attempt_number)))
    with contextlib.suppress(Exception):
        returned = connect()
        if asyncio.iscoroutine(returned):
            asyncio.run(returned)
    assert len(rounds) == dials


def test_untrusted_certificate_is_dialed_once():
    rounds = []
    policy = retrying(3, 0, before=lambda state: rounds.append(state.attempt_number))
    with web.serve("https") as server:
        verdict, _ = verdicts.judged(
            lambda: safedial.wrap(asyncio.open_connection, policy=policy)("localhost", server.port, ssl=True)
        )
    assert (verdict, rounds) == ("PERMANENT", [1])


def test_exception_that_the_caller_handles_does_not_count_if_it_is_suppressed():
    def denied():
        times.append(1)
        raise RuntimeError("denied") from None

    times = []
    try:
        raise refused()
    except OSError:
        with pytest.raises(RuntimeError) as caught:
            safedial.wrap(denied, policy=retrying(3, 0))()
    assert len(times) == 1
    assert isinstance(caught.value.__context__, ConnectionRefusedError)
