"""Whether what a client dials is in a server's way: its self-connects, and its ordinary connections.

    python -m bench.in_the_way [--seconds 2] [--starts 100]

Everything is counted and nothing is timed, in network namespaces (Linux, without root). First, two processes dial a
dead port in a tight loop, while a server, which sets SO_REUSEADDR, binds that port every 10 ms. The kernel has 20 local
ports to draw, and draws the even ones first. So a tenth of the dials connect to themselves if nothing is steered and a
self-connect is released at once. `create_connection`'s loops close theirs, which leaves the port in TIME_WAIT. Then a
server starts on a port that the kernel drew for a connection to another server: while that connection lives, and when
it is in TIME_WAIT.
"""

import argparse
import functools
import platform
import socket

from tests.support import holds, namespace, storm

import safedial
from safedial._tcp import steering

HOST, LOW, PORTS = "127.0.0.1", 40000, 20
OUTSIDE = 5000  # a port that no range has: it is not steered off
WITHOUT = [(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)]
PLAIN = "socket.create_connection"


def safe(**options):
    return functools.partial(safedial.safe_connect, policy=None, **options)


def installed(address):
    safedial.install()
    try:
        return socket.create_connection(address)
    finally:
        safedial.uninstall()


LOOPS = {
    PLAIN: socket.create_connection,
    "safe_connect, unsteered, with SO_REUSEADDR 0": safe(steer=False, socket_options=WITHOUT),
    "safe_connect, unsteered": safe(steer=False),
    "safe_connect, with SO_REUSEADDR 0": safe(socket_options=WITHOUT),
    "safe_connect": safe(),
}
# Each with the other server's port.
CONNECTIONS = {
    PLAIN: (socket.create_connection, OUTSIDE),
    "safe_connect, unsteered": (safe(steer=False), OUTSIDE),
    "safe_connect": (safe(), LOW + 1),
    f"{PLAIN} under install(), unsteered": (installed, OUTSIDE),
    f"{PLAIN} under install()": (installed, LOW + 1),
}


def failed_starts(name, times):
    """Return how many of a server's starts failed, of so many beside a connection that lives, and in TIME_WAIT."""
    (dial, port), alive, ended = CONNECTIONS[name], 0, 0
    for number in range(times):
        # The range moves on, so that it does not contain what an earlier connection left in TIME_WAIT.
        low = LOW + 2 + number * PORTS
        far = HOST, port if port == OUTSIDE else low + 1
        namespace.set_port_range(low, low + PORTS - 1)
        steering.read_anew()
        lives, _, _, waits = holds.starts_beside(lambda far=far: dial(far), far, HOST)
        alive += not lives
        ended += not waits
    return alive, ended


def show(title, heads, rows):
    print(f"\n{title}\n  {'':50}" + "".join(f"{head:>14}" for head in heads))
    for name, figures in rows:
        print(f"  {name:50}" + "".join(f"{figure:>14,}" for figure in figures))


def main():
    from bench import in_the_way  # the child process knows this module by its name

    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--starts", type=int, default=100)
    given = parser.parse_args()
    print(f"In namespaces with {PORTS} local ports, Python {platform.python_version()}")
    rows = []
    for name, dial in LOOPS.items():
        found = namespace.call(storm.storm, given.seconds, dial, port_range=(LOW, LOW + PORTS - 1))
        rows.append((name, (found.dials, found.self_connects, found.binds, found.failed)))
    title = f"{storm.DIALERS} loops dial a dead port, and its server binds it"
    show(title, ("dials", "self-connects", "binds", "failed binds"), rows)
    rows = []
    for name in CONNECTIONS:
        alive, ended = namespace.call(in_the_way.failed_starts, name, given.starts)
        rows.append((name, (given.starts, alive, ended)))
    title = "A server starts on the port of a connection to another server"
    show(title, ("starts", "failed: alive", "in TIME_WAIT"), rows)


if __name__ == "__main__":
    main()
