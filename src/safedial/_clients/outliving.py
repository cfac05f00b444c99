"""The warning about a connection that outlives the block of the `guard` that it was made in.

It looks safe, but if its client connects again after the block, as most clients do, that dial is not guarded.
"""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any
from weakref import WeakValueDictionary

from safedial._address import SockAddr, describe
from safedial._clients import elsewhere
from safedial._clients.elsewhere import Site
from safedial.events import warn


class Made:
    """The sockets that were connected in a block, as far as their dials might have reached themselves."""

    def __init__(self) -> None:
        # By id: a user's subclass of socket may have no hash.
        self._sockets: WeakValueDictionary[int, socket.socket] = WeakValueDictionary()

    def add(self, sock: socket.socket, address: SockAddr) -> None:
        """Remember *sock*, which connects to *address*."""
        if elsewhere.may_draw(address[1]):
            with contextlib.suppress(TypeError):  # a class without weak references
                self._sockets[id(sock)] = sock

    def warn(self, site: Site | None) -> None:
        """Warn, once for each *site*, if one of the connections is open after the block at *site*."""
        peer = next(self._open_here(), None) if elsewhere.is_untold(site) else None
        if peer is not None and site is not None:
            elsewhere.tell(site)
            warn(
                "a connection to %s outlives the guard() at %s:%s, in which it was made; if its client connects again, "
                "that dial is not guarded: use wrap(), an adapter's protect(), or safedial.install()",
                describe(*peer[:2]),
                *site,
            )

    def _open_here(self) -> Iterator[SockAddr]:
        """Yield the peers of the connections that are open, and end on this host."""
        for ref in self._sockets.valuerefs():  # a copy: another thread that is guarded, too, may dial now
            with contextlib.suppress(Exception):  # it is freed or closed, was not connected, or is a fake
                sock: Any = ref()
                peer = sock.getpeername()
                if elsewhere.is_here(sock, peer[0]):
                    yield peer
