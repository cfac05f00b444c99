"""The report of the demo: its sentences, a progress bar and the closing table. Only this module imports rich."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from safedial.cli import demo
from safedial.cli.demo import Contender, Limits, Stage, Tally

# The least number of dials that safedial makes before its server comes back. Of as many plain dials on Linux, 2 to 4
# connect to themselves (measured).
_ENOUGH_DIALS = 100_000


def run(
    console: Console | None = None,
    limits: Limits | None = None,
    plain: Sequence[Contender] = (demo.PLAIN, demo.CLOSING),
    safe: Contender = demo.SAFE,
    enough_dials: int = _ENOUGH_DIALS,
) -> int:
    """Play every act and print the report. Return the exit status: 0 if *safe* is clean, else 1.

    *plain* dial until they connect to themselves. *safe* dials *enough_dials* times, or as often as they did. If the
    self-connect had to be forced on one of *plain*, it is forced on *safe* too. OSError: there is no loopback.
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
    console.print(_table([*tallies, tally]))
    if tally.forced:
        _say(console, f"* forced, because it did not happen by itself within {limits.dialing:g} s")
    if flaws := demo.flaws(tally, steered=steered):
        _say(console, "", f"safedial's row is not clean: {'; '.join(flaws)}.")
        return 1
    _say(console, "", "safedial's loop was never given a self-connected socket, and its server came back.")
    return 0


def _say(console: Console, *lines: str, style: str | None = None) -> None:
    # A terminal wraps at words; a file gets each sentence on one line, where grep finds it.
    for line in lines:
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _act(
    console: Console, contender: Contender, limits: Limits, *, dials: int | None = None, force: bool = False
) -> Tally:
    _say(console, "", f"{contender.name}: {contender.habit}", style="bold")
    counter = TextColumn("{task.completed:,.0f} dials")
    columns = (TextColumn("{task.description}"), BarColumn(), counter, TimeElapsedColumn())
    # Transient: the sentences that follow say more than a full bar.
    with Progress(*columns, console=console, transient=True, disable=not console.is_interactive) as progress:
        # Without a total, while the number of dials is unknown, the bar only shows that the loop goes on.
        task = progress.add_task("", total=dials)

        def watch(stage: Stage, made: int) -> None:
            progress.update(task, description=stage, completed=made)

        return demo.play(contender, limits, dials=dials, force=force, watch=watch)


def before(tally: Tally) -> str:
    """Say what happened until the server tried to come back."""
    port, dials = tally.port, _count(tally.dials_before, "time")
    dialed = f"The server on port {port} died. The loop dialed {dials} in {tally.seconds_before:.2f} s"
    released = f"safedial released {_count(tally.released, 'self-connect')}"
    if tally.forced:
        outcome = released if tally.released else "without success"
        if tally.self_connects:
            outcome = f"with {port} the only local port to draw, the loop was connected to itself"
        return f"{dialed}. The fault was then forced: {outcome}."
    if tally.self_connects:
        return f"{dialed}, until the kernel drew {port} as the local port too and connected it to itself."
    return f"{dialed}, and {released if tally.released else 'was never connected to itself'}."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def steering(port: int, *, steered: bool) -> str:
    """Say whether the kernel was kept off *port*."""
    if steered:
        return f"Steering was in effect: the kernel was kept off local port {port} (IP_LOCAL_PORT_RANGE)."
    return "This system can't be steered; safedial detects a self-connect and releases it."


def after(tally: Tally, leaves: str) -> str:
    """Say whether the server came back; *leaves* is the reason if it did not."""
    if tally.after is None:
        failed = f"bind failed {_count(tally.failed, 'time')} in {tally.limits.comeback:g} s, {tally.error}"
        return f"The server could not come back: {failed}. {leaves}".rstrip()
    failed = f", after {_count(tally.failed, 'failed bind')} ({tally.error})" if tally.failed else ""
    reached = "and the loop reached it" if tally.reached else "but the loop did not reach it"
    return f"The server was back in {tally.after:.2f} s{failed}, {reached}."


def _table(tallies: Sequence[Tally]) -> Table:
    """Return the closing table, which fits 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("\nloop", no_wrap=True)
    for header in ("\ndials", "self-\nconnects", "server's\nbinds", "binds\nfailed", "server\nback after"):
        table.add_column(header, justify="right", no_wrap=True)
    for tally in tallies:
        released = f", {tally.released} released" if tally.released else ""
        back = f"never, in {tally.limits.comeback:g} s" if tally.after is None else f"{tally.after:.2f} s"
        connects = f"{tally.self_connects}{released}{'*' if tally.forced else ''}"
        table.add_row(tally.name, f"{tally.dials:,}", connects, f"{tally.binds:,}", f"{tally.failed:,}", back)
    return table
