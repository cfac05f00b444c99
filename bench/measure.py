"""Measuring contenders side by side, and the table that shows them."""

import random
import socket
import statistics
import struct

# SO_LINGER (1, 0): close() resets the connection.
RESET = struct.pack("ii", 1, 0)
UNITS = {"us": 1e6, "ms": 1e3, "s": 1, "MB": 1e-6}


def in_turn(contenders, rounds, sample):
    """Return the samples of each contender: ``sample(contender)``, once a round, in random order.

    In a fixed order, each contender finds the caches as the same other contender left them, which
    makes a difference of a tenth.
    """
    taken = {name: [] for name in contenders}
    names, shuffle = list(contenders), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(names)
        for name in names:
            taken[name].append(sample(contenders[name]))
    return taken


def drop(sock):
    """Close *sock* with a reset, so that neither end is left in TIME_WAIT."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


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
