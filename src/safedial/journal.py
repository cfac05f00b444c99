"""The record of one dial: which attempts were made, what each said, and telling the world.

Shared by the blocking and the asyncio driver. Makes no decisions.
"""

import logging
import time

from safedial.addresses import Host, Port, SockAddr, describe
from safedial.errors import SelfConnectError
from safedial.events import DialEvent, EventKind, OnEvent, emit, logger


class Journal:
    """What one dial has done so far. Belongs to that dial alone."""

    __slots__ = ("_said", "attempt", "errors", "host", "on_event", "port", "started")

    def __init__(self, host: Host, port: Port, on_event: OnEvent | None) -> None:
        self.host = host
        self.port = port
        self.on_event = on_event
        self.started = time.monotonic()
        self.attempt = 1
        # The errors of the newest round, one for each address.
        self.errors: list[OSError] = []
        # What failed where and how: the first and last attempt, and the last one's words. Keyed so
        # that a loop of a day needs no more memory than one of a minute.
        self._said: dict[tuple[str, type, int | None], tuple[int, int, str]] = {}

    @property
    def _observed(self) -> bool:
        return self.on_event is not None or logger.isEnabledFor(logging.DEBUG)

    def connected(self, sockaddr: SockAddr) -> None:
        """Tell that *sockaddr* answered."""
        if self.attempt > 1 or self._observed:
            self._emit("connected", sockaddr)

    def failed(self, sockaddr: SockAddr, error: OSError) -> None:
        """Keep and tell that *sockaddr* failed with *error*."""
        self._failed(describe(*sockaddr[:2]), sockaddr, error)

    def unresolved(self, host: Host, error: OSError) -> None:
        """Keep and tell that the resolver failed with *error*, asked for *host*."""
        self._failed(f"resolving {host!r}", None, error)

    def _failed(self, where: str, sockaddr: SockAddr | None, error: OSError) -> None:
        key = where, type(error), error.errno
        first = self._said[key][0] if key in self._said else self.attempt
        self._said[key] = first, self.attempt, str(error) or type(error).__name__
        itself = isinstance(error, SelfConnectError)
        if itself or self._observed:
            self._emit("self_connect" if itself else "failed", sockaddr, error)

    def retrying(self, error: OSError, wait: float) -> None:
        """Tell that the policy goes on after *error*, in *wait* seconds."""
        if self._observed:
            self._emit("retry", None, error, wait)

    def outcome(self, error: OSError, *, all_errors: bool) -> Exception:
        """Return what the caller gets for *error*, with what each address and attempt said.

        With *all_errors* that is an ExceptionGroup of each address's last error, as in the stdlib.
        """
        outcome: Exception = error
        if all_errors and self.errors:
            outcome = ExceptionGroup("create_connection failed", self.errors)
            outcome.__suppress_context__ = True  # *error* is one of its members
        rounds = "1 attempt" if self.attempt == 1 else f"{self.attempt} attempts"
        outcome.add_note(
            f"safedial: gave up dialing {describe(self.host, self.port)} after {rounds}, "
            f"{time.monotonic() - self.started:.3f} s"
        )
        for (where, _, _), (first, last, words) in self._said.items():
            which = f"attempt {first}" if first == last else f"attempts {first} to {last}"
            outcome.add_note(f"safedial: {where}, {which}: {words}")
        return outcome

    def _emit(
        self, kind: EventKind, sockaddr: SockAddr | None, error: OSError | None = None, wait: float | None = None
    ) -> None:
        elapsed = time.monotonic() - self.started
        emit(DialEvent(kind, self.host, self.port, sockaddr, self.attempt, elapsed, error, wait), self.on_event)
