"""How the wait goes, on stderr: a live line for each target on a terminal, else a line when something changes."""

import contextlib
import select
import sys
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, TextIO

from safedial.cli.extra import has_rich
from safedial.cli.wait import words
from safedial.cli.wait.progress import Outcome, Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Seconds after which a log says again what is waited for, though nothing has changed.
_STILL = 60.0
# A log has so many lines for a target that something else is wrong with; from then on, one each minute.
_MOST = 10
# How often the live lines are drawn, in a second.
_DRAWN = 8
# ASCII, as all that is written here: a container's terminal may have no more.
_SPINNER = "-\\|/"
_CUT = "..."
# Seconds for a reader of the log that is slow. One that took nothing for so long gets no more time with each line.
_PATIENCE = 0.1
_left = _PATIENCE


def log(line: str) -> None:
    """Write *line* to stderr, if that is open and somebody reads it: the wait goes on without."""
    with contextlib.suppress(AttributeError, OSError):  # AttributeError: sys.stderr is None
        if not _blocks(sys.stderr):
            sys.stderr.write(f"safedial: {line}\n")
            sys.stderr.flush()


def _blocks(stream: TextIO) -> bool:
    """Return whether nobody takes what is written: a pipe is full, or a terminal stopped. No time limit would hold."""
    global _left  # there is one stderr
    try:
        takes = select.select([], [stream.fileno()], [], _left)[1]
    except (OSError, ValueError):  # it is no file, or this is Windows
        return False
    _left = _PATIENCE if takes else 0.0
    return not takes


def result(line: str) -> None:
    """Write *line* to stdout. If that is closed, or nobody reads it, the exit status says how the wait ended."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except (AttributeError, OSError) as error:  # AttributeError: sys.stdout is None
        sys.stdout = None  # Python would flush it again at its end, and fail. COMMAND finds the descriptor as it was
        log(f"the result can't be written: {getattr(error, 'strerror', None) or 'stdout is closed'}")


@contextlib.contextmanager
def showing(
    progresses: Sequence[Progress], *, any_of: bool, timeout: float | None
) -> Generator[Callable[[Progress], object]]:
    """Show *progresses* in this block. Yield a function that is to be called with each one that has changed."""
    console = _terminal()
    if console is None:
        log(words.opening(progresses, any_of=any_of, timeout=timeout))
        yield Lines(progresses, log).changed
    else:
        with _live(progresses, console, timeout=timeout):
            yield lambda _: None  # they are drawn again all the time


def failure(progresses: Sequence[Progress], outcome: Outcome, after: float) -> None:
    """Say how a wait ended that failed."""
    lines = words.failure(progresses, outcome, after=after)
    if (console := _terminal()) is None:
        for line in lines:
            log(line)
    else:
        from safedial.cli.terminal import say

        say(console, *lines)


class Lines:
    """The lines of a log, which *write* gets: one for each target whose state or error changes, and each minute.

    A server may say something else at each look.
    """

    def __init__(
        self,
        progresses: Sequence[Progress],
        write: Callable[[str], object],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write, self._clock, self._began = write, clock, clock()
        self._said = {id(each): (words.state(each), self._began, 0) for each in progresses}

    def changed(self, progress: Progress) -> None:
        """Write what has changed since the last call."""
        now = self._clock()
        says, (said, at, lines) = words.state(progress), self._said[id(progress)]
        waits = progress.state == "waiting"
        if says != said and (lines < _MOST or not waits):
            self._write(says)
        elif waits and now - at >= _STILL:
            self._write(f"{says} ({now - self._began:.0f} s so far)")
        else:
            return
        self._said[id(progress)] = says, now, lines + 1


def _terminal() -> "Console | None":
    """Return rich's console on stderr, if that is a terminal where lines can be drawn again, and rich is installed."""
    if not (sys.stderr and sys.stderr.isatty() and has_rich()):  # None: it is closed
        return None
    from rich.console import Console

    console = Console(stderr=True)
    return console if console.is_interactive else None


@contextlib.contextmanager
def _live(progresses: Sequence[Progress], console: "Console", *, timeout: float | None) -> Generator[None]:
    from rich.console import Group
    from rich.live import Live

    from safedial.cli.terminal import GOOD, say

    began = time.monotonic()
    limit = "" if timeout is None else f"/{timeout:g}"

    def lines() -> Group:
        seconds = time.monotonic() - began
        moves = f"{_SPINNER[int(seconds * _DRAWN) % len(_SPINNER)]} {seconds:.0f}{limit} s  "
        return Group(*(_line(each, moves, console.width) for each in progresses))

    # Nobody else writes meanwhile. What stays on the screen is written at the end, whole.
    with Live(
        console=console,
        get_renderable=lines,
        refresh_per_second=_DRAWN,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ):
        yield
    for each in progresses:
        if each.state in ("ready", "not needed"):  # of the others `failure` tells
            say(console, words.state(each), style=GOOD if each.state == "ready" else None)


def _line(progress: Progress, moves: str, width: int) -> "Text":
    """Return the line of one target, which begins with *moves* for as long as it is waited for."""
    from rich.text import Text

    from safedial.cli.terminal import BAD, GOOD

    name, error, waits = progress.target.name, progress.error, progress.state == "waiting"
    says = f"{name}: {words.said(error)}" if waits and error else words.state(progress)
    line = Text(moves if waits else " " * len(moves))
    line.append(says, {"ready": GOOD, "failed": BAD}.get(progress.state, ""))
    if line.cell_len > width:  # a line that wraps would move all others, and rich's ellipsis is no ASCII
        line.truncate(width - len(_CUT), overflow="crop")
        line.append(_CUT)
    return line
