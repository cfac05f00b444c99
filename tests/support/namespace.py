"""`safedial.testing.in_namespace`, for our own tests."""

import os

import pytest

from safedial.testing import in_namespace, no_namespace
from safedial.testing.namespace import enter_network, in_child, set_port_range

__all__ = [
    "call",
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
