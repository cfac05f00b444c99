"""Is my reconnect loop resilient? The naive one is not, the same loop with safe_connect is.

python -m pytest examples/test_reconnect_loop.py
"""

import socket

import pytest

from safedial import safe_connect
from safedial.testing import assert_resilient


def reconnect(dial, host, port):
    for _ in range(5):
        try:
            return dial((host, port), timeout=0.5)
        except ConnectionRefusedError as error:
            refused = error
    raise refused


def test_naive_loop_meets_itself():
    with pytest.raises(AssertionError, match="it was connected to itself"):
        assert_resilient(lambda host, port: reconnect(socket.create_connection, host, port))


def test_same_loop_with_safe_connect_does_not():
    assert_resilient(lambda host, port: reconnect(safe_connect, host, port))
