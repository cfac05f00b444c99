"""A port forwarder, as docker-proxy or a load balancer is one: it accepts even if nobody is behind it.

It is a process of its own, ``python -I forwarder.py TO MODE PORTS``, because a client may hold the GIL while it waits
for an answer that must be forwarded (mysql-connector's C extension does). It prints its ports, and the number of
connections that each has had, after each line that it reads.
"""

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys

HOST = "127.0.0.1"
# Seconds that a client has to close its end after ours: what it still sends would turn the FIN into a reset.
_LINGER = 0.5
# SO_LINGER, on, for 0 s: close with a reset.
_RESET = struct.pack("ii", 1, 0)


class Forwarder:
    """Forwards connections to port *to*, in *mode*: ``pass``, ``fin``, ``rst``, or ``silent``, which never answers.

    Attributes:
        ports: where it listens; all do the same.
    """

    def __init__(self, to, mode="pass", ports=1):
        self._command = [sys.executable, "-I", __file__, str(to), mode, str(ports)]

    def __enter__(self):
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ports = self._read()
        return self

    def __exit__(self, *error):
        with self._process:  # it ends at the end of its input
            self._process.communicate()

    def recover(self):
        """Forward from now on, and reset the connections that wait for an answer."""
        self._tell("pass")

    def accepted(self):
        """Return how many connections each port has had."""
        return self._tell("")

    def _tell(self, mode):
        self._process.stdin.write(f"{mode}\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self):
        return list(map(int, self._process.stdout.readline().split()))


class _Process:
    """The other side."""

    def __init__(self, to, mode, ports):
        self._to, self._mode = int(to), mode
        self._accepted = [0] * int(ports)
        # asyncio refers to tasks weakly: a garbage collection would take them away.
        self._tasks, self._silent = set(), set()

    async def serve(self):
        servers = [
            await asyncio.start_server(lambda *ends, place=place: self._handle(place, *ends), HOST, 0)
            for place in range(len(self._accepted))
        ]
        print(*[server.sockets[0].getsockname()[1] for server in servers], flush=True)  # noqa: T201  # the protocol
        while line := await asyncio.to_thread(sys.stdin.readline):
            self._mode = line.strip() or self._mode
            for writer in self._silent if self._mode == "pass" else ():
                _reset(writer)
            print(*self._accepted, flush=True)  # noqa: T201

    async def _handle(self, place, reader, writer):
        self._accepted[place] += 1
        self._tasks.add(asyncio.current_task())
        with contextlib.closing(writer), contextlib.suppress(OSError):
            if self._mode == "pass":
                await self._forward(reader, writer)
            elif self._mode == "silent":
                self._silent.add(writer)
                await reader.read()
            elif self._mode == "fin":
                writer.write_eof()
                async with asyncio.timeout(_LINGER):
                    await reader.read()
            else:
                _reset(writer)

    async def _forward(self, reader, writer):
        far_reader, far_writer = await asyncio.open_connection(HOST, self._to)
        with contextlib.closing(far_writer):
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


def _reset(writer):
    with contextlib.suppress(OSError):  # it is closed
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def _pump(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


if __name__ == "__main__":
    process = _Process(*sys.argv[1:])
    asyncio.new_event_loop().run_until_complete(process.serve())
    os._exit(0)  # with all connections that are left
