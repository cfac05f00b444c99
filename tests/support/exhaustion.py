"""Use up the local ports, and count connections with ss."""

import contextlib
import socket
import subprocess
from pathlib import Path

import safedial
from safedial._tcp import settings_thread, usage
from safedial._tcp.selfconnect import RESET
from tests.support import dials, faults

# Each side of an even port has an even number of ports. Debian's 6.1, which has a backport of IP_LOCAL_PORT_RANGE, may
# leave out one port of a side with an odd number: it goes through the even ports first, in pairs.
RANGE = (40000, 40010)


def exhaust(name, port, source, host="127.0.0.1"):
    """Dial a server on *port* until the local ports are exhausted; return the error and the count of ss."""
    source = source and tuple(source)
    listening = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host.removeprefix("::ffff:"))
    with faults.listener(listening, port):
        address, held, found = (host, port), [], {}
        try:
            for _ in range(30):
                held += [keep(name, address, source)]
        except OSError as error:
            found["error"] = type(error).__name__
            usage = error.usage
            found["text"] = str(error)
            found |= {"range": [usage.low, usage.high], "in use": usage.in_use, "time wait": usage.time_wait}
        found["ss"] = count_with_ss(port)
        found["connected"] = len(held)
        found["local ports"] = sorted(sock.getsockname()[1] for sock in held)
        for sock in held:
            sock.close()
    return found


def keep(name, address, source):
    """Dial, and return the socket."""
    dialer = safedial.Dialer(source_address=source, policy=None)
    if name == "Dialer.dial_async":
        return dials.run(dialer.dial_async(address))
    if name == "open_connection":
        return dials.run(_open_and_keep(address, source))
    return safedial.safe_connect(address, None, source, policy=None)


async def _open_and_keep(address, source):
    _, writer = await safedial.open_connection(*address, local_addr=source, policy=None)
    return writer.get_extra_info("socket")._sock.dup()


def count_with_ss(port, state="all"):
    """Return the number of connections to *port*."""
    command = ["ss", "-Htn", "state", state, f"( dport = :{port} )"]
    return len(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())


@contextlib.contextmanager
def used_up(port, host="127.0.0.1", *, closed=False):
    """Let no local port be free to reach a server on *port*: connections have all, or if *closed* their TIME_WAIT."""
    with faults.listener(host, port) as server, contextlib.ExitStack() as held:
        address = server.getsockname()[:2]
        while True:
            try:
                sock = safedial.safe_connect(address, policy=None)
            except safedial.PortsExhaustedError:
                break
            far = server.accept()[0]
            if not closed:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            for end in (far, sock):
                held.enter_context(end)
            if closed:
                sock.close()  # the side that closes first is the one in TIME_WAIT
                far.close()
        yield address


def forget():
    """Let the figures be too old to be believed, and the settings too."""
    for cache in (usage._counted, settings_thread._looks):
        cache.clear()


def sysctl(name, value):
    """Set net.ipv4.*name* in this network namespace."""
    Path(f"/proc/sys/net/ipv4/{name}").write_text(f"{value}\n")
