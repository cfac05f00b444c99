"""The policies `redial` and `reconnect`, as plain tenacity objects, and the predicates for policies of your own."""

import functools
import math
import random
import sys
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import tenacity
import tenacity.asyncio
from tenacity import AsyncRetrying, RetryCallState, Retrying, wait_random_exponential
from tenacity.retry import retry_base
from tenacity.wait import wait_base

from safedial import _clock
from safedial._address import shown
from safedial._retry.transient import errors_of, is_spurious, is_transient
from safedial.errors import PortsExhaustedError

# Seconds. On loopback a port in TIME_WAIT is free again after 1 s (Linux, tcp_tw_reuse = 2): two waits suffice there.
_port_backoff = wait_random_exponential(min=0.5, multiplier=1.0, max=5.0)


class _Strategy(tenacity.retry_if_exception):
    """A strategy that is there already: it is not called to make one, as tenacity's classes are."""

    def __call__(self, retry_state: RetryCallState | None = None) -> bool:
        if retry_state is None:
            raise TypeError(f"{self!r} is a strategy already, which is not called: retry=safedial.{self!r}")
        return super().__call__(retry_state)

    def __repr__(self) -> str:
        return type(self).__name__.lstrip("_")


# Classes of their own, so that help() explains each.
class _retry_if_spurious(_Strategy):  # noqa: N801  # as tenacity names its strategies
    """Tenacity strategy: retry a self-connect, and EADDRNOTAVAIL if it is transient.

    Neither says anything about the server. Combine it with a stop and a wait: dialing at once makes exhaustion worse::

        tenacity.Retrying(retry=safedial.retry_if_spurious, stop=..., wait=...)
    """


class _retry_if_transient(_Strategy):  # noqa: N801  # as above
    """Tenacity strategy: retry spurious errors, and those of a server that is down and may come back.

    Refused, reset, timed out, unreachable, an end of file before the handshake was over, a temporary failure of the
    resolver, and what servers say while they start, stop or are full. docs/clients.md has the whole list. A name that
    does not resolve is retried only if it did before in this process::

        tenacity.Retrying(retry=safedial.retry_if_transient, stop=..., wait=...)
    """


retry_if_spurious = _retry_if_spurious(is_spurious)
retry_if_transient = _retry_if_transient(is_transient)

Also: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]


def redial(attempts: int = 3) -> Retrying:
    """Return the default policy: another round only if the error says nothing about the server.

    After a self-connect the next round begins at once. If local ports are exhausted (transient EADDRNOTAVAIL), it waits
    for a random time from 0.5 s to 1 s; the upper bound doubles with each round, up to 5 s. Outside Linux the first
    wait is 0, because the kernel may just have picked a port already in use. A refused connection is final.

    Args:
        attempts: the number of rounds, at least 1. Each round tries every address. Default: 3, as in Go's dialTCP.

    Raises:
        TypeError, ValueError: *attempts* is not a whole number of at least 1.
    """
    if isinstance(attempts, bool) or not isinstance(attempts, int):
        raise TypeError(f"attempts must be a whole number, not {shown(attempts)}")
    if attempts < 1:
        raise ValueError(f"attempts must be at least 1, not {attempts}")
    stop = tenacity.stop_after_attempt(attempts)
    return Retrying(retry=retry_if_spurious, stop=stop, wait=_wait_for_a_port, reraise=True)


def reconnect(
    within: float | None = 60.0, first: float = 0.05, cap: float = 5.0, *, names: bool = True, also: Also = ()
) -> Retrying:
    """Return a policy for a server that is down and may come back.

    It dials again after the errors of `retry_if_transient`, and after the two that follow from *names*. The wait after
    round n is a random time between the half and the whole of min(cap, first * 2 ** (n - 1)) seconds: exponential
    backoff with equal jitter, which has no round without a wait.

    An error that safedial does not know ends the dial, and the log says so at INFO: see *also*.

    Args:
        within: seconds since the dial began. The last wait is cut, so that a last round begins when the time is over.
            A round that has begun is not cut short: limit it with *timeout*. None: without end.
        first: upper bound of the first wait, in seconds.
        cap: upper bound of every wait, in seconds.
        names: dial again if the name does not resolve, or if this host does not have the source address (yet). True:
            a name that is spelled wrong costs *within* seconds, and the log says at once what the dial waits for.
            False: only if the name resolved, or the address was there, before in this process.
        also: more errors to dial again after: an exception class, a tuple of classes, or a function of the exception.
            Classes are looked for among its causes too.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
    """
    for name, value in (("within", within), ("first", first), ("cap", cap)):
        if value is None and name == "within":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} must be a number of seconds, not {shown(value)}")
        if not (0 < value < math.inf):
            hint = "; for a loop without end: within=None" if name == "within" else ""
            raise ValueError(f"{name} must be positive and finite, not {shown(value)}{hint}")
    if not isinstance(names, bool):
        raise TypeError(f"names must be True or False, not {shown(names)}")
    stop = tenacity.stop_never if within is None else _StopAfter(within)
    return Retrying(
        retry=RetryWhileDown(names, also), stop=stop, wait=_Backoff(within or math.inf, first, cap), reraise=True
    )


class RetryWhileDown(retry_base):
    """`reconnect`'s strategy: which errors it dials again after."""

    def __init__(self, names: bool, also: Also) -> None:
        self._names, self.added = names, _predicate(also)

    def __call__(self, retry_state: RetryCallState) -> bool:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        return isinstance(error, Exception) and (is_transient(error, names=self._names) or bool(self.added(error)))


def _predicate(also: Any) -> Callable[[BaseException], bool]:
    wanted: Any = (also,) if isinstance(also, type) else also
    if callable(wanted):
        return cast("Callable[[BaseException], bool]", wanted)
    if not issubclass(type(wanted), tuple) or not all(map(_is_error_class, wanted)):
        raise TypeError(f"also must be an exception class, a tuple of them, or a function, not {shown(also)}")
    return functools.partial(_is_any_of, wanted)  # no lambda: policies can be pickled


def _is_any_of(classes: tuple[type[BaseException], ...], error: BaseException) -> bool:
    return any(isinstance(each, classes) for each in errors_of(error))


def _is_error_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def retrying_too(policy: Any, wanted: Callable[[BaseException], bool]) -> Any:
    """Return a copy of *policy* that dials again after the errors that are *wanted*, too."""
    either: Any = tenacity.asyncio.retry_any if isinstance(policy, AsyncRetrying) else tenacity.retry_any
    return policy.copy(retry=either(tenacity.retry_if_exception(wanted), policy.retry))


class _StopAfter(tenacity.stop_after_delay):
    """`tenacity.stop_after_delay`, by safedial's clock, which freezegun does not stop."""

    def __call__(self, retry_state: RetryCallState) -> bool:
        return _since_start(retry_state) >= self.max_delay


def _since_start(state: RetryCallState) -> float:
    """Return the seconds since the first round began.

    In a loop of tenacity's, freezegun stops the clock that tells them. Then return those since the first round failed.
    """
    now = _clock.now()
    first: float = vars(state).setdefault("_failed_first", now)
    return max(state.seconds_since_start or 0.0, now - first)


class _Backoff(wait_base):
    """Exponential backoff with equal jitter, that ends with the time of the policy.

    With full jitter, the waits of a few rounds may all be close to 0, and a server that hangs up at once is stormed.
    """

    def __init__(self, within: float, first: float, cap: float) -> None:
        self._within, self._first, self._cap = within, first, cap

    def __call__(self, retry_state: RetryCallState) -> float:
        try:
            longest = min(self._cap, self._first * 2 ** (retry_state.attempt_number - 1))
        except OverflowError:  # a float ends at 2 ** 1024
            longest = self._cap
        left = self._within - _since_start(retry_state)
        return max(0.0, min(random.uniform(longest / 2, longest), left))  # noqa: S311  # jitter is no secret


def _wait_for_a_port(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    exhausted = error is not None and any(isinstance(each, PortsExhaustedError) for each in errors_of(error))
    # Other kernels than Linux may just have picked a port already in use.
    maybe_not = state.attempt_number == 1 and sys.platform != "linux"
    return _port_backoff(state) if exhausted and not maybe_not else 0.0


default_policy = redial()
"""The policy that dials without *policy* share. Each dial copies it."""


def waits_for_server(policy: Retrying | AsyncRetrying) -> bool:
    """Return whether *policy* may wait for a server: whether it retries by more than `retry_if_spurious`."""
    return policy.retry is not retry_if_spurious
