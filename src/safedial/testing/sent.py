"""What a client sent to itself, as the kernel counted it. Linux only; elsewhere nothing is known, and nothing claimed.

When the kernel frees a TCP socket, it tells sock_diag's listeners what it counted (Linux 4.2), whoever closed the
socket: TLS, an event loop, a C library. No right is needed for that, and nothing keeps a connection alive. A socket is
known by its cookie (SO_COOKIE, Linux 4.12). TCP_INFO counts what was sent since Linux 4.19.

A close by a reset (SO_LINGER) makes a socket forget its numbers (tcp_disconnect), unless it has something unread. So
Python's sockets are asked right before they close. What closes otherwise, as os.close does, can hide it that way.
"""

import _socket
import contextlib
import ctypes
import errno
import select
import socket
import struct
import threading
from collections.abc import Generator
from typing import Any

from safedial import _clock
from safedial._address import SockAddr
from safedial._clients.attributes import replacing
from safedial._tcp.hidden import AF_NETLINK, SOCK_DIAG, TCP_INFO
from safedial._tcp.steering import ON_LINUX
from safedial.testing.intercept import Connect, intercepting
from safedial.testing.scan import descriptors, tcp_socket

# linux/sock_diag.h: SKNLGRP_INET_TCP_DESTROY and SKNLGRP_INET6_TCP_DESTROY, as bits.
_FREED = 1 << 0 | 1 << 2
# linux/inet_diag.h: where a message has the cookie and its attributes, and the attribute that is a struct tcp_info.
_COOKIE_AT, _ATTRIBUTES_AT, _INFO = 60, 88, 2
# linux/tcp.h: where struct tcp_info has tcpi_bytes_sent, followed by tcpi_bytes_retrans.
_SENT_AT, _INFO_SIZE = 200, 216
# asm-generic/socket.h; Python has no name for it.
_SO_COOKIE = 57
# As much as may be asked for (net.core.rmem_max).
_BUFFER = 2**20
# asm-generic/socket.h. Every socket of the network makes a message: a filter keeps them out of the buffer.
_SO_ATTACH_FILTER = 26
# linux/inet_diag.h: where a message has the peer's port. linux/filter.h: the instructions "load the two bytes at",
# "skip so many if equal, else so many", and "return so many bytes of the message".
_PEER_PORT_AT = 22
_LOAD, _SKIP_IF, _RETURN = 0x28, 0x15, 0x06
# Seconds that the kernel may take to tell of a socket; mostly it takes one millisecond.
_PATIENCE = 0.5


class Sent:
    """The bytes that the sockets dialed to one port have sent.

    Attributes:
        incomplete: whether `count` has not learned of all, because the kernel had more to tell than the buffer takes.
    """

    def __init__(self, port: int, freed: _socket.socket | None) -> None:
        self._port, self._freed = port, freed
        self._dialed: set[int] = set()  # the cookies of those that are not freed yet
        self._seen: dict[int, int] = {}  # the most that each is known to have sent
        self._overflowed = self.incomplete = False
        # Garbage may be collected in any line here, and closes sockets.
        self._lock = threading.RLock()

    def intercept(self, sock: socket.socket, address: SockAddr, _connect: Connect) -> bool:
        """Note the socket of a connect, as an `Interceptor`."""
        if address[1] == self._port:
            with self._lock, contextlib.suppress(OSError):
                self._dialed.add(_cookie(sock))
                self._receive_all()  # now, before the messages are too many
        return False

    def closing(self, plain: Any) -> Any:
        """Return what takes the place of `socket.socket._real_close`, where all closes of a socket end."""

        def real_close(sock: socket.socket, *args: Any, **kwds: Any) -> Any:
            with contextlib.suppress(OSError):  # it is closed, or of another family
                self._look(sock)
            return plain(sock, *args, **kwds)

        return real_close

    def count(self) -> int:
        """Return how many bytes they have sent."""
        if self._freed is None:
            return 0
        comes = select.poll()
        comes.register(self._freed, select.POLLIN)
        end = _clock.real() + _PATIENCE
        while True:
            with self._lock:
                in_use = self._look_at_all()  # first: of one that is freed meanwhile, the message comes next
                self._receive_all()
                left = end - _clock.real()
                if self._dialed <= in_use or left <= 0:
                    self.incomplete = self._overflowed and not self._dialed <= in_use
                    return sum(self._seen.values())
            comes.poll(10)  # milliseconds; without the lock, because other threads may close sockets

    def _receive_all(self) -> None:
        while self._freed is not None and self._receive_one(self._freed):
            pass

    def _receive_one(self, freed: _socket.socket) -> bool:
        """Receive a message. Return whether one came."""
        try:
            message = freed.recv(65536)
        except OSError as error:
            self._overflowed |= error.errno == errno.ENOBUFS
            return error.errno == errno.ENOBUFS  # it is told once, and the next one comes
        (cookie,) = struct.unpack_from("=Q", message, _COOKIE_AT)
        if cookie in self._dialed:
            self._dialed.discard(cookie)
            self._note(cookie, _info(message))
        return True

    def _look_at_all(self) -> set[int]:
        """Look at the sockets that are open, and return their cookies."""
        found: set[int] = set()
        for number in descriptors():
            with contextlib.suppress(OSError), tcp_socket(number) as sock:
                if sock is not None:
                    found.add(self._look(sock))
        return found

    def _look(self, sock: _socket.socket) -> int:
        cookie = _cookie(sock)
        with self._lock:
            if cookie in self._dialed:
                self._note(cookie, sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, _INFO_SIZE))
        return cookie

    def _note(self, cookie: int, info: bytes) -> None:
        self._seen[cookie] = max(self._seen.get(cookie, 0), _sent(info))


@contextlib.contextmanager
def sent_to(port: int) -> Generator[Sent]:
    """Yield the `Sent` of the sockets that this process dials to *port*, where nobody listens, in the meantime."""
    with contextlib.ExitStack() as stack:
        freed = None
        if ON_LINUX:
            with contextlib.suppress(OSError):  # a sandbox may deny it
                freed = stack.enter_context(contextlib.closing(_listener(port)))
        sent = Sent(port, freed)
        if freed is not None:
            stack.enter_context(intercepting(sent.intercept))
            stack.enter_context(replacing(socket.socket, "_real_close", sent.closing))
        yield sent


def _listener(port: int) -> _socket.socket:
    listener = _socket.socket(AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        with contextlib.suppress(OSError):  # a sandbox may deny it
            _let_only_pass(listener, port)
        listener.bind((0, _FREED))
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _let_only_pass(listener: _socket.socket, port: int) -> None:
    """Let only messages pass about sockets whose peer's port was *port*, or is forgotten."""
    # A connect that fails, or a close by a reset, makes a socket forget its peer (tcp_disconnect).
    program = b"".join(
        struct.pack("=HBBI", *each)
        for each in (
            (_LOAD, 0, 0, _PEER_PORT_AT),
            (_SKIP_IF, 1, 0, port),
            (_SKIP_IF, 0, 1, 0),
            (_RETURN, 0, 0, 2**32 - 1),
            (_RETURN, 0, 0, 0),
        )
    )
    memory = ctypes.create_string_buffer(program)
    listener.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program) // 8, ctypes.addressof(memory))
    )


def _cookie(sock: _socket.socket) -> int:
    cookie: int = struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))[0]
    return cookie


def _info(message: bytes) -> bytes:
    """Return the struct tcp_info in a message of sock_diag, b"" if there is none."""
    place = _ATTRIBUTES_AT
    while place + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, place)
        if kind == _INFO or length < 4:
            return message[place + 4 : place + length]
        place += length + 3 & ~3
    return b""


def _sent(info: bytes) -> int:
    if len(info) < _INFO_SIZE:
        return 0  # an older kernel
    sent, again = struct.unpack_from("=QQ", info, _SENT_AT)
    return int(sent - again)
