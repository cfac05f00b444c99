"""Running a function in its own network namespace, where it disturbs nothing else. Linux only; no root needed.

The namespace belongs to the user namespace of a child process, because a process can't leave one again.
"""

import ctypes
import functools
import os
import pickle
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from safedial._address import seconds
from safedial._forks import loading
from safedial._tcp import steering
from safedial.testing.ports import check_whole
from safedial.testing.process_group import ProcessGroup

# As in `resilience`.
__tracebackhide__ = True
T = TypeVar("T")
Range: TypeAlias = tuple[int, int]
# The ephemeral range (None: the system's), and whether there is IPv6.
_Namespace: TypeAlias = tuple[Range | None, bool]

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1  # linux/sockios.h, linux/if.h


def in_namespace(
    function: Callable[..., T], *args: Any, port_range: Range | None = None, ipv6: bool = True, within: float = 60.0
) -> T:
    """Return ``function(*args)``, run in a child process, in a network namespace that has only loopback.

    Every port is free there. The ephemeral range can be so small that the kernel draws the port that the test needs,
    for C libraries too. The child and what it has started end with the call, also if this process is killed.

    Args:
        function: a function that can be imported by its name: not one of ``__main__``, nor of a test file that pytest
            imports with ``--import-mode=importlib``. The function, its arguments and its result or exception are
            pickled.
        *args: its arguments.
        port_range: the lowest and the highest port that the kernel draws. Default: the system's range.
        ipv6: whether there is IPv6. Default: True.
        within: seconds that it may take before it is killed. Default: 60.

    Raises:
        RuntimeError: this process can't make a namespace (`no_namespace` says why), the function ended its process, or
            its result can't be pickled.
        TimeoutError: it took longer than *within*.
        TypeError, ValueError: an argument is wrong; the message names it.
        BaseException: the exception that *function* raised, with the child's traceback as a note.
    """
    if not callable(function):
        raise TypeError(f"function must be callable, not {function!r}")
    if port_range is not None and (not isinstance(port_range, tuple | list) or len(port_range) != 2):
        raise TypeError(f"port_range must be (lowest, highest), not {port_range!r}")
    for port in port_range or ():
        check_whole("port_range", port, 65535)
    if port_range and port_range[0] > port_range[1]:
        raise ValueError(f"port_range must be (lowest, highest), not {port_range!r}")
    if reason := no_namespace():
        raise RuntimeError(reason)
    return in_child(function, *args, namespace=(port_range, ipv6), within=seconds("within", within))


@functools.cache
def no_namespace() -> str:
    """Return why this process can't make a network namespace, in words; empty if it can."""
    if sys.platform != "linux":
        return "only Linux has network namespaces"
    try:
        in_child(os.getpid, namespace=(None, True), within=60)
    except OSError as error:
        return f"this process may not make a network namespace (sysctl user.max_user_namespaces): {error}"
    return ""


def in_child(function: Callable[..., T], *args: Any, namespace: _Namespace | None = None, within: float) -> T:
    """Return ``function(*args)``, run in a child process; if *namespace* is given, in a namespace like that.

    What *function* has started and left ends with it.
    """
    try:
        task = pickle.dumps((function, args))
    except Exception as unpicklable:  # of several types
        raise TypeError(f"function and its arguments must be picklable: {unpicklable}") from unpicklable
    with tempfile.TemporaryFile() as reply, ProcessGroup() as group:
        try:
            subprocess.run(  # this very interpreter
                [sys.executable, "-c", "from safedial.testing import namespace; namespace.run_child()"],
                input=pickle.dumps((sys.path, namespace, reply.fileno())) + task,
                pass_fds=[reply.fileno()],
                process_group=group.number,
                timeout=within,
                check=False,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{function!r} took longer than {within:g} s, and was killed") from None
        reply.seek(0)
        pickled = reply.read()
    if not pickled:
        raise RuntimeError(f"{function!r} ended its process")
    result: T
    result, error, trace = pickle.loads(pickled)  # noqa: S301  # our own child's
    if error is not None:
        error.add_note(trace)
        raise error
    return result


def run_child() -> None:
    """Be the child: read the task from standard input, and write its result to the descriptor that came with it."""
    sys.path[:], namespace, descriptor = pickle.load(sys.stdin.buffer)  # noqa: S301  # our own parent's
    result = error = trace = None
    try:
        if namespace is not None:
            port_range, ipv6 = namespace
            _unshare(_CLONE_NEWUSER)
            enter_network(port_range)
            steering.read_anew()  # safedial was loaded in the other network
            if not ipv6:
                Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
        function, args = pickle.load(sys.stdin.buffer)  # noqa: S301  # from the parent, by its own pipe
        result = function(*args)
    except BaseException as raised:
        error, trace = raised, f"In the child process:\n{traceback.format_exc()}"
    try:
        pickled = pickle.dumps((result, error, trace))
        pickle.loads(pickled)  # noqa: S301  # an exception may need more arguments than its args
    except Exception as unpicklable:
        plain = RuntimeError(f"can't be pickled ({unpicklable}): {result if error is None else error!r}")
        pickled = pickle.dumps((None, plain, trace or ""))
    with open(descriptor, "wb") as reply:
        reply.write(pickled)


def enter_network(port_range: Range | None = None) -> None:
    """Move this thread into a new network namespace, with loopback up."""
    with loading:
        import fcntl  # not on Windows

    _unshare(_CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
    if port_range is not None:
        set_port_range(*port_range)


def set_port_range(low: int, high: int) -> None:
    """Set the ephemeral range of this network namespace."""
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{low} {high}")


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")
