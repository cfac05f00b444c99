"""The ways to dial with safedial behind one signature, so that one test covers them all."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import safedial

try:
    import uvloop
except ImportError:  # not built for this interpreter
    uvloop = None


@dataclass(frozen=True)
class Ends:
    """Local and peer address of a connection that was made and closed again."""

    local: Any
    peer: Any


def run(coroutine, loop_factory=None):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(coroutine)


def _safe_connect(host, port, *, source=None, timeout=None, **options):
    with safedial.safe_connect((host, port), timeout, source, **options) as sock:
        return Ends(sock.getsockname(), sock.getpeername())


def _dial(host, port, *, source=None, all_errors=False, **options):
    with safedial.Dialer(source_address=source, **options).dial((host, port), all_errors=all_errors) as sock:
        return Ends(sock.getsockname(), sock.getpeername())


async def _open_connection(host, port, *, source=None, **options):
    _, writer = await safedial.open_connection(host, port, local_addr=source, **options)
    ends = Ends(writer.get_extra_info("sockname"), writer.get_extra_info("peername"))
    writer.close()
    await writer.wait_closed()
    return ends


async def _dial_async(host, port, *, source=None, all_errors=False, **options):
    sock = await safedial.Dialer(source_address=source, **options).dial_async((host, port), all_errors=all_errors)
    with sock:
        assert sock.gettimeout() == 0, "dial_async promises a non-blocking socket"
        return Ends(sock.getsockname(), sock.getpeername())


DIALS: dict[str, Callable[..., Ends]] = {
    "safe_connect": _safe_connect,
    "Dialer.dial": _dial,
    "open_connection": lambda *args, **kwds: run(_open_connection(*args, **kwds)),
    "Dialer.dial_async": lambda *args, **kwds: run(_dial_async(*args, **kwds)),
}


@contextlib.contextmanager
def _socket_in_a_guard(address, options):
    with safedial.guard():
        sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        try:
            for option in options:
                sock.setsockopt(*option)
            yield sock
        except BaseException:
            sock.close()
            raise


def _guarded(address, *options):
    with _socket_in_a_guard(address, options) as sock:
        sock.connect(address)
    return sock


async def _guarded_in_a_loop(address, *options):
    with _socket_in_a_guard(address, options) as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
        sock.setblocking(True)
    return sock


# A client's own socket in a guard, with socket options: each returns the socket, connected and blocking.
GUARDED: dict[str, Callable[..., socket.socket]] = {
    "guard": _guarded,
    "guard, asyncio": lambda *args: run(_guarded_in_a_loop(*args)),
}
LOOPS = {"asyncio": None}
if uvloop is not None:
    DIALS["open_connection, uvloop"] = lambda *args, **kwds: run(_open_connection(*args, **kwds), uvloop.new_event_loop)
    LOOPS["uvloop"] = uvloop.new_event_loop
