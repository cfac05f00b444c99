"""The report of the doctor: the sentences of `words`, in the order in which a person needs them.

It is plain text, which rich shows if it is installed and a terminal is there.
"""

import errno
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from safedial.cli.doctor import words
from safedial.cli.doctor.facts import Facts
from safedial.cli.doctor.judge import Diagnosis, Verdict
from safedial.cli.doctor.remedy import Remedy
from safedial.cli.extra import has_rich

# The worst first, after the ports that the user named.
_ORDER = ("taken", "at risk", "not checked", "safe")
# So many ports that nobody asked for are shown.
_MOST_PORTS = 15
# So many remedies of one kind are shown, such as how to free a port, and so many lines of one.
_MOST_ALIKE, _MOST_LINES = 3, 10


@dataclass(frozen=True)
class Part:
    """A part of the report."""

    title: str
    ports: Sequence[Verdict] = ()  # a table, or a line for each
    paste: Sequence[str] = ()  # lines to paste: each is printed whole
    lines: Sequence[str] = ()


def run(facts: Facts, diagnosis: Diagnosis, remedies: Sequence[Remedy]) -> None:
    """Print the report."""
    parts = list(compose(facts, diagnosis, remedies))
    if sys.stdout and sys.stdout.isatty() and has_rich():
        from safedial.cli.doctor import on_terminal

        on_terminal.show(diagnosis, parts)
    else:
        write(plain(diagnosis, parts))


def compose(facts: Facts, diagnosis: Diagnosis, remedies: Sequence[Remedy]) -> Iterator[Part]:
    """Yield what follows the verdict."""
    ranked = sorted(diagnosis.verdicts, key=lambda each: (not each.asked, _ORDER.index(each.verdict), each.port))
    rest = [each for each in ranked if not each.asked][_MOST_PORTS:]
    left_out = {each.port for each in rest}
    if ranked:
        lines = [words.more(rest)] if rest else []
        if diagnosis.ports("at risk"):
            lines.append(words.AT_RISK)
        yield Part("Ports", [each for each in ranked if each.port not in left_out], lines=lines)
    if destinations := [words.destination(each) for each in diagnosis.destinations or () if each.is_of_note]:
        yield Part("Destinations", lines=destinations)
    yield Part("Details", lines=words.details(facts))
    if facts.unseen:
        yield Part("Not checked", lines=facts.unseen)
    yield from _remedies(remedies)  # last: on a small screen they stay


def _remedies(remedies: Sequence[Remedy]) -> Iterator[Part]:
    every = Counter(remedy.kind for remedy in remedies)
    seen: Counter[str] = Counter()
    number = 0
    for remedy in remedies:
        seen[remedy.kind] += 1
        if (rest := seen[remedy.kind] - _MOST_ALIKE) > 0:
            continue
        notes = [f"- {note}" for note in remedy.notes]
        paste = remedy.lines[:_MOST_LINES]
        if more := len(remedy.lines) - len(paste):
            notes.insert(0, words.more_remedies(more))
        if rest == 0 and every[remedy.kind] > _MOST_ALIKE:
            notes.append(words.more_remedies(every[remedy.kind] - _MOST_ALIKE))
        number += 1
        yield Part(f"{number}. {remedy.title}", paste=paste, lines=notes)


def plain(diagnosis: Diagnosis, parts: Sequence[Part]) -> str:
    """Return the report as plain text, each fact on one line."""
    lines = [each.said for each in words.verdict(diagnosis)]
    for part in parts:
        lines += ["", part.title, *map(words.port, part.ports), *part.paste, *part.lines]
    return "\n".join(lines)


def write(text: str) -> None:
    """Write *text* to standard output."""
    if sys.stdout is None:  # it was closed at the start
        raise OSError(errno.EBADF, "standard output is closed")
    try:
        sys.stdout.write(spelled(text, sys.stdout.encoding or "utf-8") + "\n")  # a StringIO has no encoding
        sys.stdout.flush()
    except BrokenPipeError:  # such as of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again when it exits


def spelled(text: str, encoding: str) -> str:
    """Return *text* with what *encoding* lacks escaped, such as in the names of processes."""
    return text.encode(encoding, "backslashreplace").decode(encoding)
