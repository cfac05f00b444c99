"""A socket-level load balancer, as in some Kubernetes networks: a BPF program rewrites the port within connect(2).

It is attached to a cgroup of its own, into which the calling process moves. That takes root.
"""

import contextlib
import ctypes
import os
import platform
import socket
import struct
import tempfile
from pathlib import Path

import pytest

from tests.support import libc

# linux/bpf.h: commands, a type of programs, where to attach them, and a flag.
_PROG_LOAD, _PROG_ATTACH = 5, 8
_CGROUP_SOCK_ADDR = 18
_CONNECT, _GETPEERNAME = (10, 11), (29, 30)  # each for IPv4 and IPv6
_ALLOW_MULTI = 2
# The number of bpf(2), which has no function in the C library.
_BPF = {"x86_64": 321, "aarch64": 280, "s390x": 351, "ppc64le": 361}.get(platform.machine())
_CLONE_NEWNS = 0x20000  # linux/sched.h
_MS_REC_PRIVATE = 0x4000 | 0x40000  # linux/mount.h
# Their places in struct bpf_sock_addr (linux/bpf.h).
_USER_IP = {socket.AF_INET: (4,), socket.AF_INET6: (8, 12, 16, 20)}
_USER_PORT = 24

# Addresses of a balancer's own. No route leads there, as to a Kubernetes service.
VIRTUAL = {"127.0.0.1": "10.96.0.1", "::1": "fd00:96::1"}


def require():
    """Skip the test where there can be no balancer."""
    if os.name != "posix" or os.geteuid():
        pytest.skip("a balancer needs root: bpf(2) and a cgroup")
    if _BPF is None:
        pytest.skip(f"the number of bpf(2) on {platform.machine()} is not known here")
    if "cgroup2" not in Path("/proc/filesystems").read_text():
        pytest.skip("a balancer needs cgroup2, which this kernel lacks")
    try:
        os.close(_load(1, 2, _CONNECT[0]))
    except OSError as error:
        pytest.skip(f"a balancer needs BPF programs of the type cgroup/connect4 (CONFIG_CGROUP_BPF): {error}")


@contextlib.contextmanager
def balancing(dialed, reached, *, virtual=False, hiding=False):
    """Let each connect of this process to the port *dialed* go to *reached*; if *virtual*, on loopback.

    *hiding*: the peer address is the one that was dialed, as Cilium's balancer answers; if *virtual*, one in `VIRTUAL`.
    """
    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as stack:
        libc.call("unshare", _CLONE_NEWNS)  # the mount is seen by this process alone
        libc.call("mount", b"none", b"/", None, _MS_REC_PRIVATE, None)
        libc.call("mount", b"none", os.fsencode(root), b"cgroup2", 0, None)
        stack.callback(libc.call, "umount2", os.fsencode(root), 0)
        group = Path(root, f"safedial-test-{os.getpid()}")
        group.mkdir()
        stack.callback(group.rmdir)
        before = Path(root, Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip(), "cgroup.procs")
        for kind, host in zip(_CONNECT, VIRTUAL, strict=True):
            _attach(group, _load(dialed, reached, kind, host if virtual else None), kind)
        for kind, host in zip(_GETPEERNAME, VIRTUAL.values(), strict=True) if hiding else ():
            _attach(group, _load(reached, dialed, kind, host if virtual else None), kind)
        stack.callback(before.write_text, str(os.getpid()))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield


def _load(port, other, kind, host=None):
    """Return the descriptor of a program that puts *other* in the place of *port*, and *host* in the address."""
    port, other = (struct.unpack("=H", struct.pack("!H", each))[0] for each in (port, other))
    changes = [(_USER_PORT, other)]
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        words = struct.unpack(f"={len(_USER_IP[family])}i", socket.inet_pton(family, host))
        changes += zip(_USER_IP[family], words, strict=True)
    code = b"".join(
        struct.pack("=BBhi", *instruction)
        for instruction in [
            (0x61, 0x12, _USER_PORT, 0),  # r2 = context->user_port
            (0x55, 0x02, 2 * len(changes), port),  # if r2 != port: go to the last two
            *(
                instruction
                for place, value in changes
                for instruction in [
                    (0xB7, 0x03, 0, value),  # r3 = value
                    (0x63, 0x31, place, 0),  # the word at this place = r3
                ]
            ),
            (0xB7, 0x00, 0, 1),  # r0 = 1: allowed
            (0x95, 0x00, 0, 0),  # return r0
        ]
    )
    code, license_ = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    instructions = len(code) // 8
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        *(_CGROUP_SOCK_ADDR, instructions, ctypes.addressof(code), ctypes.addressof(license_)),
        *(0, 0, 0, 0, 0, b"", 0, kind),
    )
    return _bpf(_PROG_LOAD, attributes)


def _attach(group, program, kind):
    directory = os.open(group, os.O_RDONLY)
    try:
        _bpf(_PROG_ATTACH, struct.pack("=IIII", directory, program, kind, _ALLOW_MULTI))
    finally:
        os.close(directory)
        os.close(program)


def _bpf(command, attributes):
    return libc.call("syscall", _BPF, command, attributes, ctypes.c_size_t(len(attributes)))
