"""The blocking faces: `safe_connect`, and the Dialer that both worlds share."""

import socket
from dataclasses import dataclass
from typing import Unpack

from safedial._address import checked
from safedial._dial import blocking
from safedial._dial.settings import BlockingResolver, DialOptions, Settings, Timeout, check_options
from safedial._retry.argument import DEFAULT

_PLAIN = Settings()


@dataclass(frozen=True, kw_only=True)
class Dialer(Settings):
    """The settings of a dial, checked once and used often.

    Frozen and without state: threads, tasks and forked children may share one.

    Attributes:
        timeout: seconds for one attempt at one address; each lane of a race has all of it. It
            stays on a blocking socket, as in `socket.create_connection`, cut to the 24 days that
            a socket takes. For `dial`, 0 is the stdlib's non-blocking connect, and nothing races.
            None: no limit. Default: `socket.getdefaulttimeout()` for `dial`, no limit for
            `dial_async`.
        total_timeout: seconds for the whole dial: resolution, every attempt, every wait and every
            round. Each attempt gets a fair share of what is left, which is the time divided by
            the addresses to go, at least 2 s, and never past the end (Go's partial deadline,
            src/net/dial.go). No wait is begun that would end later. When time is up, a
            `TimeoutError` is raised, with errno ETIMEDOUT, the last real failure as its cause
            (with *all_errors* the group of all), and notes. A blocking ``getaddrinfo()``,
            resolver, hook or sleep of a policy's own can't be interrupted: it is waited for, and
            its time counts. In asyncio all but hooks are cut short; what runs in a thread goes on
            there, and `asyncio.run` waits for it at its end. Default: None, no limit.
        source_address: (host, port) to bind to before connecting. With port 0 the kernel chooses
            the port, and the dial is guarded; with any other port nothing is steered or checked,
            so that a deliberate simultaneous open works, and nothing races, as two sockets can't
            have one port. Addresses of another family than a numeric host's are skipped. Default:
            None, the kernel chooses both.
        family: `socket.AF_INET` or `socket.AF_INET6` to use that family alone. Default: 0, both.
        socket_options: arguments of ``setsockopt()``, each (level, option, value), set before
            bind and connect, such as (IPPROTO_TCP, TCP_NODELAY, 1) or (SOL_SOCKET, SO_KEEPALIVE,
            1). A caller who sets IP_LOCAL_PORT_RANGE is not steered, but checked.
        happy_eyeballs_delay: seconds until the next address is tried beside the one that still
            connects (RFC 8305 section 5); at once when that one fails. Families alternate
            (section 4). The first to connect wins, the others are closed. Default: 0.25, as
            the RFC recommends. None: one after the other, in the resolver's order.
        resolver: called in every round, unless host and port are numbers, as
            ``resolver(host, port, family=..., type=..., proto=..., flags=...)``; returns what
            `socket.getaddrinfo` does. It may be a coroutine function for `dial_async`, where any
            other callable runs in a thread. Its OSErrors are failed resolutions; what else it
            raises ends the dial. A source address that is a name is not its affair. Default:
            None, the system's.
        policy: a `tenacity.Retrying` or `tenacity.AsyncRetrying` that decides on a further round;
            either kind works in both worlds, and is copied for each dial. Its ``reraise`` and
            ``retry_error_callback`` don't count: the last real exception is raised. A strategy or
            hook that awaits raises TypeError in a blocking dial. Where a sleep of your own belongs
            to the other world, an async one is replaced by `time.sleep`, and a blocking one runs
            in a thread, which a cancellation can't end before its time. Default: `redial()`.
            None: a single round.
        on_event: called with each `DialEvent`. What it raises ends the dial.
        steer: keep the kernel off the destination's port (Linux, where IP_LOCAL_PORT_RANGE is
            there). False leaves detection and release only. Default: True.

    Raises:
        TypeError, ValueError: an argument is of no use; the message names it.
    """

    def dial(self, address: tuple[str | bytes | None, int | str | None], *, all_errors: bool = False) -> socket.socket:
        """Connect to *address*, a (host, port) pair, and return a blocking socket.

        Errors and *all_errors* are those of `safe_connect`.
        """
        return blocking.dial(self, address, self.timeout, self.source_address, all_errors=all_errors)

    async def dial_async(
        self, address: tuple[str | bytes | None, int | str | None], *, all_errors: bool = False
    ) -> socket.socket:
        """Connect to *address*, a (host, port) pair, and return a non-blocking socket.

        Runs in any asyncio event loop. Errors and *all_errors* are those of `create_connection`.
        """
        from safedial._dial import aio  # late, as it loads asyncio

        host, port, _ = checked(address, self.family)
        target = aio.Target(host, port, family=self.family, local_addr=self.source_address or None)
        return await aio.dial_socket(self, target, all_errors=all_errors)


class ConnectOptions(DialOptions, total=False):
    """The keyword options of `safe_connect`."""

    family: int
    happy_eyeballs_delay: float | None
    resolver: BlockingResolver | None


def safe_connect(
    address: tuple[str | bytes | None, int | str | None],
    timeout: Timeout = DEFAULT,
    source_address: tuple[str, int] | None = None,
    *,
    all_errors: bool = False,
    **options: Unpack[ConnectOptions],
) -> socket.socket:
    """Connect to *address* as `socket.create_connection` does, and never to itself.

    A drop-in: the same arguments keep the same meaning, and the same errors come out.

    Args:
        address: a (host, port) pair. A numeric host skips the resolver.
        timeout: seconds for one attempt at one address; it stays on the returned socket. None:
            no limit. Default: `socket.getdefaulttimeout()`.
        source_address: (host, port) to bind to; with a port other than 0 nothing is guarded.
        all_errors: raise an ExceptionGroup of each address's last error instead of one error.
            What ends by *total_timeout* has it as its cause.
        **options: keyword arguments, which `Dialer` explains.
            total_timeout: seconds for the whole dial. Default: None, no limit.
            happy_eyeballs_delay: seconds until the next address is tried beside the one that
                still connects. Default: 0.25. None: one after the other, as in the stdlib.
            resolver: called in place of `socket.getaddrinfo`. Default: None.
            policy: what is dialed again, and when. Default: `redial()`.
            on_event: called with each `DialEvent`. Default: None.
            steer: keep the kernel off the destination's port. Default: True.
            socket_options: (level, option, value) each, set before bind and connect. Default: none.
            family: `socket.AF_INET` or `socket.AF_INET6` alone. Default: 0, both.

    Returns:
        The connected socket, of the first address that answers.

    Raises:
        SelfConnectError: nobody listens there, and the kernel connected the socket to itself.
        PortsExhaustedError: no local port is free to reach the destination.
        TimeoutError: an attempt took longer than *timeout*, or all of it than *total_timeout*.
        OSError: the kernel's or the resolver's own error, of the last address, with what each
            address and attempt said attached as notes.
        TypeError, ValueError: an argument is of no use; the message names it.
    """
    settings = _PLAIN
    if options:
        check_options("safe_connect", options, ConnectOptions.__annotations__)
        settings = Settings(**options)
    return blocking.dial(settings, address, timeout, source_address, all_errors=all_errors)
