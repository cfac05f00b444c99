"""A naive reconnect loop connects to itself; with safe_connect the same loop is refused.

python -m pytest examples/test_reconnect_loop.py
"""

import contextlib
import socket

from safedial import is_self_connected, safe_connect


def self_connects(dial, port):
    for _ in range(5):
        with contextlib.suppress(ConnectionRefusedError), dial(("127.0.0.1", port)) as sock:
            return is_self_connected(sock)


def test_only_the_naive_loop_self_connects(self_connect, dead_port):
    self_connect(dead_port)
    assert (self_connects(socket.create_connection, dead_port), self_connects(safe_connect, dead_port)) == (True, None)
