"""Measuring contenders side by side: a port, turns, samples and the table that shows them."""

import contextlib
import random
import socket
import statistics
import struct

from safedial._tcp import steering

HOST = "127.0.0.1"
UNITS = {"us": 1e6, "ms": 1e3, "s": 1, "MB": 1e-6}


def bound():
    """Return a socket bound to a port inside the ephemeral range, one that the kernel prefers to draw."""
    ports = steering.read_range() or steering.PortRange(0, 0)
    # Linux tries the ports with the parity of the low end first (__inet_hash_connect).
    for port in range(ports.low + (ports.high - ports.low) // 6 * 2, ports.high + 1, 2):
        sock = socket.socket()
        with contextlib.suppress(OSError):
            sock.bind((HOST, port))
            return sock
        sock.close()
    raise SystemExit("no free port inside the ephemeral range")


def drop(sock):
    """Close *sock* with a reset, so that neither end is left in TIME_WAIT."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def turns(contenders, rounds):
    """Yield each contender's name once a round, in random order.

    In a fixed order, each contender finds the caches as the same other contender left them, which
    makes a difference of a tenth.
    """
    names, shuffle = list(contenders), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(names)
        yield from names


def in_turn(contenders, rounds, sample):
    """Return the samples of each contender. *sample* takes a contender and returns a number."""
    taken = {name: [] for name in contenders}
    for name in turns(contenders, rounds):
        taken[name].append(sample(contenders[name]))
    return taken


async def in_turn_async(contenders, rounds, sample):
    """Do the same with a coroutine function."""
    taken = {name: [] for name in contenders}
    for name in turns(contenders, rounds):
        taken[name].append(await sample(contenders[name]))
    return taken


class Table:
    """Prints the median of each contender and its ratio to the first one's; in Markdown the ratio alone."""

    def __init__(self, heading, column, *, markdown=False):
        self.markdown = markdown
        print(f"| {heading} | {column} |\n|---|---|" if markdown else f"{heading}, {column}".replace("`", ""))

    def add(self, title, taken, unit="us"):
        """Add a row for each contender in *taken*, which has its samples."""
        medians = {name: statistics.median(samples) for name, samples in taken.items()}
        base = next(iter(medians.values()))
        print(f"| **{title}** | |" if self.markdown else f"\n{title}".replace("`", ""))
        for name, median in medians.items():
            figure, ratio = f"{median * UNITS[unit]:8.2f} {unit}", f"{median / base:.2f}"
            print(f"| {name} | {ratio} |" if self.markdown else f"  {name.replace('`', ''):58} {figure:12} {ratio:>6}")
