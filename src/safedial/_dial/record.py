"""The record of one dial: which attempts were made, what each said, and telling the world.

Shared by the blocking and the asyncio driver. It also makes the error that a dial ends with.
"""

import errno
import logging
import time

from safedial._address import Host, Port, SockAddr, describe
from safedial._deadline import NO_DEADLINE, Deadline
from safedial.errors import SelfConnectError
from safedial.events import DialEvent, EventKind, OnEvent, emit, logger

# A resolver may give other addresses in each round; 1000 tell enough.
_MOST_NOTES = 1000


class Journal:
    """What one dial has done so far. Belongs to that dial alone."""

    __slots__ = ("_said", "attempt", "deadline", "errors", "host", "last", "losers", "on_event", "port", "started")

    def __init__(self, host: Host, port: Port, on_event: OnEvent | None, total_timeout: float | None = None) -> None:
        self.host = host
        self.port = port
        self.on_event = on_event
        self.started = time.monotonic()
        self.deadline = NO_DEADLINE if total_timeout is None else Deadline(total_timeout, self.started)
        self.attempt = 1
        # The errors of the newest round, one for each address.
        self.errors: list[OSError] = []
        # The last failure that was not just the end of the time.
        self.last: OSError | None = None
        # Whose sockets were still connecting when another address had answered.
        self.losers: list[SockAddr] = []
        # What failed where and how: the first and last attempt, and the last one's words. Keyed so
        # that a loop of a day needs no more memory than one of a minute.
        self._said: dict[tuple[str, type, int | None], tuple[int, int, str]] = {}

    @property
    def target(self) -> tuple[Host, Port]:
        """What is dialed."""
        return self.host, self.port

    @property
    def _observed(self) -> bool:
        return self.on_event is not None or logger.isEnabledFor(logging.DEBUG)

    def connected(self, sockaddr: SockAddr) -> None:
        """Tell that *sockaddr* answered, and who had not."""
        if self.attempt > 1 or self._observed:
            for loser in self.losers if self._observed else ():
                self._emit("lost", loser)
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
        if len(self._said) > _MOST_NOTES:
            del self._said[next(iter(self._said))]
        # A timeout without an errno is our own; the kernel's has one.
        if error.errno is not None or not self.deadline.met:
            self.last = error
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
        if self.deadline.met:
            outcome = self._out_of_time(self.last if outcome is error else outcome)
        rounds = "1 attempt" if self.attempt == 1 else f"{self.attempt} attempts"
        outcome.add_note(
            f"safedial: gave up dialing {describe(self.host, self.port)} after {rounds}, "
            f"{time.monotonic() - self.started:.3f} s"
        )
        for (where, _, _), (first, last, words) in self._said.items():
            which = f"attempt {first}" if first == last else f"attempts {first} to {last}"
            outcome.add_note(f"safedial: {where}, {which}: {words}")
        return outcome

    def _out_of_time(self, cause: Exception | None) -> TimeoutError:
        text = (
            f"Timed out: {describe(self.host, self.port)} could not be reached within total_timeout, "
            f"{self.deadline.total:g} s"
        )
        if self.deadline.refused is not None:
            text += f"; the wait before the next attempt, {self.deadline.refused:.3f} s, would have ended too late"
        error = TimeoutError(errno.ETIMEDOUT, text)
        error.__cause__ = cause
        return error

    def close(self) -> None:
        """Forget the errors: their tracebacks hold frames that hold this journal."""
        self.errors = []
        self.last = None

    def _emit(
        self, kind: EventKind, sockaddr: SockAddr | None, error: OSError | None = None, wait: float | None = None
    ) -> None:
        elapsed = time.monotonic() - self.started
        emit(DialEvent(kind, self.host, self.port, sockaddr, self.attempt, elapsed, error, wait), self.on_event)
