"""One look at a server: connect, and see whether all that was asked for is true. Each step has its time limit.

What the server does may change while it starts, so that it is looked at again: what it says, its certificate, that it
is silent or closes the connection.
"""

import asyncio
import contextlib
import errno
import functools
import ssl
from collections.abc import AsyncGenerator, Callable, Container
from dataclasses import dataclass
from typing import Any, TypeAlias

import safedial
from safedial._address import printable
from safedial._dial.transport import open_streams
from safedial.cli.wait import threads, unix, words
from safedial.cli.wait.progress import NotReady
from safedial.cli.wait.targets import Target

# Seconds for connecting to one address. A host that drops the first SYN gets another one after 1 s (RFC 6298), and
# the next dial sends the next.
_CONNECT = 3.0
# Seconds for each of these: a TLS handshake, a banner, an answer in HTTP. A server that starts may take long for its
# first answer, but one that was accepted by a forwarder, and forgotten, never comes.
_ANSWER = 10.0
# Seconds after a part of a banner, or of a body, for the next. A server that says something else is so looked at again
# soon: another one may have its port by then.
_PAUSE = 2.0
# RFC 9110, section 15: all went well, or the answer is elsewhere.
SUCCESS = range(200, 400)
# Bytes of the banner, or the body, that are searched.
_SEARCHED = 4096
# Bytes that a stream reads ahead: no more than `http` takes as one line.
_BUFFER = 1 << 16
# Is told what is wrong if the wait ends during the step that begins now.
Step: TypeAlias = Callable[[NotReady], object]

_SLOW = "The server accepts, but does not answer: it is still starting, or it hangs."
_MUTE = (
    "Another server may have this port, or the server waits for the client to speak first. "
    "--expect holds for every TARGET."
)
_TOO_SHORT = "Nothing was wrong so far, but --timeout ended the look: give it more time."


@dataclass(frozen=True)
class Asked:
    """What a server must do to be ready, beyond accepting a connection."""

    tls: bool = False
    insecure: bool = False  # do not verify the certificate
    ca: str | None = None  # a file of certificates to trust, in place of the system's
    http: str | None = None  # the path and query of a GET
    statuses: Container[int] = SUCCESS
    expect: str | None = None  # a text in the first 4096 bytes that the server sends, or of the HTTP answer's body
    stays: float = 0.0  # seconds for which the server must not close the connection


async def probe(target: Target, step: Step, asked: Asked) -> None:
    """Return if *target* is ready, or raise what was wrong. Tell *step* how far it is.

    Redirects are answers, and not followed. With HTTP, *asked.stays* asks once more when that time is over: a server
    may close the connection after its answer.

    Raises:
        NotReady: it is not ready yet: it closed the connection, was silent, or said something else.
        OSError: the kernel's, the resolver's or TLS's own error.
        ValueError: the target can't be dialed, or *asked.ca* or *asked.http* is wrong.
    """
    tls = context(insecure=asked.insecure, ca=asked.ca) if asked.tls or target.tls else None
    path = target.http if asked.http is None else asked.http
    if path is not None:
        await _answers(target, step, tls, path, asked)
        if asked.stays:
            step(NotReady("it has answered; waiting to ask it once more", hint=_TOO_SHORT))
            await asyncio.sleep(asked.stays)
            await _answers(target, step, tls, path, asked)
        return
    async with _connected(target, step, tls) as (reader, _):
        if asked.expect is not None:
            step(NotReady(f"connected; waiting for '{printable(asked.expect)}'", hint=_MUTE))
            await _sends(reader, asked.expect)
        if asked.stays:
            step(NotReady("connected; waiting to see whether it stays so", hint=_TOO_SHORT))
            await _stays(reader, asked.stays)


@functools.cache
def context(*, insecure: bool, ca: str | None) -> ssl.SSLContext:
    """Return the TLS context of a client. Raises ValueError if *ca* is no file of certificates."""
    try:
        made = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ValueError(f"{ca}: {error.strerror or error}") from error
    if insecure:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


@contextlib.asynccontextmanager
async def _connected(
    target: Target, step: Step, tls: ssl.SSLContext | None
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect, with TLS if *tls* is given. An error or a cancellation drops the connection at once."""
    # One round: `run` begins the next.
    dialer = safedial.Dialer(timeout=_CONNECT, happy_eyeballs_delay=0.25, policy=None, resolver=threads.resolve)
    sock = unix.connect(target.path) if target.path else await dialer.dial_async((target.host, target.port))
    options: dict[str, Any] = {}
    handshake = functools.partial(NotReady, hint=words.hint_for_tls(target))
    if tls is not None:
        step(handshake("connected; waiting for the TLS handshake"))
        # Without what only the resolver needs: the dot of an absolute name (RFC 6066 section 3), a scope.
        name = target.host.partition("%")[0].rstrip(".") or "localhost"
        options = {"ssl": tls, "server_hostname": name, "ssl_handshake_timeout": _ANSWER}
    try:
        reader, writer = await open_streams(_BUFFER, options, sock)
    except ConnectionAbortedError as error:
        if error.errno is not None:
            raise
        raise handshake(errno.ETIMEDOUT, f"no TLS handshake within {_ANSWER:g} s") from None  # asyncio's time limit
    try:
        yield reader, writer
        writer.close()  # in TLS it says so to the server
    finally:
        writer.transport.abort()  # nobody waits for what the server says to that


async def _answers(target: Target, step: Step, tls: ssl.SSLContext | None, path: str, asked: Asked) -> None:
    from safedial.cli.wait import http  # late: http.client and email behind it take 9 ms to import

    async with _connected(target, step, tls) as (reader, writer):
        step(NotReady("connected; waiting for its answer in HTTP", hint=_SLOW))
        async with _at_most(_ANSWER) as limit:
            host = target.host or "localhost"
            port = target.port or (80 if tls is None else 443)  # a Unix socket has none
            status, head = await http.ask(reader, writer, host, port, path, tls=tls is not None)
        if limit.expired():
            raise NotReady(errno.ETIMEDOUT, f"no answer in HTTP within {_ANSWER:g} s", hint=_SLOW)
        if status not in asked.statuses:
            raise NotReady(f"HTTP status {status}", hint=words.hint_for_status(status))
        if asked.expect is not None:
            step(NotReady(f"connected; waiting for '{printable(asked.expect)}' in its answer", hint=_SLOW))
            await _sends(reader, asked.expect, functools.partial(http.body, head))


async def _sends(reader: asyncio.StreamReader, text: str, read: Callable[[bytes], bytes] = lambda sent: sent) -> None:
    """Return as soon as *text* is in what the server sends, as *read* reads it."""
    wanted, data = text.encode(errors="surrogateescape"), b""  # as it was given, even if that is no UTF-8
    loop = asyncio.get_running_loop()
    end = loop.time() + _ANSWER
    async with _at_most(_ANSWER) as limit:
        while wanted not in read(data) and (more := await reader.read(_SEARCHED - len(data))):  # of 0 bytes: b""
            data += more
            limit.reschedule(min(end, loop.time() + _PAUSE))
    if wanted not in (said := read(data)):
        sent = f"'{printable(said[:60].decode(errors='replace'))}'" if said else "nothing"
        raise NotReady(f"it sent {sent}, not '{printable(text)}'", hint=_MUTE)


async def _stays(reader: asyncio.StreamReader, seconds: float) -> None:
    """Return if the server does not close the connection for so long. What it sends is dropped."""
    async with _at_most(seconds) as limit:
        while await reader.read(1 << 16):
            pass
    if not limit.expired():
        raise NotReady("it accepted the connection, and closed it again", hint=words.BEHIND)


@contextlib.asynccontextmanager
async def _at_most(seconds: float) -> AsyncGenerator[asyncio.Timeout]:
    """End the block after so many seconds, without an error. The kernel has time-outs too: these come out."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield limit
    except TimeoutError:
        if not limit.expired():
            raise
