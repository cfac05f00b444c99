"""The report of the demo: its words, a progress bar and the closing table.

The only module that imports rich, which comes with the extra ``cli``. The sockets are `demo`'s.
"""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from safedial import demo
from safedial.demo import Contender, Limits, Stage, Tally

# Dials that safedial makes before its server comes back, at least. In as many, plain dials on
# Linux connect to themselves 2 to 4 times (measured).
_ENOUGH_DIALS = 100_000


def run(
    console: Console | None = None,
    limits: Limits | None = None,
    plain: Sequence[Contender] = (demo.PLAIN, demo.CLOSING),
    safe: Contender = demo.SAFE,
    enough_dials: int = _ENOUGH_DIALS,
) -> int:
    """Play every act and print the report. Return the exit status: 0 where *safe* is clean, else 1.

    Args:
        console: where to print. Default: standard output.
        limits: how long each act may take.
        plain: contenders that dial until they connect to themselves.
        safe: the contender that is judged. The fault is forced on it where it had to be on one of
            *plain*.
        enough_dials: dials of *safe* before its server comes back; more where one of *plain*
            needed more.
    """
    console = console or Console()
    limits = limits or Limits()
    _say(console, "A server dies, a reconnect loop dials on, the server tries to come back: three loops.")
    _say(console, "Real sockets on 127.0.0.1, a server and a port for each loop. It takes less than a minute.")
    tallies: list[Tally] = []
    for contender in plain:
        tallies.append(_act(console, contender, limits))
        _say(console, f"  {before(tallies[-1])}", f"  {after(tallies[-1])}")
    tally = _act(
        console,
        safe,
        limits,
        dials=max([enough_dials, *(tally.dials_before for tally in tallies)]),
        force=any(tally.forced for tally in tallies),
    )
    steered = demo.steering_works(tally.port)
    _say(console, f"  {before(tally)}", f"  {steering(tally.port, steered=steered)}", f"  {after(tally)}", "")
    console.print(table([*tallies, tally]))
    found = demo.flaws(tally, steered=steered)
    _say(console, "", verdict(tally, found))
    return 1 if found else 0


def _say(console: Console, *lines: str) -> None:
    # Without markup and highlighting: it is prose. soft_wrap: the terminal folds it, and a file
    # gets each sentence on one line, where grep finds it.
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _act(console: Console, contender: Contender, limits: Limits, *, dials: int | None = None, force: bool = False) -> Tally:
    _say(console, "", f"{contender.name}: {contender.habit}")
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} dials"),
        TimeElapsedColumn(),
    )
    # Transient: the sentence that follows tells more than a bar that is full.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        # No total, as for the plain loops: the bar only shows that it goes on.
        task = progress.add_task("the loop dials", total=dials)

        def watch(stage: Stage, made: int) -> None:
            progress.update(task, description=stage, completed=made)

        return demo.play(contender, limits, dials=dials, force=force, watch=watch)


def before(tally: Tally) -> str:
    """Tell what happened until the server tried to come back."""
    dialed = f"The server on port {tally.port} died. The loop dialed {tally.dials_before:,} times in {tally.seconds_before:.1f} s"
    itself = f"the kernel drew {tally.port} as the local port too and connected it to itself"
    forced = f"as that did not happen by itself within {tally.limits.dialing:g} s, it was forced"
    if tally.self_connects:
        return f"{dialed} until {itself}{f' ({forced})' if tally.forced else ''}."
    if tally.let_go:
        caught = f"safedial detected it and let go ({tally.let_go} times)"
        ...
    return f"{dialed} and was never connected to itself."
