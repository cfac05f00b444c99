"""install() before gevent or eventlet has patched sockets."""

import socket
import sys
import threading

import pytest

import safedial
from safedial import testing
from tests.support import namespace


def patch_by_gevent():
    from gevent import monkey

    monkey.patch_all()


def patch_by_eventlet():
    import eventlet

    eventlet.monkey_patch()


HOOKED = {"patch_by_gevent": ("gevent.monkey", "patch_socket"), "patch_by_eventlet": ("eventlet", "monkey_patch")}


def dial_after_patching(patch):
    """Runs in a child process, because the whole process is patched."""
    plain = socket.socket
    safedial.install()
    patch()
    module, name = HOOKED[patch.__name__]
    hook = getattr(sys.modules[module], name)
    assert socket.socket is not plain
    found = []
    port = testing.dead_port()

    def dial():
        with testing.self_connect(port) as fault:
            try:
                socket.create_connection(("127.0.0.1", port), 5).close()
            except safedial.SelfConnectError:
                found.append(fault.triggered)

    thread = threading.Thread(target=dial)  # a greenlet
    thread.start()
    thread.join()
    safedial.uninstall()
    return found, getattr(sys.modules[module], name) is hook.__wrapped__


@pytest.mark.parametrize("patch", [patch_by_gevent, patch_by_eventlet])
def test_sockets_patched_after_install_are_guarded(patch):
    assert namespace.call_outside(dial_after_patching, patch) == ([1], True)
