"""A reconnect loop that never connects to itself.

Runs without preparation: it starts an echo server, stops it while the loop uses it, lets the loop dial the
dead port for half a second, and starts the server again on the same port.

    python examples/reconnect_loop.py
"""

import logging
import socket
import threading
import time

import safedial


class EchoServer(threading.Thread):
    """A server that sends back what it receives, to a single client."""

    def __init__(self, port: int = 0) -> None:
        super().__init__()
        self.listener = socket.create_server(("127.0.0.1", port))
        self.address: tuple[str, int] = self.listener.getsockname()
        self.client: socket.socket | None = None
        self.start()

    def run(self) -> None:
        try:
            self.client, _ = self.listener.accept()
            while data := self.client.recv(100):
                self.client.sendall(data)
        except OSError:
            pass  # stopped

    def stop(self) -> None:
        for sock in (self.listener, self.client):
            if sock is not None:
                sock.shutdown(socket.SHUT_RDWR)
                sock.close()
        self.join()


def ask(address: tuple[str, int], questions: int, between: float) -> list[bytes]:
    """Ask *questions* times, and connect again whenever the connection is lost."""
    answers: list[bytes] = []
    for connection in safedial.connections(address, timeout=5, policy=safedial.reconnect(within=30)):
        with connection as sock:  # closed at the end of the block, also if the server resets it
            while len(answers) < questions:
                sock.sendall(b"still there? ")
                answer = sock.recv(100)
                if not answer:
                    raise ConnectionResetError("the server is gone")
                answers.append(answer)
                time.sleep(between)
            break
    return answers


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)5d ms  %(message)s")
    server = EchoServer()
    answers: list[bytes] = []
    loop = threading.Thread(target=lambda: answers.extend(ask(server.address, questions=20, between=0.05)))
    loop.start()
    time.sleep(0.2)
    logging.info("server stops")
    server.stop()
    time.sleep(0.5)
    logging.info("server starts again")
    server = EchoServer(server.address[1])
    loop.join()
    server.stop()
    print(f"{len(answers)} answers, all right: {set(answers) == {b'still there? '}}")


if __name__ == "__main__":
    main()
