"""Run a function in a network namespace of its own, where it disturbs nothing else.

Needs no root: the namespace belongs to a user namespace of the child process. Arguments and
result travel as JSON.
"""

import ctypes
import fcntl
import functools
import importlib
import json
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1  # linux/sockios.h, linux/if.h
_ROOT = Path(__file__).parents[2]


def enter(port_range=None, ipv6=True):
    """Move this process into new user and network namespaces, with loopback up."""
    _unshare(_CLONE_NEWUSER)
    enter_network(port_range)
    if not ipv6:
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")


def enter_network(port_range=None):
    """Move this thread into a network namespace of its own, with loopback up."""
    _unshare(_CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
    if port_range is not None:
        set_port_range(*port_range)


def _unshare(flags):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")


def set_port_range(low, high):
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{low} {high}")


@functools.cache
def available() -> str:
    """Why there can be no namespace; empty where there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    try:
        call(_nothing)
    except subprocess.CalledProcessError as error:
        return f"no unprivileged network namespace here (sysctl user.max_user_namespaces?): {error.stderr[-200:]}"
    return ""


def _nothing():
    return None


def require() -> None:
    if reason := available():
        pytest.skip(reason)


def call(function, *args, port_range=None, ipv6=True, seconds=150):
    """Return ``function(*args)``, run in a child process inside a namespace of its own."""
    return _child(function, args, {"port_range": port_range, "ipv6": ipv6}, seconds)


def call_where_possible(function, *args, seconds=150):
    """Do as `call` does, or on the host's network where there can be no namespace."""
    return (call_outside if available() else call)(function, *args, seconds=seconds)


def call_outside(function, *args, seconds=150):
    """Return ``function(*args)``, run in a child process on the host's own network."""
    return _child(function, args, None, seconds)


def _child(function, args, namespace, seconds):
    order = json.dumps([function.__module__, function.__qualname__, args, namespace])
    done = subprocess.run(
        [sys.executable, "-W", "default", "-m", "tests.support.namespace", order],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stderr)
        done.check_returncode()
    return json.loads(done.stdout.splitlines()[-1])


def main():
    module, name, args, namespace = json.loads(sys.argv[1])
    if namespace is not None:
        enter(**namespace)
    result = getattr(importlib.import_module(module), name)(*args)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
