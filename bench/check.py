"""What it costs to find out whether a new connection is connected to itself, as a ratio to a dial without the check.

    python -m bench.check [--rounds 20000]

Each contender asks the kernel in another way. Only some see a self-connect behind a load balancer: see
`safedial._tcp.selfconnect`.
"""

import argparse
import platform
import socket
import struct
import time

from bench.measure import Table, drop, in_turn

from safedial import testing

HOST = "127.0.0.1"
# linux/tcp.h; linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h
TCP_INFO_SIZE, SEGMENTS_IN = 144, slice(140, 144)
SOCK_DIAG, SOCK_DIAG_BY_FAMILY, REQUEST, NO_COOKIE = 4, 20, 1, 0xFFFFFFFF
ONE = struct.pack("=I", 1)


def nothing(sock, port):
    pass


def local_port(sock, port):
    assert sock.getsockname()[1] != port


def both_addresses(sock, port):
    assert sock.getsockname()[1] != sock.getpeername()[1]


def tcp_info(sock, port):
    local_port(sock, port)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)[SEGMENTS_IN] == ONE


def sock_diag(sock, port):
    """Ask for the connection with these addresses: nobody else's answer can be rewritten."""
    local_port(sock, port)
    ends = [sock.getsockname(), sock.getpeername()]
    ports = b"".join(struct.pack("!H", end[1]) for end in ends)
    hosts = b"".join(socket.inet_aton(end[0]).ljust(16, b"\0") for end in ends)
    query = struct.pack("=BBxxI", socket.AF_INET, socket.IPPROTO_TCP, 0xFFF) + ports + hosts
    query += struct.pack("=III", 0, NO_COOKIE, NO_COOKIE)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(query), SOCK_DIAG_BY_FAMILY, REQUEST, 0, 0) + query)
        assert struct.unpack_from("=IH", netlink.recv(4096))[1] == SOCK_DIAG_BY_FAMILY


CHECKS = {
    "no check": nothing,
    "the local port": local_port,
    "the local port and the peer's": both_addresses,
    "the local port and TCP_INFO": tcp_info,
    "the local port and sock_diag": sock_diag,
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
