"""The report of the demo: the sentences of `words`, a progress bar and the figures. Only this module imports rich."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

from rich.box import Box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from safedial._tcp.steering import ON_LINUX
from safedial.cli.demo import ordinary, scene, self_connect, words
from safedial.cli.demo.scene import Contender, Limits, Stage, Tally

AnyTally = TypeVar("AnyTally", bound=Tally)

# The least number of dials that safedial makes before its server comes back. Of as many plain dials on Linux, 2 to 4
# connect to themselves (measured).
_ENOUGH_DIALS = 100_000
_GOOD, _BAD = "green", "red"
_HEADERS = ("\nclient", "\ndials", "self-\nconnects", "server's\nbinds", "binds\nfailed", "server\nback after")
_SCENES = ("1. self-connect", "2. other connection")
# A rule below the headers, which a terminal without Unicode shows as well.
_BOX = Box("    \n    \n -- \n" + 5 * "    \n", ascii=True)
# No table is as wide.
_ANY_WIDTH = 1000


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
    _say(console, *words.OPENING)
    _head(console, *words.SELF_CONNECT)
    first = _scene_1(console, limits, loops, enough_dials)
    flaws = self_connect.flaws(first[-1])
    _head(console, *words.ORDINARY)
    second: list[ordinary.Tally] = []
    if ON_LINUX:
        second = _scene_2(console, limits, clients)
        flaws += ordinary.flaws(second[-1])
    else:
        _say(console, words.ONLY_LINUX)
    _figures(console, first, second)
    if any(tally.forced for tally in (*first, *second)):
        _say(console, f"* forced, because it did not happen by itself within {limits.dialing:g} s")
    _verdict(console, [*first, *second], flaws)
    return 1 if flaws else 0


def _scene_1(console: Console, limits: Limits, loops: Sequence[Contender], dials: int) -> list[self_connect.Tally]:
    tallies: list[self_connect.Tally] = []
    *plain, safe = loops
    for contender in plain:
        tally = _act(console, contender, functools.partial(self_connect.play, contender, limits))
        tallies.append(tally)
        _say(console, words.dialed(tally))
        if echoed := words.echoed(tally):
            _say(console, echoed, style=_BAD)
        _came_back(console, tally, contender)
        _dialed_on(console, tally)
    dials = max([dials, *(tally.dials_before for tally in tallies)])
    force = any(tally.forced for tally in tallies)
    play = functools.partial(self_connect.play, safe, limits, dials=dials, force=force)
    tally = _act(console, safe, play, total=dials)
    steered = self_connect.steering_works(tally.port)
    _say(console, words.dialed(tally), words.steering(tally.port, steered=steered))
    _came_back(console, tally, safe)
    _dialed_on(console, tally)
    return [*tallies, tally]


def _scene_2(console: Console, limits: Limits, clients: Sequence[Contender]) -> list[ordinary.Tally]:
    tallies: list[ordinary.Tally] = []
    for contender in clients:
        tally = _act(console, contender, functools.partial(ordinary.play, contender, limits))
        tallies.append(tally)
        _say(console, words.connected(tally))
        if tally.drawn:
            _came_back(console, tally, contender)
            _say(console, words.works(tally), style=None if tally.works else _BAD)
    return tallies


def _act(
    console: Console, contender: Contender, play: Callable[..., AnyTally], *, total: int | None = None
) -> AnyTally:
    """Play one act below its heading, with a bar."""
    _say(console, "", f"{contender.name}: {contender.habit}", style="bold")
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
    _say(console, words.came_back(tally, contender.leaves), style=_GOOD if good else _BAD)


def _dialed_on(console: Console, tally: self_connect.Tally) -> None:
    if more := words.dialed_on(tally):
        _say(console, more)


def _figures(console: Console, *scenes: Sequence[Tally]) -> None:
    """Print the figures as a table; where it does not fit, as a list."""
    table = Table(box=_BOX, show_edge=False, pad_edge=False, collapse_padding=True)
    for place, header in enumerate(_HEADERS):
        table.add_column(header, justify="right" if place else "left", no_wrap=True)
    played = [(title, tallies) for title, tallies in zip(_SCENES, scenes, strict=True) if tallies]
    for title, tallies in played:
        table.add_row(title)
        for tally in tallies:
            table.add_row(*_row(tally))
    _say(console, "")
    if Measurement.get(console, console.options.update(width=_ANY_WIDTH), table).maximum <= console.width:
        for line in console.render_lines(table, pad=False):
            row = Text.assemble(*((segment.text, segment.style or "") for segment in line))
            row.rstrip()  # a title has empty cells beside it
            console.print(row)
        return
    for title, tallies in played:
        _say(console, title, style="bold")
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
    return [*map(Text, figures), Text(back, style=_BAD if tally.after is None else _GOOD)]


def _verdict(console: Console, tallies: Sequence[Tally], flaws: Sequence[str]) -> None:
    by_name: dict[str, list[Tally]] = {}
    for tally in tallies:
        by_name.setdefault(tally.name, []).append(tally)
    _say(console, "")
    for acts in by_name.values():
        sentence, good = words.verdict(acts)
        if flaws and tallies[-1] in acts:
            sentence, good = f"safedial is not clean: {'; '.join(flaws)}.", False
        _say(console, sentence, style=_GOOD if good else _BAD)


def _head(console: Console, title: str, *lines: str) -> None:
    _say(console, "")
    _say(console, title, style="bold underline")
    _say(console, *lines)


def _say(console: Console, *lines: str, style: str | None = None) -> None:
    # A terminal wraps at words; a file gets each sentence on one line, where grep finds it.
    for line in lines:
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=not console.is_terminal)
