"""A requests session that survives an outage of a server on its own host.

Starts a web server, stops it during the session, and starts it again on the same port. Meanwhile the session's
own retries go on dialing. A plain session may then connect to itself and raise BadStatusLine('GET / ...').

pip install 'safedial[requests]'; python examples/requests_session.py
"""

import contextlib
import socket

import requests
from urllib3.util import Retry

from safedial.adapters.requests import protect
from safedial.testing import Outage

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"


def answer(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(ANSWER)


def main() -> None:
    # The session's own eight retries, after 0, 0.1, 0.2, 0.4 ... seconds.
    retries = Retry(total=8, backoff_factor=0.05)
    with Outage(answer) as server, contextlib.closing(protect(requests.Session(), max_retries=retries)) as session:
        url = f"http://{server.host}:{server.port}/"
        answers = [session.get(url, timeout=5).text]
        server.refuse_for(dials=5)
        answers.append(session.get(url, timeout=5).text)
    print(f"{len(answers)} answers, all right: {set(answers) == {'hello'}}")


if __name__ == "__main__":
    main()
