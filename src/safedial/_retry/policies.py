"""The policies `redial` and `reconnect`, as plain tenacity objects, and the predicates for policies of your own."""

import math
import sys
from typing import TYPE_CHECKING

import tenacity
from tenacity import RetryCallState, Retrying, wait_random_exponential

from safedial._retry.transient import errors_of, is_spurious, is_transient
from safedial.errors import PortsExhaustedError

if TYPE_CHECKING:
    from safedial._retry.argument import Policy

# Seconds. On loopback a port in TIME_WAIT is free again after 1 s (Linux, tcp_tw_reuse = 2): two waits suffice there.
_port_backoff = wait_random_exponential(min=0.5, multiplier=1.0, max=5.0)

retry_if_spurious = tenacity.retry_if_exception(is_spurious)
"""Tenacity strategy: retry a self-connect, and EADDRNOTAVAIL if it is transient.

Neither says anything about the server. Combine it with a stop and a wait: dialing at once makes exhaustion worse.
"""

retry_if_transient = tenacity.retry_if_exception(is_transient)
"""Tenacity strategy: retry spurious errors, and refused, timed out, reset, unreachable, and a temporary
failure of the resolver (EAI_AGAIN): the errors of a server that is down and may come back.
"""


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
        raise TypeError(f"attempts must be a whole number, not {attempts!r}")
    if attempts < 1:
        raise ValueError(f"attempts must be at least 1, not {attempts}")
    stop = tenacity.stop_after_attempt(attempts)
    return Retrying(retry=retry_if_spurious, stop=stop, wait=_wait_for_a_port, reraise=True)


def reconnect(within: float = 60.0, first: float = 0.05, cap: float = 5.0) -> Retrying:
    """Return a policy for a server that is down and may come back: `retry_if_transient`.

    The wait after round n is a random time from 0 to min(cap, first * 2 ** (n - 1)) seconds:
    exponential backoff with full jitter, applied after the cap.

    Args:
        within: seconds since the dial began. No wait begins that would end later. A round that has begun is not cut
            short: limit it with *timeout*.
        first: upper bound of the first wait, in seconds.
        cap: upper bound of every wait, in seconds.

    Raises:
        TypeError, ValueError: an argument is not a positive, finite number of seconds.
    """
    for name, value in (("within", within), ("first", first), ("cap", cap)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} must be a number of seconds, not {value!r}")
        if not (0 < value < math.inf):
            hint = "for a loop without end, use a tenacity.Retrying with retry=safedial.retry_if_transient"
            raise ValueError(f"{name} must be positive and finite, not {value!r}; {hint}")
    stop, wait = tenacity.stop_before_delay(within), wait_random_exponential(multiplier=first, max=cap)
    return Retrying(retry=retry_if_transient, stop=stop, wait=wait, reraise=True)


def _wait_for_a_port(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    exhausted = error is not None and any(isinstance(each, PortsExhaustedError) for each in errors_of(error))
    # Other kernels than Linux may just have picked a port already in use.
    maybe_not = state.attempt_number == 1 and sys.platform != "linux"
    return _port_backoff(state) if exhausted and not maybe_not else 0.0


default_policy = redial()
"""The policy that dials without *policy* share. Each dial copies it."""


def waits_for_server(policy: "Policy") -> bool:
    """Return whether *policy* may wait until a server is there: whether it is neither `redial` nor a copy of it."""
    return policy.retry is not retry_if_spurious
