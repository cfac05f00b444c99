"""When a server that refuses comes back: at the dial after some, or after some time."""

import contextlib
import socket
import threading
from collections.abc import Callable, Generator

from safedial._address import SockAddr
from safedial._tcp.selfconnect import peer_of
from safedial.testing.dials import Sockets
from safedial.testing.fault import CountingFault
from safedial.testing.intercept import Connect, intercepting


def after_dials(
    fault: CountingFault, back: Callable[[], None], lock: threading.RLock
) -> contextlib.AbstractContextManager[None]:
    """Call *back* before the first dial that *fault* does not hit, with *lock* held."""
    dialed = Sockets()

    def intercept(sock: socket.socket, address: SockAddr, _connect: Connect) -> bool:
        with contextlib.suppress(OSError):
            peer_of(sock)
            return False  # it is connected, perhaps by another interceptor
        with lock:
            if dialed.add(sock) and not fault.trigger(address) and fault.is_for(address):
                back()
        return False

    return intercepting(intercept)


@contextlib.contextmanager
def after_seconds(seconds: float, back: Callable[[], None]) -> Generator[None]:
    """Call *back* after *seconds*, in a thread of its own, unless the block ends before."""
    timer = threading.Timer(seconds, back)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if timer is not threading.current_thread():
            timer.join()
