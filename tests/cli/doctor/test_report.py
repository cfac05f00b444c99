"""The report, plain and on terminals of every kind, of facts made by hand."""

import io
import itertools
import re
import sys
from dataclasses import replace

import pytest

from safedial.cli.doctor import report, words
from safedial.cli.doctor.facts import Process
from safedial.cli.doctor.judge import judge
from safedial.cli.doctor.remedies import remedies
from safedial.cli.doctor.remedy import Remedy
from tests.cli.doctor.made import connection, destination, facts, listener, self_connected

UNSEEN = "The process of 1 socket could not be seen."
ALL = {
    "listeners": (listener(22), listener(40000), *(listener(port, "::1") for port in range(41000, 41100))),
    "self_connected": (self_connected(40002), self_connected(40004, kind="time_wait")),
    "held": (connection(40006)._replace(processes=None),),
    "destinations": (destination(28000), destination(1)),
}
FEW = {"listeners": (listener(22), listener(40000))}
SAFE = {"listeners": (listener(22),)}


def read(fields, *ports):
    """Return the facts, what they mean, and the parts of the report."""
    seen = replace(facts(**fields), unseen=(UNSEEN,) if "held" in fields else ())
    diagnosis = judge(seen, ports)
    helps = remedies(seen, diagnosis)
    return diagnosis, list(report.compose(seen, diagnosis, helps)), helps


def on_terminal(fields, *ports, encoding="utf-8", width=80, **environment):
    """Return what a terminal of that *width* shows."""
    pytest.importorskip("rich")
    from rich.console import Console

    from safedial.cli.doctor import on_terminal

    file = io.TextIOWrapper(io.BytesIO(), encoding)
    console = Console(file=file, width=width, force_terminal=True, _environ={"TERM": "xterm", **environment})
    diagnosis, parts, _ = read(fields, *ports)
    on_terminal.show(diagnosis, parts, console)
    file.flush()
    return file.buffer.getvalue().decode(encoding)


def without_style(text):
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def test_the_order_is_that_in_which_it_is_needed():
    diagnosis, parts, helps = read(ALL, 40006, 9)
    lines = report.plain(diagnosis, parts).splitlines()
    assert lines[: lines.index("")] == [each.said for each in words.verdict(diagnosis)]
    titles = [line for before, line in itertools.pairwise(lines) if not before]
    assert [title for title in titles if not title[0].isdigit()] == ["Ports", "Destinations", "Details", "Not checked"]
    assert titles[4].startswith("1. Reserve ports 40000")
    assert [title.partition(". ")[2] for title in titles[4:]] == [each.title for each in helps]
    assert UNSEEN in lines
    assert [line for line in lines if line.startswith("From ")] == [
        words.destination(diagnosis.destinations[0])
    ]  # not the other


def test_ports_in_time_wait_that_are_drawn_again_soon_are_told_of():
    diagnosis, parts, _ = read({"destinations": (destination(0, 28000, "127.0.0.1"), destination(0, 9, "127.0.0.2"))})
    (told,) = (part.lines for part in parts if part.title == "Destinations")
    assert list(told) == [words.destination(diagnosis.destinations[0])]


def test_plain_text_has_each_fact_on_one_line_and_is_ascii():
    diagnosis, parts, helps = read(ALL, 40006)
    text = report.plain(diagnosis, parts)
    assert text.isascii()
    assert not re.search(" $", text, re.MULTILINE)
    for each in helps:
        assert set(each.lines) <= set(text.splitlines())
    assert max(map(len, text.splitlines())) > 120


def test_named_ports_come_first_then_the_worst_and_what_nobody_asked_for_is_cut():
    diagnosis, parts, _ = read(ALL, 9, 40006, 41090)
    (ports,) = (part for part in parts if part.ports)
    shown = [each.port for each in ports.ports]
    assert shown == [40006, 41090, 9, 40002, 40004, 40000, *range(41000, 41012)]
    assert ports.lines[0] == "Other ports: 87 at risk, 1 safe. --json has them all."
    assert len(diagnosis.verdicts) == len(shown) + 88


def test_many_remedies_of_one_kind_are_cut():
    parts = list(
        report.compose(facts(), judge(facts(), ()), [Remedy("move", "Move it."), *[Remedy("free", "Free it.")] * 9])
    )
    titles = [part.title for part in parts]
    assert titles == ["Details", "1. Move it.", "2. Free it.", "3. Free it.", "4. Free it."]
    assert parts[-1].lines == ["The same for 6 more: --json has the lines."]


def test_many_lines_of_a_remedy_are_cut():
    lines = tuple(map(str, range(12)))
    _, part = report.compose(facts(), judge(facts(), ()), [Remedy("free", "Free them.", lines, ("As root.",))])
    assert part.paste == lines[:10]
    assert part.lines == ["The same for 2 more: --json has the lines.", "- As root."]


def test_one_port_at_risk_is_told_in_few_lines():
    diagnosis, parts, _ = read(FEW)
    assert len(report.plain(diagnosis, parts).splitlines()) <= 30


def test_a_safe_host_has_a_short_report():
    diagnosis, parts, _ = read(SAFE)
    assert report.plain(diagnosis, parts).startswith(
        "Nothing is at risk.\n\n"
        "Ports\n"
        "Port 22: safe, outside the ephemeral range; server (pid 7) listens on 127.0.0.1.\n\n"
        "Details\n"
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("width", [80, 50, 20])
def test_terminals(encoding, width):
    text = without_style(on_terminal(ALL, 40006, encoding=encoding, width=width))
    _, _, helps = read(ALL, 40006)
    pasted = {line for each in helps for line in each.lines}
    lines = text.splitlines()
    assert pasted <= set(lines)  # whole: the terminal itself breaks them, and copies them as one
    assert max(len(line) for line in lines if line not in pasted) <= width
    table = re.search(r"^port +verdict +in range +reserved +drawn +who has it$", text, re.MULTILINE)
    assert bool(table) == (width == 80)
    assert bool(re.search(r"^40004 +taken +yes +no +TIME_WAIT, to itself$", text, re.MULTILINE)) == (width == 80)
    assert ("Port 40004: taken by" in text.replace("\n", " ")) == (width < 80)


def test_colours_are_an_aid():
    red, green = "\x1b[31m", "\x1b[32m"
    risky, safe = on_terminal(FEW), on_terminal(SAFE)
    assert risky.startswith(f"{red}At risk: port 40000.")
    assert safe.startswith(f"{green}Nothing is at risk.")
    assert re.search(r"40000 +\x1b\[31mat risk", risky)
    assert red not in safe
    narrow = on_terminal(FEW, width=50)
    assert f"{red}Port 40000: at risk" in narrow
    assert f"{green}Port 22: safe" in narrow
    named = on_terminal(FEW, 5432)
    assert named.startswith(f"{green}Safe: port 5432.")
    assert f"{red}Others at risk: port 40000." in named


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour(environment):
    text = on_terminal(FEW, **environment)
    assert not re.search(r"\x1b\[[\d;]*3\d", text)
    assert without_style(text) == without_style(on_terminal(FEW))


def test_a_name_that_the_terminal_can_t_show_is_escaped():
    fields = {"listeners": (listener(22)._replace(processes=(Process(5, "café"),)),)}
    assert "caf\\xe9 (pid 5)" in on_terminal(fields, encoding="ascii")
    assert "café (pid 5)" in on_terminal(fields)


@pytest.mark.parametrize(("encoding", "name"), [("ascii", b"caf\\xe9\n"), ("utf-8", "café\n".encode())])
def test_a_name_that_a_file_can_t_hold_is_escaped(monkeypatch, encoding, name):
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding))
    report.write("café")
    assert file.getvalue() == name


def test_a_file_gets_plain_text(capsys):
    diagnosis, parts, helps = read(FEW)
    report.run(facts(**FEW), diagnosis, helps)
    assert capsys.readouterr().out == report.plain(diagnosis, parts) + "\n"


def test_a_terminal_without_rich_gets_plain_text(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "rich", None)
    diagnosis, parts, helps = read(FEW)
    report.run(facts(**FEW), diagnosis, helps)
    assert capsys.readouterr().out == report.plain(diagnosis, parts) + "\n"


def test_a_terminal_gets_a_table(capsys, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    diagnosis, _, helps = read(FEW)
    report.run(facts(**FEW), diagnosis, helps)
    assert "who has it" in capsys.readouterr().out
