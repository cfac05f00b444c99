"""ZeroMQ dials in a thread of its own, whether the socket is used or not."""

import zmq
from recipe import socket

# Send again without an answer, and drop an old one.
socket.setsockopt(zmq.REQ_RELAXED, 1)
socket.setsockopt(zmq.REQ_CORRELATE, 1)


def use(text):
    socket.send_string(text)
    if not socket.poll(300):
        raise TimeoutError("refused, it seems: ZeroMQ does not say")
    return socket.recv_string()
