"""A server that accepts connections and hangs up on them, as a proxy whose own server is down."""

import socket

from safedial.testing.fault import CountingFault, Unused, Wording
from safedial.testing.outage import Outage
from safedial.testing.ports import check_whole
from safedial.testing.servers import Handler, echo, hang_up

_CONNECTIONS = Wording("connection", "", "nobody has connected")


class HangingUp(Outage):
    """An `Outage` that hangs up on its first connections, and then serves.

    The client reads an end of file, even if it has sent something first. What it sends later may fail with
    BrokenPipeError.

    Args:
        dials: on how many connections; None: on all. A connection counts whichever library makes it. Default: None.
        server: the function that serves the others, as for `Outage`. Default: an echo.
        host: as for `Outage`.
        port: as for `Outage`.
        unused: what happens at the end if nobody has connected: ``error`` raises AssertionError, ``warn`` warns;
            ``ignore``. Default: ``error``.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
    """

    def __init__(
        self,
        dials: int | None = None,
        server: Handler = echo,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        unused: Unused = "error",
    ) -> None:
        if not callable(server):
            raise TypeError(f"server must be a function, not a {type(server).__name__}")
        if dials is not None:
            check_whole("dials", dials)
        super().__init__(self._hang_up_or_serve, host=host, port=port)
        self._serve = server
        call = f"hanging_up({'' if dials is None else dials})"
        self._fault = CountingFault(call, self.port, dials, unused, _CONNECTIONS)
        self._faults.append(self._fault)

    @property
    def hung_up(self) -> int:
        """On how many connections it has hung up."""
        return self._fault.triggered

    def _hang_up_or_serve(self, connection: socket.socket) -> None:
        (hang_up if self._fault.trigger(self.address) else self._serve)(connection)
