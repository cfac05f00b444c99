"""A function run in a network namespace of its own, where it disturbs nothing else. Linux only, no root.

The namespace belongs to a user namespace of a child process: a process can't come back from one.
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
from typing import Any, TypeAlias, TypeVar, cast

from safedial._address import seconds

T = TypeVar("T")
# The range of ports, and whether there is IPv6.
_Namespace: TypeAlias = tuple[tuple[int, int] | None, bool]

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1  # linux/sockios.h, linux/if.h


def in_namespace(
    function: Callable[..., T],
    *args: Any,
    port_range: tuple[int, int] | None = None,
    ipv6: bool = True,
    within: float = 60.0,
) -> T:
    """Return ``function(*args)``, run in a child process, in a network namespace with loopback alone.

    There all is its own: every port is free, and the ephemeral range can be so small that the kernel
    draws what the test needs, for C libraries too.

    Args:
        function: a function of a module that can be imported by its name: none of ``__main__``, nor of a
            test file that pytest imports with ``--import-mode=importlib``. It, its arguments and what
            it returns or raises are pickled.
        *args: its arguments.
        port_range: lowest and highest port that the kernel draws from. Default: the system's.
        ipv6: whether there is IPv6. Default: True.
        within: seconds that it may take; then it is killed. Default: 60.

    Raises:
        RuntimeError: there can be no namespace; `no_namespace` says why beforehand.
        TimeoutError: it took longer than *within*.
        TypeError, ValueError: an argument is of no use; the message names it.
        BaseException: what *function* raised, with the child's traceback as a note.
    """
    if not callable(function):
        raise TypeError(f"function must be callable, not {function!r}")
    if port_range is not None:
        _check_range(port_range)
    if reason := no_namespace():
        raise RuntimeError(reason)
    return in_child(function, *args, namespace=(port_range, ipv6), within=seconds("within", within))


def _check_range(port_range: Any) -> None:
    if not isinstance(port_range, tuple | list) or len(cast("list[Any]", port_range)) != 2:
        raise TypeError(f"port_range must be (lowest, highest), not {port_range!r}")
    low, high = cast("list[Any]", port_range)
    if not isinstance(low, int) or not isinstance(high, int):
        raise TypeError(f"port_range must be two numbers, not {port_range!r}")
    if not 1 <= low <= high <= 65535:
        raise ValueError(f"port_range must go from a lower to a higher port, 1 to 65535, not {port_range!r}")


@functools.cache
def no_namespace() -> str:
    """Return why there can be no namespace of one's own here, in words; empty where there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    try:
        in_child(os.getpid, namespace=(None, True), within=60)
    except OSError as error:
        return f"this process may not make a network namespace (sysctl user.max_user_namespaces): {error}"
    return ""


def in_child(function: Callable[..., T], *args: Any, namespace: _Namespace | None = None, within: float) -> T:
    """Return ``function(*args)``, run in a child process, in a *namespace* where one is given."""
    try:
        task = pickle.dumps((function, args))
    except Exception as unpicklable:  # pickle has several
        raise TypeError(f"function and its arguments must be picklable: {unpicklable}") from unpicklable
    with tempfile.TemporaryFile() as answer:
        order = pickle.dumps((sys.path, namespace, answer.fileno())) + task
        try:
            subprocess.run(  # this very interpreter
                [sys.executable, "-c", "from safedial.testing import namespace; namespace.answer()"],
                input=order,
                pass_fds=[answer.fileno()],
                timeout=within,
                check=False,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{function!r} took longer than {within:g} s, and was killed") from None
        answer.seek(0)
        said = answer.read()
    if not said:
        raise RuntimeError(f"{function!r} ended its process")
    returned, error, trace = pickle.loads(said)  # noqa: S301  # our own child's
    if error is not None:
        error.add_note(trace)
        raise error
    result: T = returned
    return result


def answer() -> None:
    """Be the child: read the order, do it, and write what came of it where the order says."""
    sys.path[:], namespace, descriptor = pickle.load(sys.stdin.buffer)  # noqa: S301  # our own parent's
    returned = error = trace = None
    try:
        if namespace is not None:
            enter(*namespace)
        function, args = pickle.load(sys.stdin.buffer)  # noqa: S301
        returned = function(*args)
    except BaseException as raised:
        error, trace = raised, f"In the child process:\n{traceback.format_exc()}"
    with open(descriptor, "wb") as out:
        try:
            said = pickle.dumps((returned, error, trace))
            pickle.loads(said)  # noqa: S301  # what we wrote: an exception may need more than its args
        except Exception as unpicklable:
            plain = RuntimeError(f"can't be pickled ({unpicklable}): {returned if error is None else error!r}")
            said = pickle.dumps((None, plain, trace or ""))
        out.write(said)


def enter(port_range: tuple[int, int] | None = None, ipv6: bool = True) -> None:
    """Move this process, which has one thread, into new user and network namespaces."""
    _unshare(_CLONE_NEWUSER)
    enter_network(port_range)
    if not ipv6:
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")


def enter_network(port_range: tuple[int, int] | None = None) -> None:
    """Move this thread into a network namespace of its own, with loopback up."""
    import fcntl  # which other systems lack

    _unshare(_CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
    if port_range is not None:
        set_port_range(*port_range)


def set_port_range(low: int, high: int) -> None:
    """Let the kernel draw ports from *low* to *high*, in this network namespace."""
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{low} {high}")


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")
