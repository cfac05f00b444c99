"""A naive reconnect loop meets itself; the same loop with safe_connect finds nobody.

python -m pytest examples/test_reconnect_loop.py
"""

import contextlib
import socket

from safedial import is_self_connected, safe_connect


def meets_itself(dial, port):
    for _ in range(5):
        with contextlib.suppress(ConnectionRefusedError), dial(("127.0.0.1", port)) as sock:
            return is_self_connected(sock)


def test_only_the_naive_loop_meets_itself(self_connect, dead_port):
    self_connect(dead_port)
    assert (meets_itself(socket.create_connection, dead_port), meets_itself(safe_connect, dead_port)) == (True, None)
