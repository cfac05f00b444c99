"""What root may do in a container, and what an ordinary user can tell of that."""

import os
import struct
import sys

import pytest

from safedial.cli.doctor import rights
from safedial.testing.namespace import _unshare
from tests.support import libc, namespace

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these rights")

_SYSCTL = b"/proc/sys"
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 4096, 16384, 1 << 18  # linux/sched.h, linux/mount.h
_MS_RDONLY, _MS_REMOUNT = 1, 32
_CAPBSET_DROP, _CAP_NET_ADMIN = 24, 12  # linux/prctl.h, linux/capability.h
_VERSION = 0x20080522  # linux/capability.h: of two words each


def seen():
    return rights.can_set(), rights.can_close()


@pytest.mark.storm
def test_root():
    namespace.require()
    assert namespace.call_as_root(as_root) == {
        "root": (True, True),
        "without CAP_NET_ADMIN": (True, False),
        "with /proc/sys read-only": (False, False),
    }


def as_root():
    said = {"root": seen()}
    _unshare(_CLONE_NEWNS)
    libc.call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    libc.call("mount", _SYSCTL, _SYSCTL, None, _MS_BIND, None)
    drop()
    said["without CAP_NET_ADMIN"] = seen()
    libc.call("mount", b"none", _SYSCTL, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY, None)
    said["with /proc/sys read-only"] = seen()
    return said


def bound():
    """Let no program that this process begins have CAP_NET_ADMIN."""
    libc.call("prctl", _CAPBSET_DROP, _CAP_NET_ADMIN, 0, 0, 0)


def drop():
    bound()
    header, data = struct.pack("=Ii", _VERSION, 0), bytearray(24)
    kept = ~(1 << _CAP_NET_ADMIN) & 0xFFFFFFFF
    struct.pack_into("=6I", data, 0, kept, kept, 0, 0x1FF, 0x1FF, 0)
    libc.call("capset", header, bytes(data))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(("prepare", "can_close"), [(bool, None), (bound, False)])
@pytest.mark.storm
def test_an_ordinary_user(prepare, can_close):
    """It can't tell what root can, but it sees what nobody can."""
    assert namespace.call_outside(as_somebody, prepare) == (None, can_close)


def as_somebody(prepare):
    prepare()
    os.setuid(65534)
    return seen()
