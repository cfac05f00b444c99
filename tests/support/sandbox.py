"""A sandbox that forbids this process something, without root. There is no way back.

Landlock (Linux 6.7) forbids to bind TCP ports, seccomp forbids system calls.
"""

import contextlib
import ctypes
import errno
import os
import platform
import struct
import sys

import pytest

from tests.support import libc

# linux/landlock.h, linux/prctl.h, and the numbers of system calls that all architectures share.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_VERSION, _BIND_TCP = 1, 1
_NO_NEW_PRIVS = 38
_FIRST_WITH_NETWORK = 4
# linux/prctl.h, linux/seccomp.h, linux/filter.h.
_SET_SECCOMP, _FILTER = 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_CALLS = {
    "x86_64": {"socket": 41, "getsockname": 51, "getpeername": 52, "setsockopt": 54, "getsockopt": 55},
    "aarch64": {"socket": 198, "getsockname": 204, "getpeername": 205, "setsockopt": 208, "getsockopt": 209},
}.get(platform.machine(), {})


def require_landlock():
    version = 0
    with contextlib.suppress(OSError):  # not built, or switched off
        version = libc.call("syscall", _CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < _FIRST_WITH_NETWORK:
        pytest.skip("needs Landlock for TCP: Linux 6.7, built with it")


def forbid_tcp_bind():
    attributes = struct.pack("=QQ", 0, _BIND_TCP)
    ruleset = libc.call("syscall", _CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    libc.call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.call("syscall", _RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def require_seccomp():
    if not _CALLS or not os.path.exists("/proc/sys/kernel/seccomp"):
        pytest.skip("needs seccomp, on a machine whose system calls are listed here")


def forbid(call, level=None, option=None):
    """Let the system call *call* fail with EPERM; if *level* and *option* are given, only for these."""
    # struct seccomp_data: the number, then the arguments from byte 16 on, 8 bytes each.
    low = 0 if sys.byteorder == "little" else 4
    tests = [(0, _CALLS[call])]
    if level is not None:
        tests += [(16 + 8 + low, level), (16 + 16 + low, option)]
    code = []
    for place, value in tests:
        code += [(_LOAD, 0, 0, place), (_JUMP_IF_EQUAL, 0, 2 * len(tests) - len(code) - 1, value)]
    code += [(_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ALLOW)]
    packed = b"".join(struct.pack("=HBBI", *each) for each in code)
    program = ctypes.create_string_buffer(packed, len(packed))
    head = struct.pack("@HP", len(code), ctypes.addressof(program))
    libc.call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.call("prctl", _SET_SECCOMP, _FILTER, head, 0, 0)
