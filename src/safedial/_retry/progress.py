"""How far a dial is: its round and its time, and what the log, the hook and the policy are told about it."""

import logging
from typing import Any

from safedial import _clock
from safedial._address import Host, Port, SockAddr
from safedial._deadline import NO_DEADLINE, Deadline
from safedial._retry.kinds import Verdict
from safedial._retry.transient import error_type, verdict
from safedial.events import DialEvent, EventKind, OnEvent, Reason, emit, logger

_REASONS: dict[Verdict, Reason] = {Verdict.PERMANENT: "permanent", Verdict.UNKNOWN: "unrecognised"}


class Progress:
    """The state of a dial that is made in rounds."""

    client: str | None = None
    on_event: OnEvent | None = None
    round = 1
    deadline: Deadline = NO_DEADLINE
    # Why the policy ended the dial; None if it was never asked.
    reason: Reason | None = None
    # Whether the caller gave the policy. If so, giving up is worth a line at INFO.
    asked = False
    # Whether the last line at INFO told of trouble, so that the next connection is worth such a line too.
    troubled = False
    host: Host
    port: Port
    started: float

    @property
    def target(self) -> tuple[Any, ...]:
        """The dialed address, for tenacity's own hooks, such as ``before_sleep_log``."""
        return self.host, self.port

    @property
    def observed(self) -> bool:
        """Whether events are wanted: by a hook, by the log at DEBUG, or by the log at INFO once something failed."""
        failed = self.round > 1 or self.troubled
        return failed or self.on_event is not None or logger.isEnabledFor(logging.DEBUG)

    def clock(self) -> float:
        """Return the seconds that the dial and its policy count."""
        return _clock.now()

    def start_again(self) -> None:
        """Begin a new dial of the same address."""
        self.round, self.started, self.reason = 1, self.clock(), None

    def retrying(self, error: Exception, wait: float) -> None:
        """Report that the next round follows *error* in *wait* seconds."""
        told = self.round == 1 or self._rare
        self.troubled |= told
        self.report("retry", error=error, wait=wait, level=logging.INFO if told else logging.DEBUG)

    def connected(self, address: SockAddr | None, duration: float | None) -> None:
        """Report that the dial succeeded."""
        level = logging.INFO if self.troubled else logging.DEBUG
        self.troubled = False
        self.report("connected", address, duration=duration, level=level)

    def disconnected(self, error: Exception | None, lived: float, *, lost: bool, stable: bool) -> None:
        """Report that a connection ended after *lived* seconds: *lost*, or because its user was done with it."""
        told = lost and (stable or self.round == 1 or self._rare)
        self.troubled |= told
        self.report("disconnected", error=error, duration=lived, level=logging.INFO if told else logging.DEBUG)

    @property
    def _rare(self) -> bool:
        """Whether this is round 2, 4, 8 and so on: a server that hangs up each time must not flood the log."""
        return self.round > 1 and not self.round & (self.round - 1)

    def outcome(self, error: Any) -> Exception:
        """Return the exception for the caller of a dial that ends with *error*."""
        self.gave_up(error)
        if self.round > 1 and self.client is not None:
            seconds = self.clock() - self.started
            error.add_note(f"safedial: gave up on {self.client} after {self.round} rounds, {seconds:.3f} s")
        result: Exception = error
        return result

    def close(self) -> None:
        """Drop what only a running dial needs."""

    def gave_up(self, error: Exception) -> None:
        """Report that the dial ends with *error*."""
        told = self.asked or self.round > 1
        if told or self.on_event is not None:  # in the log, the line of the attempt is enough
            reason = "time" if self.deadline.passed else self.reason or reason_of(error)
            self.report("gave_up", error=error, reason=reason, level=logging.INFO if told else logging.NOTSET)

    def report(
        self,
        kind: EventKind,
        address: SockAddr | None = None,
        error: Exception | None = None,
        wait: float | None = None,
        duration: float | None = None,
        reason: Reason | None = None,
        level: int = logging.DEBUG,
    ) -> None:
        """Pass an event to the log and to the hook."""
        if self.on_event is None and not logger.isEnabledFor(level):
            return
        elapsed = self.clock() - self.started
        named = None if error is None else error_type(error)
        event = DialEvent(
            kind, self.host, self.port, address, self.round, elapsed, error, wait, duration, named, reason, self.client
        )
        emit(event, self.on_event, level)


def reason_of(error: BaseException) -> Reason:
    """Return why a policy that does not retry *error* gives up."""
    return _REASONS.get(verdict(error), "policy")
