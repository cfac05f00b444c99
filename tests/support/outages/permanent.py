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
    with contextlib.ExitStack() as stack:
        stranger = str(Path(stack.enter_context(tempfile.TemporaryDirectory()), "stranger.pem"))
        trustme.CA().cert_pem.write_to_path(stranger)
        more = server.wrong.get(failure, {}) | {"ca": stranger if failure == CERTIFICATE else None}
        to = server.tls_port if failure == CERTIFICATE else server.port
        forwarder = stack.enter_context(Forwarder(to, ports=len(rows)))
        ports = ["no port"] * len(rows) if failure == ARGUMENT else forwarder.ports
        pool = stack.enter_context(ThreadPoolExecutor(len(rows)))
        failed = list(pool.map(lambda row, port: fail(row, port, more), rows, ports))
        counts = forwarder.accepted()
        return {row.name: Verdict(count, *how) for row, count, how in zip(rows, counts, failed, strict=True)}


def fail(row, port, more):
    """Dial; return the errors after which the policy went on, and the error that came out, with its module."""
    again = []
    policy = safedial.reconnect(within=2).copy(after=lambda state: again.append(one_line(state.outcome.exception())))
    try:
        row.run(use(row, Place(HOST, port, policy, **more)))
    except Exception as error:
        return tuple(again), one_line(error), type(error).__module__
    return tuple(again), "", ""


async def use(row, place):
    connection = await settled(row.connect(place))
    try:
        await settled(row.write(connection, "never"))
    finally:
        with contextlib.suppress(Exception):
            await settled(row.close(connection))
