"""The blocking dials `safe_connect` and `Dialer.dial`, and the Dialer that asyncio shares."""

import socket
import sys
from dataclasses import dataclass
from typing import Any, Unpack

from safedial._address import MAX_SECONDS, Address, checked
from safedial._dial import blocking
from safedial._dial.settings import BlockingResolver, DialOptions, Settings, Timeout, check_source, checked_timeout
from safedial._forks import loading
from safedial._retry.argument import DEFAULT
from safedial._steps import in_event_loop
from safedial.events import is_first, warn


@dataclass(frozen=True, kw_only=True, repr=False)
class Dialer(Settings):
    """The settings of a dial, checked once and used often.

    Frozen and without state: threads, tasks and forked children can share one.

    Attributes:
        timeout: seconds for one attempt at one address, also in a race. It stays on a blocking socket, as in
            `socket.create_connection`, cut to the 24 days that a socket takes. For `dial`, 0 is the stdlib's
            non-blocking connect, and nothing races. None: no limit. Default: `socket.getdefaulttimeout()` for
            `dial`, no limit for `dial_async`. PySocks takes it for each step of its handshake with the proxy.
        total_timeout: seconds for the whole dial: resolution, every attempt, every wait and every round, and for
            `open_connection` the TLS handshakes. Each attempt gets a fair share of the time left: that time divided by
            the addresses left, at least 2 s, and never past the end (Go's partial deadline, src/net/dial.go). The last
            wait is cut, so that a round can follow. When time is up, a `TimeoutError` with errno ETIMEDOUT is raised,
            with the last real failure as its cause (the group of all, with *all_errors*) and notes. A blocking
            ``getaddrinfo()``, resolver, hook or sleep function can't be interrupted: the dial waits for it, and its
            time counts. asyncio interrupts all of these but hooks; code in a thread runs on, and `asyncio.run` waits
            for it at its end. Default: None, no limit.
        source_address: (host, port) to bind to before connecting. With port 0 the kernel chooses the port, and the
            dial is guarded. With any other port it is neither steered nor checked, so that a deliberate simultaneous
            open works, and nothing races, because two sockets can't have one port. Addresses of another family than
            a numeric source are skipped. Default: None, the kernel chooses both.
        family: `socket.AF_INET` or `socket.AF_INET6` to use that family alone. Default: 0, both.
        socket_options: (level, option, value) each, the arguments of ``setsockopt()``, set before bind and connect,
            such as (IPPROTO_TCP, TCP_NODELAY, 1) or (SOL_SOCKET, SO_KEEPALIVE, 1). If one of them is
            IP_LOCAL_PORT_RANGE, the dial is checked but not steered. On Linux, SO_REUSEADDR is set unless it is one of
            them or *source_address* has a port: a server of this host that sets it too can then bind the local port
            of the connection. Default: none.
        happy_eyeballs_delay: seconds until the next address is tried while the one before still connects (RFC 8305
            section 5); at once if that one fails. Families alternate (section 4). The first to connect wins, the
            others are closed. None: one after the other, in the resolver's order. So it is, too, if a program put a
            class with a ``connect()`` of its own in `socket.socket`'s place (PySocks, eventlet; not gevent), because
            that may wait in non-blocking mode; asyncio then connects in a thread. Default: 0.25, as in the RFC.
        resolver: called in every round, unless host and port are numbers, as ``resolver(host, port, family=...,
            type=..., proto=..., flags=...)``; returns a list as `socket.getaddrinfo` does. For `dial_async` it may be
            a coroutine function; any other callable runs in a thread there. An OSError is a failed resolution; other
            exceptions end the dial. It is not asked for the source address. Of its answer, as of the system's, the
            first 100 addresses are used. Default: None, `socket.getaddrinfo`, or the loop's in asyncio. If a program
            put a function of its own in place of `socket.getaddrinfo`, such as one that pins names, it is asked about
            numbers too.
        policy: a `tenacity.Retrying` or `tenacity.AsyncRetrying` that decides on another round. Both kinds work in
            blocking and in asyncio dials, and are copied for each dial. The last real exception is raised, whatever
            ``reraise`` and ``retry_error_callback`` say. A strategy or hook that awaits raises TypeError in a
            blocking dial. A blocking dial replaces an async sleep function by `time.sleep`; asyncio runs a blocking
            one in a thread, which a cancellation can't end early. Default: `redial()`. None: a single round.
        on_event: called with each `DialEvent`. If it raises an Exception, that is logged once, and the dial goes on.
            Default: None.
        steer: keep the kernel off the destination's port (Linux with IP_LOCAL_PORT_RANGE). False leaves the check
            and the release. Default: True.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if "asyncio" in sys.modules:
            with loading:  # now rather than in the event loop
                from safedial._dial import aio as aio

    def dial(self, address: Address, *, all_errors: bool = False) -> socket.socket:
        """Connect to *address*, a (host, port) pair, and return a blocking socket. See `safe_connect`."""
        return blocking.dial(self, address, self.timeout, self.source_address, all_errors)

    async def dial_async(self, address: Address, *, all_errors: bool = False) -> socket.socket:
        """Connect in any asyncio event loop, and return a non-blocking socket. See `dial` and `open_connection`."""
        with loading:
            import asyncio

            from safedial._dial import aio

        host, port, _ = checked(address, self.family)
        target = aio.Target(host, port, family=self.family, local_addr=self.source_address or None)
        sock: socket.socket = await aio.dial(self, target, all_errors=all_errors)
        try:
            await asyncio.sleep(0)  # or a loop of dials on loopback would starve all other tasks
        except BaseException:
            sock.close()
            raise
        return sock


class ConnectOptions(DialOptions, total=False):
    """The keyword options of `safe_connect`."""

    family: int
    resolver: BlockingResolver | None


_PLAIN = Settings()


# So many calls are looked at; after that, a dial need not pay for it.
_looks = 20
_warned: dict[str, object] = {}


def _look_for_an_event_loop() -> None:
    """Warn, once, if this call of `safe_connect` blocks an event loop."""
    global _looks
    _looks = max(0, _looks - 1)  # never below 0, though another thread may count meanwhile
    if in_event_loop() and is_first(_warned, "safe_connect"):
        _looks = 0
        template = "safe_connect() blocks the event loop of this thread; in a coroutine, use %s or %s"
        warn(template, "await safedial.open_connection(host, port)", "await dialer.dial_async(address)")


def safe_connect(
    address: Address,
    timeout: Timeout = DEFAULT,
    source_address: tuple[str, int] | None = None,
    *,
    all_errors: bool = False,
    **options: Unpack[ConnectOptions],
) -> socket.socket:
    """Connect to *address* as `socket.create_connection` does, with the same arguments and errors, and never to itself.

    Args:
        address: a (host, port) pair. A numeric host skips the resolver.
        timeout: seconds for one attempt at one address; it stays on the returned socket. None: no limit.
            Default: `socket.getdefaulttimeout()`.
        source_address: (host, port) to bind to; with a port other than 0 nothing is guarded.
        all_errors: raise an ExceptionGroup of each address's last error instead of one error. If *total_timeout*
            ends the dial, the group is the TimeoutError's cause.
        **options: *total_timeout*, *family*, *socket_options*, *happy_eyeballs_delay*, *resolver*, *policy*,
            *on_event* and *steer*, with the meanings and defaults that `Dialer` documents.

    Returns:
        The connected socket of the first address that answers.

    Raises:
        SelfConnectError: nobody listens there, and the kernel connected the socket to itself.
        PortsExhaustedError: no local port is free to reach the destination.
        TimeoutError: an attempt took longer than *timeout*, or the dial longer than *total_timeout*.
        OSError: the kernel's or the resolver's own error, of the last address, with a note for each address that
            says what failed and in which rounds.
        TypeError, ValueError: an argument is invalid; the message names it.
    """
    settings = Settings.of("safe_connect", options) if options else _PLAIN
    if _looks and "asyncio" in sys.modules:
        _look_for_an_event_loop()
    given: Any = timeout
    plain = (given.__class__ is int or given.__class__ is float) and 0 <= given <= MAX_SECONDS
    if not plain and given is not DEFAULT:
        timeout = checked_timeout(given)  # most dials are spared this call
    if source_address:
        check_source(source_address)
    return blocking.dial(settings, address, timeout, source_address, all_errors)
