"""What it costs to find out whether a new connection is connected to itself, as a ratio to a dial without the check.

    python -m bench.check [--rounds 20000]

Each contender asks the kernel in another way. Only some see a self-connect behind a load balancer: see
`safedial._tcp.selfconnect`.
"""

import argparse
import platform
import socket
import time

from bench.measure import Table, drop, in_turn

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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20000)
    rounds = parser.parse_args().rounds
    with socket.create_server((HOST, testing.dead_port()), backlog=4096) as server:
        addr = server.getsockname()

        def sample(check):
            began = time.perf_counter()
            sock = socket.create_connection(addr, timeout=5)
            check(sock, addr[1])
            taken = time.perf_counter() - began
            drop(server.accept()[0])
            drop(sock)
            return taken

        table = Table(f"Median of {rounds:,} dials each, in turn", f"Python {platform.python_version()}")
        table.add("A dial and its check", in_turn(CHECKS, rounds, sample))


if __name__ == "__main__":
    main()
