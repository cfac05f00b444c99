"""`safedial.testing.in_namespace`, for our own tests."""

import os
from pathlib import Path

import pytest

from safedial.testing import in_namespace, no_namespace
from safedial.testing.namespace import enter_network, in_child, set_port_range
from tests.support import libc

_PR_SET_DUMPABLE = 4  # linux/prctl.h

__all__ = [
    "call",
    "call_as_root",
    "call_outside",
    "call_where_possible",
    "call_with_accounts",
    "enter_network",
    "require",
    "set_port_range",
]


def require():
    if reason := no_namespace():
        pytest.skip(reason)


def call(function, *args, port_range=None, ipv6=True, seconds=150):
    """Return ``function(*args)``, run in a child process in its own namespace."""
    return in_namespace(function, *args, port_range=port_range, ipv6=ipv6, within=seconds)


def call_where_possible(function, *args, seconds=150):
    """Do as `call` does; if this process can't make a namespace, do as `call_outside` does."""
    return (call_outside if no_namespace() else call)(function, *args, seconds=seconds)


def call_as_root(function, *args, port_range=None, seconds=150):
    """Do as `call` does, with commands that *function* runs as root in the namespace: sysctl, ss -K, nsenter."""
    return call(_be_root_and_call, os.geteuid(), function, *args, port_range=port_range, seconds=seconds)


def _be_root_and_call(account, function, *args):
    libc.call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)  # a new user namespace hides the files of /proc/self from itself
    Path("/proc/self/uid_map").write_text(f"0 {account} 1")
    return function(*args)


def call_with_accounts(function, *args, seconds=150):
    """Do as `call` does; if this is root, let *function* switch to another account, for servers that refuse root."""
    if os.geteuid():
        return call(function, *args, seconds=seconds)
    return call_outside(_enter_and_call, function, *args, seconds=seconds)


def _enter_and_call(function, *args):
    enter_network()
    return function(*args)


def call_outside(function, *args, seconds=150):
    """Return ``function(*args)``, run in a child process on the host's own network."""
    return in_child(function, *args, within=seconds)
