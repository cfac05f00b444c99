"""A name server of the test's own, on port 53 of loopback. Call it in a namespace: it gets a resolv.conf of its own."""

import contextlib
import ctypes
import os
import socket
import struct
import tempfile
import threading

_CLONE_NEWNS, _MS_BIND, _MNT_DETACH = 0x20000, 4096, 2  # linux/sched.h, linux/mount.h, linux/fs.h
_NXDOMAIN, _A, _IN = 3, 1, 1  # RFC 1035 sections 4.1.1, 3.2.2 and 3.2.4


class CannotMountError(Exception):
    """This process may not replace resolv.conf."""


@contextlib.contextmanager
def silent():
    """Let the resolver ask a name server that never answers, for a minute."""
    with _asking("timeout:30 attempts:2"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        yield


@contextlib.contextmanager
def serving(names):
    """Let the resolver ask a server that knows *names*, {name: IPv4 address}, which may change meanwhile."""
    with _asking("timeout:1"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        server.settimeout(0.05)
        over = threading.Event()
        thread = threading.Thread(target=_serve, args=(server, names, over))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _serve(server, names, over):
    while not over.is_set():
        with contextlib.suppress(TimeoutError):
            query, client = server.recvfrom(512)
            server.sendto(_answer(query, names), client)


def _answer(query, names):
    labels, end = [], 12
    while query[end]:
        labels.append(query[end + 1 : end + 1 + query[end]].decode())
        end += 1 + query[end]
    question = query[12 : end + 5]
    address = names.get(".".join(labels))
    answer = b""
    if address is not None and question.endswith(struct.pack("!2H", _A, _IN)):
        answer = struct.pack("!3HIH4s", 0xC00C, _A, _IN, 0, 4, socket.inet_aton(address))
    code = _NXDOMAIN if address is None else 0
    return query[:2] + struct.pack("!5H", 0x8180 | code, 1, bool(answer), 0, 0) + question + answer


@contextlib.contextmanager
def _asking(options):
    """Give this process a mount namespace where /etc/resolv.conf names the server on loopback."""
    libc, there = ctypes.CDLL(None, use_errno=True), b"/etc/resolv.conf"
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(f"nameserver 127.0.0.1\noptions {options}\n")
        file.flush()
        if libc.unshare(_CLONE_NEWNS) or libc.mount(file.name.encode(), there, None, _MS_BIND, None):
            raise CannotMountError(os.strerror(ctypes.get_errno()))
        try:
            yield
        finally:
            libc.umount2(there, _MNT_DETACH)
