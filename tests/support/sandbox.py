"""A sandbox that forbids this process to bind TCP ports: Landlock, Linux 6.7, without root. There is no way back."""

import ctypes
import os
import struct

import pytest

# linux/landlock.h, linux/prctl.h, and the numbers of system calls that all architectures share.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_VERSION, _BIND_TCP = 1, 1
_NO_NEW_PRIVS = 38
_FIRST_WITH_NETWORK = 4

_libc = ctypes.CDLL(None, use_errno=True)


def require():
    if _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION) < _FIRST_WITH_NETWORK:
        pytest.skip("needs Landlock for TCP: Linux 6.7, built with it")


def forbid_tcp_bind():
    attributes = struct.pack("=QQ", 0, _BIND_TCP)
    ruleset = _libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0 or _libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or _libc.syscall(_RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.close(ruleset)
