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
    """Call *back* before the first dial that *fault* does not hit, with *lock* held.

    A dial that it hits has been refused before another can bring the server back: it is made with *lock* held.
    """
    dialed = Sockets()

    def intercept(sock: socket.socket, address: SockAddr, connect: Connect) -> bool:
        with contextlib.suppress(OSError):
            peer_of(sock)
            return False  # it is connected, perhaps by another interceptor
        if not fault.is_for(address):  # it must not wait for a start
            if dialed.add(sock):
                fault.trigger(address)
            return False
        with lock:
            if not dialed.add(sock):
                return False
            if fault.trigger(address):
                connect()
                return True
            back()
        return False

    # The last one of all, because it makes connects itself.
    return intercepting(intercept, nearest_kernel=True)


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
