"""The reconnect loop in asyncio; see reconnect_loop.py.

python examples/reconnect_loop_asyncio.py
"""

import asyncio
import logging

import safedial


class EchoServer:
    """A server that sends back what it receives."""

    def __init__(self) -> None:
        self.clients: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self.server.close()
        while self.clients:
            for client in self.clients:
                client.transport.abort()
            await asyncio.sleep(0)
        await self.server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.add(writer)
        try:
            while data := await reader.read(100):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # stopped
        finally:
            writer.close()
            self.clients.discard(writer)


async def ask(host: str, port: int, questions: int, between: float) -> list[bytes]:
    """Ask *questions* times, and connect again whenever the connection is lost."""
    answers: list[bytes] = []
    async for connection in safedial.connections((host, port), timeout=5, policy=safedial.reconnect(within=30)):
        async with connection as (reader, writer):
            while len(answers) < questions:
                writer.write(b"still there? ")
                await writer.drain()
                answer = await reader.read(100)
                if not answer:
                    raise ConnectionResetError("the server is gone")
                answers.append(answer)
                await asyncio.sleep(between)
            break
    return answers


async def main() -> None:
    server = EchoServer()
    await server.start()
    loop = asyncio.create_task(ask("127.0.0.1", server.port, questions=20, between=0.05))
    await asyncio.sleep(0.2)
    logging.info("server stops")
    await server.stop()
    await asyncio.sleep(0.5)
    logging.info("server starts again")
    await server.start()
    answers = await loop
    await server.stop()
    print(f"{len(answers)} answers, all right: {set(answers) == {b'still there? '}}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)5d ms  %(message)s")
    asyncio.run(main())
