"""One request and the status of its answer, over streams. `http.client` writes the one and reads the other."""

import asyncio
import contextlib
import http.client
import io
import re
from typing import Any

from safedial._address import printable
from safedial.cli.wait import words
from safedial.cli.wait.progress import NotReady

# Bytes. http.client takes no longer line.
_MOST = 1 << 16
_HOLDS = "Does it speak HTTP on this port? --http holds for every TARGET."
# An answer of which another head is the real one, such as 103 Early Hints (RFC 9110 section 15.2).
_INTERIM = re.compile(rb"HTTP/1\.\d 1(?!01)")


class _Wire:
    """Takes the place of a socket in `http.client`."""

    def __init__(self) -> None:
        self.sent, self.head = b"", b""

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self.head)

    def close(self) -> None:
        pass


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, path: str, *, tls: bool
) -> tuple[int, bytes]:
    """Send a GET for *path*, and return status and head of the answer. Its body is still to be read.

    Raises:
        NotReady: it is no answer in HTTP.
        ValueError: *path* can't stand in a request.
        OSError: the connection was lost.
    """
    wire: Any = _Wire()
    connection = http.client.HTTPConnection(host, port)
    connection.default_port = 443 if tls else 80  # which the Host header leaves out
    connection.sock = wire
    try:
        connection.request("GET", path, headers={"User-Agent": "safedial", "Accept": "*/*", "Connection": "close"})
    except http.client.InvalidURL as error:
        raise ValueError(str(error)) from None
    writer.write(wire.sent)
    wire.head = await _head(reader)
    while _INTERIM.match(wire.head):
        wire.head = await _head(reader)
    try:
        status = connection.getresponse().status
    except http.client.RemoteDisconnected:
        raise NotReady("it closed the connection without an answer", hint=f"{words.BEHIND} {_HOLDS}") from None
    except http.client.HTTPException:
        sent = printable(wire.head[:60].decode(errors="replace"))
        hint = f"{_HOLDS} If it speaks HTTPS: https:// or --tls"
        if wire.head.startswith(b"HTTP/"):
            hint = "It speaks HTTP, but not as Python can read it: HTTP/1.1, with at most 100 headers."
        raise NotReady(f"no answer in HTTP: {sent}", hint=hint) from None
    if not wire.head.endswith((b"\n\r\n", b"\n\n")):
        raise NotReady("it closed the connection before its answer was whole", hint=words.BEHIND)
    return status, wire.head


def body(head: bytes, data: bytes) -> bytes:
    """Return what *data*, the beginning of the body that follows *head*, says: without the sizes of its chunks."""
    wire: Any = _Wire()
    wire.head = head + data
    response = http.client.HTTPResponse(wire)
    response.begin()
    found = b""
    with contextlib.suppress(http.client.HTTPException):  # more of it is to come
        while piece := response.read1():
            found += piece
    return found


async def _head(reader: asyncio.StreamReader) -> bytes:
    """Return the lines until an empty one, or the end of the connection."""
    head = b""
    try:
        while (line := await reader.readline()).strip():
            head += line
            if len(head) > _MOST:
                raise ValueError
    except ValueError:  # readline()'s for a line that is too long
        raise NotReady("the head of its answer is larger than 64 KiB") from None
    return head + line
