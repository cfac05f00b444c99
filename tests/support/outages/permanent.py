"""The failures that no wait mends: a client under ``reconnect()`` dials once, and its own error comes out."""

import contextlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import trustme

import safedial
from tests.support.databases import HOST
from tests.support.outages.forwarder import Forwarder
from tests.support.outages.rows import Place, settled
from tests.support.outages.run import one_line

CERTIFICATE, ARGUMENT = "bad certificate", "wrong argument"
FAILURES = ["wrong password", "unknown database", CERTIFICATE, ARGUMENT]


@dataclass(frozen=True)
class Verdict:
    """What a client did.

    Attributes:
        accepted: how many connections it made.
        again: the errors after which its policy decided on another round.
        error: the error that came out, in words; empty if none did.
        module: the module of its type.
    """

    accepted: int
    again: tuple[str, ...]
    error: str
    module: str


def failures_of(server):
    return [name for name in FAILURES if name in server.wrong or name in (CERTIFICATE, ARGUMENT)]


def dial_in_vain(failure, rows, server):
    """Let *rows* dial *server*, which is up, and fail by *failure*. Return a `Verdict` for each row's name."""
    with ThreadPoolExecutor(len(rows)) as pool, tempfile.TemporaryDirectory() as directory:
        stranger = str(Path(directory, "stranger.pem"))
        trustme.CA().cert_pem.write_to_path(stranger)
        settings = dict(server.wrong.get(failure, {}), ca=stranger if failure == CERTIFICATE else None)
        verdicts = pool.map(lambda row: judge(row, failure, server, settings), rows)
        return dict(zip([row.name for row in rows], verdicts, strict=True))


def judge(row, failure, server, settings):
    again = []
    policy = safedial.reconnect(within=2).copy(after=lambda state: again.append(one_line(state.outcome.exception())))
    with Forwarder(server.tls_port if failure == CERTIFICATE else server.port) as forwarder:
        # A port that none of them takes: a TypeError or a ValueError, in whatever way the client says so.
        place = Place(HOST, ["no port"] if failure == ARGUMENT else forwarder.port, policy, **settings)
        try:
            row.run(use(row, place))
        except Exception as error:
            return Verdict(forwarder.accepted, tuple(again), one_line(error), type(error).__module__)
    return Verdict(forwarder.accepted, tuple(again), "", "")


async def use(row, place):
    connection = await settled(row.connect(place))
    try:
        await settled(row.write(connection, "never"))
    finally:
        with contextlib.suppress(Exception):
            await settled(row.close(connection))
