"""The report of the demo: its words, a progress bar and the closing table.

The only module that imports rich, which comes with the extra ``cli``. The sockets are `demo`'s.
"""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from safedial.cli import demo, demo_loop
from safedial.cli.demo import Limits, Stage, Tally
from safedial.cli.demo_loop import Contender

# Dials that safedial makes before its server comes back, at least. In as many, plain dials on
# Linux connect to themselves 2 to 4 times (measured).
_ENOUGH_DIALS = 100_000


def run(
    console: Console | None = None,
    limits: Limits | None = None,
    plain: Sequence[Contender] = (demo_loop.PLAIN, demo_loop.CLOSING),
    safe: Contender = demo_loop.SAFE,
    enough_dials: int = _ENOUGH_DIALS,
) -> int:
    """Play every act and print the report. Return the exit status: 0 where *safe* is clean, else 1.

    Args:
        console: where to print. Default: standard output.
        limits: how long each act may take.
        plain: contenders that dial until they connect to themselves.
        safe: the contender that is judged. Where the fault had to be forced on one of *plain*, it
            is forced here too.
        enough_dials: dials of *safe* before its server comes back; more where *plain* needed more.

    Raises:
        OSError: there is no loopback to play on.
    """
    console = console or Console()
    limits = limits or Limits()
    _say(console, "A server dies, a reconnect loop dials on, the server tries to come back.")
    _say(console, "Three loops, real sockets on 127.0.0.1, less than a minute.")
    tallies: list[Tally] = []
    for contender in plain:
        tally = _act(console, contender, limits)
        tallies.append(tally)
        _say(console, before(tally), after(tally, contender.leaves))
    dials = max([enough_dials, *(tally.dials_before for tally in tallies)])
    tally = _act(console, safe, limits, dials=dials, force=any(tally.forced for tally in tallies))
    steered = demo.steering_works(tally.port)
    _say(console, before(tally), steering(tally.port, steered=steered), after(tally, safe.leaves), "")
    console.print(table([*tallies, tally]))
    if tally.forced:
        _say(console, f"* forced, as it did not occur by itself within {limits.dialing:g} s")
    flaws = demo.flaws(tally, steered=steered)
    _say(console, "", verdict(flaws))
    return 1 if flaws else 0


def _say(console: Console, *lines: str, style: str | None = None) -> None:
    # A terminal wraps at words; a file gets each sentence on one line, where grep finds it.
    for line in lines:
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _act(
    console: Console, contender: Contender, limits: Limits, *, dials: int | None = None, force: bool = False
) -> Tally:
    _say(console, "", f"{contender.name}: {contender.habit}", style="bold")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} dials"),
        TimeElapsedColumn(),
    )
    # Transient: the sentences that follow tell more than a full bar.
    with Progress(*columns, console=console, transient=True, disable=not console.is_interactive) as progress:
        # Without a total, while nobody knows how many it takes, the bar only shows that it goes on.
        task = progress.add_task("", total=dials)

        def watch(stage: Stage, made: int) -> None:
            progress.update(task, description=stage, completed=made)

        return demo.play(contender, limits, dials=dials, force=force, watch=watch)


def before(tally: Tally) -> str:
    """Tell what happened until the server tried to come back."""
    port = tally.port
    dialed = (
        f"The server on port {port} died. "
        f"The loop dialed {_count(tally.dials_before, 'time')} in {tally.seconds_before:.2f} s"
    )
    if tally.forced:
        if tally.self_connects:
            outcome = f"with {port} the only local port to choose, the loop was connected to itself"
        elif tally.let_go:
            outcome = f"safedial let go of {_count(tally.let_go, 'self-connect')}"
        else:
            outcome = "without success"
        return f"{dialed}. The fault was then forced: {outcome}."
    if tally.self_connects:
        return f"{dialed}, until the kernel chose {port} as the local port too and connected it to itself."
    if tally.let_go:
        return f"{dialed}, and safedial let go of {_count(tally.let_go, 'self-connect')}."
    return f"{dialed}, and was never connected to itself."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def steering(port: int, *, steered: bool) -> str:
    """Tell whether the kernel was kept off *port*."""
    if steered:
        return f"Steering was in effect: the kernel was kept off local port {port} (IP_LOCAL_PORT_RANGE)."
    return "This system can't be steered; safedial detects a self-connect and lets go of it."


def after(tally: Tally, leaves: str) -> str:
    """Tell how the server fared; *leaves* is why it could not come back, told if it couldn't."""
    comeback = tally.comeback
    if comeback.after is None:
        return (
            f"The server could not come back: bind failed {_count(comeback.failed, 'time')} "
            f"in {tally.limits.comeback:g} s, {comeback.error}. {leaves}"
        ).rstrip()
    failed = f", after {_count(comeback.failed, 'failed bind')} ({comeback.error})" if comeback.failed else ""
    reached = "and the loop reached it" if comeback.reached else "but the loop did not reach it"
    return f"The server was back in {comeback.after:.2f} s{failed}, {reached}."


def table(tallies: Sequence[Tally]) -> Table:
    """Return the closing table, a row for each of *tallies*. It fits 80 columns."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    made.add_column("\nloop", no_wrap=True)
    for header in ("\ndials", "self-\nconnects", "server's\nbinds", "binds\nfailed", "server\nback after"):
        made.add_column(header, justify="right", no_wrap=True)
    for tally in tallies:
        made.add_row(*row(tally))
    return made


def row(tally: Tally) -> tuple[str, ...]:
    """Return the cells of *tally*."""
    star = "*" if tally.forced else ""
    comeback = tally.comeback
    return (
        tally.name,
        f"{tally.dials:,}",
        f"{tally.self_connects}, {tally.let_go} let go{star}" if tally.let_go else f"{tally.self_connects}{star}",
        f"{comeback.binds:,}",
        f"{comeback.failed:,}",
        f"never, in {tally.limits.comeback:g} s" if comeback.after is None else f"{comeback.after:.2f} s",
    )


def verdict(flaws: Sequence[str]) -> str:
    """Return the closing sentence."""
    if flaws:
        return f"safedial's row is not clean: {'; '.join(flaws)}."
    return "safedial's loop was never given a self-connected socket, and its server came back."
