"""The report of the demo: the sentences of `words`, a progress bar and the figures. Imports rich."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from safedial._tcp.steering import ON_LINUX
from safedial.cli.demo import ordinary, scene, self_connect, words
from safedial.cli.demo.scene import Contender, Limits, Stage, Tally
from safedial.cli.terminal import BAD, GOOD, new_table, print_table, say

AnyTally = TypeVar("AnyTally", bound=Tally)

# The least number of dials that safedial makes before its server comes back. Of as many plain dials on Linux, 2 to 4
# connect to themselves (measured).
_ENOUGH_DIALS = 100_000
_HEADERS = ("\nclient", "\ndials", "self-\nconnects", "server's\nbinds", "binds\nfailed", "server\nback after")
_SCENES = ("1. self-connect", "2. other connection")


def run(
    console: Console | None = None,
    limits: Limits | None = None,
    loops: Sequence[Contender] = (self_connect.PLAIN, self_connect.CLOSING, scene.SAFE),
    clients: Sequence[Contender] = (ordinary.PLAIN, ordinary.SAFE),
    enough_dials: int = _ENOUGH_DIALS,
) -> int:
    """Play both scenes and print the report. Return the exit status: 0 if safedial is clean, else 1.

    *loops* play scene 1, *clients* scene 2; the last of each is safedial. In scene 1 the others dial until they connect
    to themselves. safedial dials *enough_dials* times, or as often as they did. If the self-connect had to be forced on
    one of them, it is forced on safedial too. OSError: there is no loopback.
    """
    console = console or Console()
    limits = limits or Limits()
    say(console, *words.OPENING)
    _head(console, *words.SELF_CONNECT)
    first = _scene_1(console, limits, loops, enough_dials)
    flaws = self_connect.flaws(first[-1])
    _head(console, *words.ORDINARY)
    second: list[ordinary.Tally] = []
    if ON_LINUX:
        second = _scene_2(console, limits, clients)
        flaws += ordinary.flaws(second[-1])
    else:
        say(console, words.ONLY_LINUX)
    _figures(console, first, second)
    if any(tally.forced for tally in (*first, *second)):
        say(console, f"* forced, because it did not happen by itself within {limits.dialing:g} s")
    _verdict(console, [*first, *second], flaws)
    return 1 if flaws else 0


def _scene_1(console: Console, limits: Limits, loops: Sequence[Contender], dials: int) -> list[self_connect.Tally]:
    tallies: list[self_connect.Tally] = []
    *plain, safe = loops
    for contender in plain:
        tally = _act(console, contender, functools.partial(self_connect.play, contender, limits))
        tallies.append(tally)
        say(console, words.dialed(tally))
        if echoed := words.echoed(tally):
            say(console, echoed, style=BAD)
        _came_back(console, tally, contender)
        _dialed_on(console, tally)
    dials = max([dials, *(tally.dials_before for tally in tallies)])
    force = any(tally.forced for tally in tallies)
    play = functools.partial(self_connect.play, safe, limits, dials=dials, force=force)
    tally = _act(console, safe, play, total=dials)
    steered = self_connect.steering_works(tally.port)
    say(console, words.dialed(tally), words.steering(tally.port, steered=steered))
    _came_back(console, tally, safe)
    _dialed_on(console, tally)
    return [*tallies, tally]


def _scene_2(console: Console, limits: Limits, clients: Sequence[Contender]) -> list[ordinary.Tally]:
    tallies: list[ordinary.Tally] = []
    for contender in clients:
        tally = _act(console, contender, functools.partial(ordinary.play, contender, limits))
        tallies.append(tally)
        say(console, words.connected(tally))
        if tally.drawn:
            _came_back(console, tally, contender)
            say(console, words.works(tally), style=None if tally.works else BAD)
    return tallies


def _act(
    console: Console, contender: Contender, play: Callable[..., AnyTally], *, total: int | None = None
) -> AnyTally:
    """Play one act below its heading, with a bar."""
    say(console, "", f"{contender.name}: {contender.habit}", style="bold")
    counter = "{task.completed:,.0f} dials"
    texts = [TextColumn(text, table_column=_cropped()) for text in ("{task.description}", counter)]
    columns = (texts[0], BarColumn(), texts[1], TimeElapsedColumn(_cropped()))
    # Transient: the sentences that follow say more than a full bar.
    with Progress(*columns, console=console, transient=True, disable=not console.is_interactive) as progress:
        # Without a total, while the number of dials is unknown, the bar only shows that the client goes on.
        task = progress.add_task("", total=total)

        def watch(stage: Stage, made: int) -> None:
            progress.update(task, description=stage, completed=made)

        return play(watch=watch)


def _cropped() -> Column:
    # By default rich shortens text with an ellipsis, and fails if the terminal's encoding has none.
    return Column(no_wrap=True, overflow="crop")


def _came_back(console: Console, tally: Tally, contender: Contender) -> None:
    good = tally.after is not None and tally.reached
    say(console, words.came_back(tally, contender.leaves), style=GOOD if good else BAD)


def _dialed_on(console: Console, tally: self_connect.Tally) -> None:
    if more := words.dialed_on(tally):
        say(console, more)


def _figures(console: Console, *scenes: Sequence[Tally]) -> None:
    """Print the figures as a table; where it does not fit, as a list."""
    table = new_table(*_HEADERS)
    played = [(title, tallies) for title, tallies in zip(_SCENES, scenes, strict=True) if tallies]
    for title, tallies in played:
        table.add_row(title)
        for tally in tallies:
            table.add_row(*_row(tally))
    say(console, "")
    if print_table(console, table):
        return
    for title, tallies in played:
        say(console, title, style="bold")
        for tally in tallies:
            name, *figures = _row(tally)
            console.print(name)
            for header, figure in zip(_HEADERS[1:], figures, strict=True):
                console.print(Text("  " + header.replace("-\n", "-").replace("\n", " ").strip() + ": ") + figure)


def _row(tally: Tally) -> list[Text]:
    released = f", {tally.released} released" if tally.released else ""
    if not tally.binds:
        back = "not shown"
    else:
        back = f"not in {tally.limits.comeback:g} s" if tally.after is None else f"{tally.after:.2f} s"
    name = f"{tally.name}{'*' if tally.forced else ''}"
    connects = f"{tally.self_connects}{released}"
    figures = (name, f"{tally.dials:,}", connects, f"{tally.binds:,}", f"{tally.failed:,}")
    return [*map(Text, figures), Text(back, style=BAD if tally.after is None else GOOD)]


def _verdict(console: Console, tallies: Sequence[Tally], flaws: Sequence[str]) -> None:
    by_name: dict[str, list[Tally]] = {}
    for tally in tallies:
        by_name.setdefault(tally.name, []).append(tally)
    say(console, "")
    for acts in by_name.values():
        sentence, good = words.verdict(acts)
        if flaws and tallies[-1] in acts:
            sentence, good = f"safedial is not clean: {'; '.join(flaws)}.", False
        say(console, sentence, style=GOOD if good else BAD)


def _head(console: Console, title: str, *lines: str) -> None:
    say(console, "")
    say(console, title, style="bold underline")
    say(console, *lines)
