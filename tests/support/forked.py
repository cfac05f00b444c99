"""Run as a program: forks children while a thread makes the first dial of the process; writes how many hang.

    python -m tests.support.forked KIND CHILDREN

A child that waits for an import lock waits for ever, so the time limit only says how long the test takes if it fails.
Names are resolved without the C library: a child may hang in glibc's getaddrinfo(), whoever calls it (2.36). asyncio's
policy is made first, because its lock is one that fork() does not wait for (Python 3.11).
"""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
import threading
import time

LIMIT = 30  # seconds
IP_LOCAL_PORT_RANGE = 51  # linux/in.h


def first_dial(kind, port):
    """Make a dial of *kind*: of a server on *port*, or of a dead port."""
    import safedial  # loaded before the first call

    dead = port + 1 if port < 65000 else port - 1
    if kind == "success":
        safedial.safe_connect(("name", port), resolver=resolve).close()
    elif kind == "refused":
        with contextlib.suppress(ConnectionRefusedError):
            safedial.safe_connect(("127.0.0.1", 1), timeout=5)
    elif kind == "self_connect":
        draw = [(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("=I", dead << 16 | dead))]
        with contextlib.suppress(OSError):
            safedial.safe_connect(("127.0.0.1", dead), socket_options=draw)
    elif kind == "guard":
        with safedial.guard():
            socket.create_connection(("127.0.0.1", port)).close()
    elif kind == "wrap":
        safedial.wrap(socket.create_connection)(("127.0.0.1", port)).close()
    elif kind == "dial_async":
        asyncio.run(dial_async(port))
    elif kind == "reconnect":
        safedial.safe_connect(("127.0.0.1", port), policy=safedial.reconnect()).close()


async def dial_async(port):
    import safedial

    sock = await safedial.Dialer(resolver=resolve).dial_async(("name", port))
    sock.close()


def resolve(host, port, **hints):
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


def child(kind, port):
    pid = os.fork()
    if not pid:
        code = 1
        try:
            signal.alarm(2 * LIMIT)
            first_dial(kind, port)
            code = 0
        finally:
            os._exit(code)
    return pid


def ended(pid, until):
    """Return whether the child ends until then; end it if it does not."""
    while time.monotonic() < until:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def ends_well(act):
    """Run *act* in a forked child; return whether it raised nothing."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            signal.alarm(LIMIT)
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def main(kind, children):
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        port = server.getsockname()[1]
        import safedial  # noqa: F401  # what it loads late is what this is about

        asyncio.get_event_loop_policy()
        thread = threading.Thread(target=first_dial, args=(kind, port))
        sys.setswitchinterval(1e-5)
        thread.start()
        pids = []
        for _ in range(children):
            pids.append(child(kind, port))
            time.sleep(0.001)
        thread.join()
        until = time.monotonic() + LIMIT
        sys.stdout.write(str(sum(not ended(pid, until) for pid in pids)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
