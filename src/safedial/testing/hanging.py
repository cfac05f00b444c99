"""A server that accepts connections and hangs up on them, as a proxy whose own server is down."""

import socket
from typing import Any

from safedial.testing.fault import Fault, Unused, Wording
from safedial.testing.outage import Outage
from safedial.testing.ports import check_whole
from safedial.testing.servers import Handler, check_not_async, echo, hang_up

# As in `resilience`.
__tracebackhide__ = __unittest = True
_CONNECTIONS = Wording("connection", "", "nobody has connected")


class HangingUp(Outage):
    """The `Outage` that `hanging_up` makes."""

    # *options* are those of an Outage.
    def __init__(self, dials: int | None, server: Handler, unused: Unused, **options: Any) -> None:
        if dials is not None:
            check_whole("dials", dials)
        if not callable(server):
            raise TypeError(f"server must be a function, not a {type(server).__name__}")
        check_not_async(server)
        self._serve = server
        super().__init__(self._hang_up_or_serve, unused=unused, **options)
        self._fault = Fault(f"hanging_up({'' if dials is None else dials})", self.port, dials, unused, _CONNECTIONS)
        self._faults.append(self._fault)

    @property
    def hung_up(self) -> int:
        """On how many connections it has hung up."""
        return self._fault.triggered

    def _hang_up_or_serve(self, connection: socket.socket) -> None:
        (hang_up if self._fault.trigger(self.address) else self._serve)(connection)


def hanging_up(
    dials: int | None = None,
    server: Handler = echo,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    within: float = 10.0,
    latency: float | None = None,
    reset_after: int | None = None,
    unused: Unused = "error",
) -> HangingUp:
    """Return an `Outage` that hangs up on its first connections, and then serves. It counts the first as ``hung_up``.

    The client reads an end of file, even if it has sent something first. What it sends later may fail with
    BrokenPipeError.

    Args:
        dials: on how many connections; None: on all. A connection counts whichever library makes it. Default: None.
        server: the function that serves the others, as for `Outage`. Default: an echo.
        host: as for `Outage`.
        port: as for `Outage`.
        within: as for `Outage`.
        latency: as for `Outage`.
        reset_after: as for `Outage`.
        unused: what happens at the end if nobody has connected: ``error`` raises AssertionError, ``warn`` warns;
            ``ignore``. The same if *reset_after* has reset no connection. Default: ``error``.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
    """
    return HangingUp(
        dials, server, unused, host=host, port=port, within=within, latency=latency, reset_after=reset_after
    )
