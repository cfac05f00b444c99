"""A naive client is connected to itself, by the kernel; safe_connect is refused.

python -m pytest examples/test_reconnect_loop.py
"""

import socket

import pytest

from safedial import SelfConnectError, is_self_connected, safe_connect


def test_only_the_naive_client_is_connected_to_itself(self_connect, dead_port):
    self_connect(dead_port)
    with pytest.raises(SelfConnectError):
        safe_connect(("127.0.0.1", dead_port))
    with socket.create_connection(("127.0.0.1", dead_port)) as sock:
        assert is_self_connected(sock)
