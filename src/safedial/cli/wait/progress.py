"""How far the wait is: a record for each target, which `run` changes and `show` shows; how the wait ended."""

import signal
from dataclasses import dataclass
from typing import Literal, TypeAlias

from safedial.cli.wait.targets import Target

# waiting: asked again and again. ready: all that was asked for is true. failed: it can't become true by itself (a
# permanent error); the wait ends. not needed: another target was enough (--any).
State: TypeAlias = Literal["waiting", "ready", "failed", "not needed"]
# The last is the signal that ended the wait.
Outcome: TypeAlias = Literal["ready", "timed out", "failed"] | signal.Signals


class NotReady(OSError):  # noqa: N818  # it is no error of anybody
    """What was asked for is not true yet, and may become true. Its errno is None if it has nothing to do with one.

    *hint* says what may be wrong, or what to look at, in one sentence.
    """

    def __init__(self, *args: object, hint: str = "") -> None:
        super().__init__(*args)
        self.hint = hint


@dataclass
class Progress:
    """The state of one target."""

    target: Target
    state: State = "waiting"
    rounds: int = 0  # that have ended
    error: Exception | None = None  # the last one
    ready_after: float | None = None  # seconds since the wait began
    gone: bool = False  # whether the port is to become free; else, whether a server is to be there
    # What is wrong if the look that goes on now is cut short; None if nothing is known yet.
    step: NotReady | None = None
