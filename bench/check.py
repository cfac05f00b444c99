"""What it costs to find out whether a new connection is connected to itself.

    python -m bench.check [--rounds 20000]

Each row has the median of a dial with its check, and how much more that is than in the row above. Each contender asks
the kernel in another way. Only some see a self-connect behind a load balancer: see `safedial._tcp.selfconnect`. Then
the same for SO_REUSEADDR, which is set before the dial: see `safedial._tcp.connect`.
"""

import argparse
import platform
import socket
import statistics
import time
from functools import partial

from bench.measure import drop, in_turn

from safedial import testing
from safedial._tcp import hidden

HOST = "127.0.0.1"


def nothing(sock, port):
    pass


def local_port(sock, port):
    assert sock.getsockname()[1] != port


def both_addresses(sock, port):
    assert sock.getsockname()[1] != sock.getpeername()[1]


def tcp_info(sock, port):
    both_addresses(sock, port)
    assert not hidden.is_suspicious(sock)


def sock_diag(sock, port):
    tcp_info(sock, port)
    assert not hidden.is_found(sock, sock.getsockname())


CHECKS = {
    "no check": nothing,
    "the local port": local_port,
    "both addresses": both_addresses,
    "both addresses and TCP_INFO": tcp_info,
    "both addresses, TCP_INFO and sock_diag": sock_diag,
}


def bare(addr, options):
    sock = socket.socket()
    for option in options:
        sock.setsockopt(*option)
    sock.connect(addr)
    return sock


def checked(addr, check):
    sock = socket.create_connection(addr, timeout=5)
    check(sock, addr[1])
    return sock


DIALS = {
    "A dial and its check": {name: partial(checked, check=check) for name, check in CHECKS.items()},
    "A bare socket and its options": {
        "no option": partial(bare, options=()),
        "SO_REUSEADDR": partial(bare, options=[(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)]),
    },
}


def show(title, taken):
    print(f"\n{title}")
    above = None
    for name, samples in taken.items():
        median = statistics.median(samples)
        more = f"{(median / above - 1) * 100:+8.0f} %" if above else ""
        print(f"  {name:40}{median * 1e6:8.2f} us{more}")
        above = median


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20000)
    rounds = parser.parse_args().rounds
    with socket.create_server((HOST, testing.dead_port()), backlog=4096) as server:
        addr = server.getsockname()

        def sample(dial):
            began = time.perf_counter()
            sock = dial(addr)
            taken = time.perf_counter() - began
            drop(server.accept()[0])
            drop(sock)
            return taken

        print(
            f"Median of {rounds:,} dials each, in turn, and more than the row above, Python {platform.python_version()}"
        )
        for title, dials in DIALS.items():
            show(title, in_turn(dials, rounds, sample))


if __name__ == "__main__":
    main()
