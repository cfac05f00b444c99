"""The record of one dial: its rounds and failures, and the error that it ends with."""

import logging
from collections.abc import Sequence
from typing import Any

from safedial import _clock
from safedial._address import Host, Port, SockAddr, describe, printable, worded
from safedial._deadline import Deadline
from safedial._retry.progress import Progress
from safedial.errors import PortsExhaustedError, SelfConnectError, without_figures
from safedial.events import EventKind, OnEvent

# A resolver may return other addresses in each round; 1000 notes are enough.
_MOST_NOTES = 1000


class Record(Progress):
    """One dial so far. Most dials succeed at once, so the state for failures is made at the first one."""

    # The errors of the newest round, by the number of the address.
    errors: dict[int, OSError] | None = None
    # The addresses whose attempts were still waiting when another one succeeded.
    losers: Sequence[SockAddr] = ()
    # Whether events of this round are wanted.
    watched = False
    # When the attempts of the newest round began, by address, if events are wanted.
    _began: dict[SockAddr | Host, float] | None = None
    # The last error, unless it only said that time was up.
    _last: OSError | None = None
    # For each place and kind of error: the first round, the last round, and the last message. A loop of
    # a day needs no more memory than one of a minute.
    said: dict[tuple[SockAddr | Host, type, int | None], tuple[int, int, str]] | None = None

    def __init__(self, host: Host, port: Port, on_event: OnEvent | None, total_timeout: float | None = None) -> None:
        self.host = host
        self.port = port
        self.on_event = on_event
        self.started = _clock.now()
        if total_timeout is not None:
            self.deadline = Deadline(total_timeout, self.started)

    def begin_round(self) -> None:
        """Begin a round whose events are wanted. Forget the one before."""
        self.errors, self.losers = None, ()
        self.watched = True

    def begins(self, where: SockAddr | Host) -> None:
        """Note when an attempt or a resolution begins. Called only if events are wanted."""
        self._began = self._began or {}
        self._began[where] = _clock.now()

    def _duration(self, where: SockAddr | Host) -> float | None:
        began = self._began.get(where) if self._began else None
        return None if began is None else _clock.now() - began

    @property
    def failures(self) -> list[OSError]:
        """The errors of the newest round, in the order of the addresses."""
        errors = self.errors or {}
        return [errors[number] for number in sorted(errors)]

    def arrived(self, made: Any, sockaddr: SockAddr) -> None:
        """Report that *sockaddr* answered, and which addresses had not yet. If that is interrupted, close *made*."""
        try:
            for loser in self.losers:
                self.report("lost", loser, duration=self._duration(loser))
            self.connected(sockaddr, self._duration(sockaddr))
        except BaseException:
            made.close()
            raise

    def failed(self, where: SockAddr | Host, error: OSError, number: int | None = None) -> None:
        """Record and report *error*. *where* is the attempt's socket address, or the host that was not resolved."""
        if number is not None:
            self.errors = self.errors or {}
            self.errors[number] = error
        if self.said is None:
            self.said = {}
        said = self.said
        key = where, type(error), error.errno
        first = said[key][0] if key in said else self.round
        said[key] = first, self.round, printable(without_figures(error)) or type(error).__name__
        if len(said) > _MOST_NOTES:
            del said[next(iter(said))]
        # A timeout without errno comes from safedial, one with errno from the kernel.
        if error.errno is not None or not self.deadline.passed:
            self._last = error
        itself = isinstance(error, SelfConnectError)
        if itself or self.observed:
            sockaddr = where if isinstance(where, tuple) else None
            level = logging.WARNING if itself else logging.DEBUG
            kind: EventKind = "self_connect" if itself else "failed"
            self.report(kind, sockaddr, error, duration=self._duration(where), level=level)

    def resolved(self) -> None:
        """Report that the resolver answered."""
        self.report("resolved", duration=self._duration(self.host))

    def start_again(self) -> None:
        """Begin a new dial of the same address."""
        super().start_again()
        self.said = self._last = None
        self.losers, self.watched = (), False

    def outcome(self, error: Any, *, all_errors: bool = False) -> Exception:
        """Return the exception for the caller: *error*, with notes on each address.

        With *all_errors* that is an ExceptionGroup of each address's last error, as in the stdlib.
        """
        outcome: Exception = error
        if all_errors and self.errors:
            outcome = ExceptionGroup("create_connection failed", self.failures)
            outcome.__suppress_context__ = True  # *error* is a member of the group
        if self.deadline.passed:
            cause = self._last if outcome is error else outcome
            failure = "" if self._last is None else printable(without_figures(self._last))
            outcome = self.deadline.error(describe(self.host, self.port), failure)
            outcome.__cause__ = cause
        self.gave_up(outcome)
        rounds = "1 round" if self.round == 1 else f"{self.round} rounds"
        outcome.add_note(
            f"safedial: gave up dialing {describe(self.host, self.port)} after {rounds}, "
            f"{_clock.now() - self.started:.3f} s"
        )
        for (where, _, _), (first, last, message) in (self.said or {}).items():
            place = describe(*where[:2]) if isinstance(where, tuple) else f"resolving {worded(where)}"
            rounds = f"round {first}" if first == last else f"rounds {first} to {last}"
            outcome.add_note(f"safedial: {place}, {rounds}: {message}")
        return outcome

    def close(self) -> None:
        """Forget the errors: their tracebacks hold frames that hold this record."""
        self.errors = None
        self._last = None


def last_error(errors: Sequence[OSError]) -> OSError:
    """Choose the error that `socket.create_connection` would raise: the last address's."""
    return _with_others(errors[-1], errors[:-1])


def combined_error(errors: Sequence[OSError]) -> OSError:
    """Choose the error that asyncio's ``create_connection`` would raise: the first, or one that lists all messages.

    Unlike asyncio's, the list keeps an errno that all share, so ``except ConnectionRefusedError`` works for a name
    with two addresses. Exceptions of safedial's own classes stay as they are.
    """
    first = errors[0]
    texts = [without_figures(error) for error in errors]
    ours = isinstance(first, SelfConnectError | PortsExhaustedError)
    if all(text == texts[0] for text in texts) or (ours and all(type(error) is type(first) for error in errors)):
        return _with_others(first, errors[1:])
    summary = f"Multiple exceptions: {', '.join(texts)}"
    shared = first.errno is not None and all(error.errno == first.errno for error in errors)
    return _with_others(OSError(first.errno, summary) if shared else OSError(summary), errors)


def _with_others(error: OSError, others: Sequence[OSError]) -> OSError:
    # Policies must see a transient error of one address behind a permanent one of another.
    if others:
        error._other_addresses = tuple(others)  # type: ignore[attr-defined]  # errors_of reads it
    return error
