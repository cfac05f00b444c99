"""The matrix: which client outlives which outage, by which line; and the tables of docs/clients.md."""

import re
import sys
import tempfile
from pathlib import Path

from tests.support.outages import drivers, hosts, permanent, plain, servers, stores, web
from tests.support.outages.outage import OUTAGES
from tests.support.outages.rows import AFTER, DEAD, ENDLESS, STAGES
from tests.support.outages.run import MOST_DIALS, live_through

DOCUMENT = Path(__file__).parents[3] / "docs" / "clients.md"
ROWS = [*plain.ROWS, *stores.ROWS, *web.ROWS, *drivers.ROWS]
YES, NO, NOT_THERE = "✓", "✗", "-"
NOTES = {
    AFTER: "The dial succeeds, so no policy for the dial can help. What fails comes later: TLS, the client's handshake "
    "or the request. Use the row with `wrap`.",
    DEAD: "The command that finds its open connection dead fails. It is not sent again. The next command dials.",
    ENDLESS: "The client has no time limit for the server's greeting. It dials again when the silent server hangs up.",
}


def rows_of(kind):
    return [row for row in ROWS if row.server == kind and row.client not in drivers.LACKING]


def has(kind, outage):
    """Return whether a server of *kind* can have *outage*."""
    return not outage.servers or kind in outage.servers


def note_on(row, outage):
    """Return the key of the note that says why *row* does not simply outlive *outage*; empty if it does."""
    if STAGES.index(outage.stage) > STAGES.index(row.covers):
        return AFTER
    return row.notes.get(outage.name, "")


def problems(row, outage, result):
    """Return what is wrong with the *result* of *row* in *outage*, in words."""
    found = []
    note = note_on(row, outage)
    comes_back = note in ("", ENDLESS)
    # A reset may come so early that the dial itself fails.
    by_chance = note == AFTER and outage.name == "accepts, then RST"
    if result.hung:
        found.append("it hung")
    if result.came_back != comes_back and not by_chance:
        found.append("it did not come back" if comes_back else "it came back")
    if result.records != int(result.came_back):
        found.append(f"its record is there {result.records} times")
    if result.before not in (None, 1):
        found.append(f"its record from before is there {result.before} times")
    if result.came_back and result.dials == 1:
        found.append("it did not meet the outage")
    if result.dials > MOST_DIALS:
        found.append(f"it dialed {result.dials} times")
    return [*found, f"dials: {result.dials}, after {result.errors}", result.error] if found else []


def verdict_problems(failure, verdict):
    """Return what is wrong with the *verdict* on a row that failed by *failure*, in words."""
    found = []
    if verdict.accepted != (failure != permanent.ARGUMENT):
        found.append(f"it connected {verdict.accepted} times")
    if verdict.again:
        found.append(f"its policy went on after {verdict.again}")
    if not verdict.error or verdict.module.startswith(("safedial", "tenacity")):
        found.append(f"the error is not its own: {verdict.error}")
    return found


def try_outage(outage, kind, server, directory):
    """Let the clients of *kind* live through *outage*. Return their marks, and what is wrong, by the rows' names."""
    rows = rows_of(kind)
    results = live_through(outage, rows, server, directory)
    wrong = {row.name: problems(row, outage, results[row.name]) for row in rows}
    return {row.name: NO if wrong[row.name] else note_on(row, outage) or YES for row in rows}, wrong


def try_failure(failure, kind, server):
    """Let the clients of *kind* fail by *failure*. Return as `try_outage` does."""
    verdicts = permanent.dial_in_vain(failure, rows_of(kind), server)
    wrong = {name: verdict_problems(failure, verdict) for name, verdict in verdicts.items()}
    return {name: NO if found else YES for name, found in wrong.items()}, wrong


def written(wrong):
    return "\n".join("\n    ".join([name, *found]) for name, found in wrong.items() if found)


# --- The tables ------------------------------------------------------------------------------------------

TABLES = re.compile(r"(?<=<!-- outages -->\n).*(?=<!-- /outages -->)", re.DOTALL)


def table(heads, marks):
    """Return a table with a line for each of `ROWS`. *marks* has its cells, by the names of row and column."""
    lines = [f"| Client | Line | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for row in ROWS:
        cells = [marks.get((row.name, head), NOT_THERE) for head in heads]
        lines.append(f"| {row.client} | `{row.line}` | {' | '.join(cells)} |")
    return "".join(f"{line}\n" for line in lines)


def tables(marks):
    """Return both tables of docs/clients.md, with the notes between them."""
    notes = "".join(f"- **{key}** {text}\n" for key, text in NOTES.items())
    return f"{table([outage.name for outage in OUTAGES], marks)}\n{notes}\n{table(permanent.FAILURES, marks)}"


def shown():
    """Return the marks that docs/clients.md shows, by the names of row and column."""
    marks, heads = {}, []
    for line in TABLES.search(DOCUMENT.read_text()).group().splitlines():
        client, *cells = [cell.strip(" `") for cell in line.strip("| ").split(" | ")]
        if client == "Client":
            heads = cells[1:]
        elif line.startswith("| "):
            marks |= {(f"{client}: {cells[0]}", head): cell for head, cell in zip(heads, cells[1:], strict=True)}
    return marks


def main():
    """Run the matrix, say what is wrong, and write the tables."""
    if reason := hosts.lacking():
        sys.exit(reason)
    marks = {}

    def keep(column, cells, wrong):
        marks.update({(name, column): cell for name, cell in cells.items()})
        if any(wrong.values()):
            sys.stderr.write(f"{column}\n{written(wrong)}\n")

    with tempfile.TemporaryDirectory(prefix="safedial-outages-", ignore_cleanup_errors=True) as base:
        Path(base).chmod(0o711)  # PostgreSQL runs as another user
        for kind, server in servers.KINDS.items():
            template = servers.TEMPLATES[kind](base) if kind in servers.TEMPLATES else None
            for outage in OUTAGES:
                if has(kind, outage):
                    directory = tempfile.mkdtemp(dir=base)
                    with server(template or directory) as running:
                        keep(outage.name, *try_outage(outage, kind, running, directory))
            with server(template or tempfile.mkdtemp(dir=base)) as running:
                running.lock()
                for failure in permanent.failures_of(running):
                    keep(failure, *try_failure(failure, kind, running))
    DOCUMENT.write_text(TABLES.sub(lambda _: tables(marks), DOCUMENT.read_text(), count=1))
