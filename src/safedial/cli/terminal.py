"""Lines and tables for a person, by rich. Only what shows a report imports this module."""

from rich.box import Box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

# A rule below the headers, which a terminal without Unicode shows as well.
_BOX = Box("    \n    \n -- \n" + 5 * "    \n", ascii=True)
# No table is as wide.
_ANY_WIDTH = 1000
GOOD, BAD = "green", "red"


def say(console: Console, *lines: str, style: str | None = None) -> None:
    """Print each of *lines*. A terminal wraps at words; a file gets each on one line, where grep finds it."""
    for line in lines:
        # emoji=False: ":100:" may be the end of an address, and the beginning of what is wrong there.
        console.print(line, style=style, markup=False, emoji=False, highlight=False, soft_wrap=not console.is_terminal)


def new_table(*headers: str, left: int = 1) -> Table:
    """Return an empty table, whose *left* first columns are text; figures follow."""
    table = Table(box=_BOX, show_edge=False, pad_edge=False, collapse_padding=True)
    for place, header in enumerate(headers):
        table.add_column(header, justify="right" if place >= left else "left", no_wrap=True)
    return table


def print_table(console: Console, table: Table) -> bool:
    """Print *table* if it fits. Return whether it does."""
    if Measurement.get(console, console.options.update(width=_ANY_WIDTH), table).maximum > console.width:
        return False
    for line in console.render_lines(table, pad=False):
        row = Text.assemble(*((segment.text, segment.style or "") for segment in line))
        row.rstrip()  # a title has empty cells beside it
        console.print(row)
    return True
