"""Dial until the local ports are exhausted, and count connections with ss."""

import subprocess

import safedial
from tests.support import dials, faults


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
