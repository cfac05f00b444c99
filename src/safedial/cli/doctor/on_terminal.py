"""The report on a terminal, with rich. Colour is an aid: each line says the same without it."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from safedial.cli.doctor import words
from safedial.cli.doctor.judge import Diagnosis, Verdict, Word
from safedial.cli.doctor.report import Part, spelled
from safedial.cli.terminal import BAD, GOOD, new_table, print_table, say

_STYLES: dict[Word | None, str] = {"taken": BAD, "at risk": BAD, "safe": GOOD}


def show(diagnosis: Diagnosis, parts: Sequence[Part], console: Console | None = None) -> None:
    """Print the report."""
    console = console or Console()
    for said, word in words.verdict(diagnosis):
        _say(console, said, style=_STYLES.get(word, ""))
    for part in parts:
        _say(console, "", part.title, style="bold")
        _ports(console, part.ports)
        for line in part.paste:
            # The terminal breaks a long line where it must, and copies it whole.
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        _say(console, *part.lines)


def _ports(console: Console, ports: Sequence[Verdict]) -> None:
    """Print *ports* as a table; where it does not fit, as lines."""
    if not ports:
        return
    table = new_table(*words.HEADERS, left=len(words.HEADERS))
    for each in ports:
        port, verdict, *others = (spelled(cell, console.encoding) for cell in words.row(each))
        table.add_row(port, Text(verdict, _STYLES.get(each.verdict, "")), *map(Text, others))
    if not print_table(console, table):
        for each in ports:
            _say(console, words.port(each), style=_STYLES.get(each.verdict, ""))


def _say(console: Console, *lines: str, style: str = "") -> None:
    say(console, *(spelled(line, console.encoding) for line in lines), style=style)
