"""The report on a terminal, with rich. Colour is an aid: each line says the same without it."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from safedial.cli.doctor import words
from safedial.cli.doctor.judge import Diagnosis, Verdict
from safedial.cli.doctor.report import Part
from safedial.cli.terminal import BAD, GOOD, new_table, print_table, say

_STYLES = {"taken": BAD, "at risk": BAD, "safe": GOOD}


def show(diagnosis: Diagnosis, parts: Sequence[Part], console: Console | None = None) -> None:
    """Print the report."""
    console = console or Console()
    _say(console, words.verdict(diagnosis), style={0: GOOD, 1: BAD}.get(diagnosis.status, ""))
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
        port, verdict, *others = (_spelled(console, cell) for cell in words.row(each))
        table.add_row(port, Text(verdict, _STYLES.get(each.verdict, "")), *map(Text, others))
    if not print_table(console, table):
        for each in ports:
            _say(console, words.port(each), style=_STYLES.get(each.verdict, ""))


def _say(console: Console, *lines: str, style: str = "") -> None:
    say(console, *(_spelled(console, line) for line in lines), style=style)


def _spelled(console: Console, text: str) -> str:
    """Return *text* with what the terminal's encoding lacks escaped: in the names of processes."""
    return text.encode(console.encoding, "backslashreplace").decode(console.encoding)
