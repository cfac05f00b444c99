"""A port forwarder, as docker-proxy or a load balancer is one: it accepts even if nobody is behind it."""

import asyncio
import contextlib
import socket
import threading

from safedial._tcp.selfconnect import RESET

HOST = "127.0.0.1"
# Seconds that a client has to close its end after ours: what it still sends would turn the FIN into a reset.
_LINGER = 0.5


class Forwarder:
    """Forwards connections to port *to*.

    Attributes:
        mode: what happens to the next connection: ``pass``, ``fin``, ``rst``, or ``silent``, which is never answered.
        accepted: how many connections there were.
    """

    def __init__(self, to, mode="pass"):
        self.mode, self.accepted = mode, 0
        self._to = to
        self._ready = threading.Event()
        self._silent = set()
        self._tasks = set()  # asyncio refers to tasks and readers weakly: a collection would take them away

    def __enter__(self):
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=asyncio.run, args=[self._serve()], name="forwarder")
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *error):
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def recover(self):
        """Pass connections on, and hang up on those that wait for an answer."""
        self.mode = "pass"
        for writer in list(self._silent):
            self._loop.call_soon_threadsafe(writer.close)

    async def _serve(self):
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._handle, sock=self._listener)
        self._ready.set()
        await self._over.wait()
        server.close()
        await asyncio.sleep(0)  # the last connection may have no task yet
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks)

    async def _handle(self, reader, writer):
        self.accepted += 1
        self._tasks.add(asyncio.current_task())
        # CancelledError: at the end. In Python 3.11 asyncio reports a handler that was cancelled.
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
            if self.mode == "pass":
                await self._forward(reader, writer)
            elif self.mode == "silent":
                self._silent.add(writer)
                await reader.read()
            elif self.mode == "fin":
                writer.write_eof()
                async with asyncio.timeout(_LINGER):
                    await reader.read()
            else:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()

    async def _forward(self, reader, writer):
        far_reader, far_writer = await asyncio.open_connection(HOST, self._to)
        with contextlib.closing(far_writer):
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
