import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from safedial.cli.doctor.as_json import SCHEMA, as_json
from safedial.cli.doctor.facts import Facts, Kind
from safedial.cli.doctor.judge import Level, Word, judge
from safedial.cli.doctor.remedies import remedies
from safedial.cli.doctor.remedy import Kind as KindOfRemedy
from tests.cli.doctor.made import connection, destination, facts, listener, ranges, self_connected

DOCS = (Path(__file__).parents[3] / "docs" / "command-line.md").read_text()
SECTION = DOCS.partition("<!-- doctor's fields -->")[2].partition("<!-- /doctor's fields -->")[0]
TYPES = {
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "boolean": (bool,),
    "object": (dict,),
    "list": (list,),
    "list of strings": (list,),
    "list of sockets": (list,),
}
# Everything that a report can have.
FULL = facts(
    reserved=ranges((8080, 8090)),
    listeners=(listener(22), listener(40000)),
    self_connected=(self_connected(41000),),
    held=(connection(42000, kind="time_wait"),),
    destinations=(destination(28000, 1), destination(5)),
)


def report(seen, ports=()):
    diagnosis = judge(seen, ports)
    return json.loads(as_json(seen, diagnosis, remedies(seen, diagnosis)))


def rows(text):
    return {
        name: (kind, means) for name, kind, means in re.findall(r"^\| `(\S+)` \| (.*?) \| (.*) \|$", text, re.MULTILINE)
    }


TABLE, SOCKET = map(rows, SECTION.split("A socket, in"))
DOCUMENTED = dict(TABLE)
for prefix in ("ports[].listeners[].", "ports[].held_by[].", "self_connected[]."):
    DOCUMENTED |= {prefix + name: row for name, row in SOCKET.items()}


def fields(value, name=""):
    """Yield the name and the value of each field, as the docs name them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{name}{key}", inner
            yield from fields(inner, f"{name}{key}.")
    elif isinstance(value, list):
        for each in value:
            yield from fields(each, f"{name.removesuffix('.')}[].")


def test_the_docs_have_the_fields_that_are_written():
    written = [name for name, _ in fields(report(FULL, [42000]))]
    assert sorted(set(written)) == sorted(DOCUMENTED)


@pytest.mark.parametrize(
    "seen", [FULL, Facts("win32"), facts(sockets=False), facts(ports=None, destinations=(destination(1),))]
)
def test_the_types_are_as_documented(seen):
    for name, value in fields(report(seen, [42000])):
        types, or_null = re.subn(r",? or null$", "", DOCUMENTED[name][0])
        allowed = (*TYPES[types], *((type(None),) if or_null else ()))
        assert type(value) in allowed, name


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("ports[].verdict", Word),
        ("destinations[].level", Level),
        ("remedies[].kind", KindOfRemedy),
        ("kind", Kind),
    ],
)
def test_the_docs_name_each_value(field, values):
    means = (TABLE | SOCKET)[field][1]
    assert {each for each in re.findall(r"`(.*?)`", means) if each != "low"} == set(get_args(values))


def test_verdicts_are_explained():
    table = DOCS.partition("### Verdicts")[2].partition("###")[0]
    assert re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE) == list(get_args(Word))


def test_the_schema_has_the_documented_number():
    assert report(FULL)["schema"] == SCHEMA
    assert TABLE["schema"][1] == str(SCHEMA)
    assert f"Its schema is number {SCHEMA}," in DOCS


def test_what_was_not_seen_is_null_and_never_empty():
    seen = report(Facts("win32", unseen=("Why.",)), [5432])
    nulls = {name for name, value in fields(seen) if value is None}
    assert nulls >= {"settings.range", "settings.reserved", "sockets", "self_connected", "destinations"}
    assert report(facts(ports=None, destinations=(destination(1),)))["destinations"][0]["level"] is None
    assert nulls >= {"ports[].inside", "ports[].reserved", "ports[].preferred", "ports[].listeners", "ports[].held_by"}
    assert (seen["status"], seen["not_checked"]) == (2, ["Why."])


def test_values():
    seen = report(FULL, [42000])
    assert seen["settings"]["range"] == {"low": 32768, "high": 60999}
    assert seen["settings"]["reserved"] == [{"low": 8080, "high": 8090}]
    assert [(each["port"], each["asked"], each["verdict"]) for each in seen["ports"]] == [
        (22, False, "safe"),
        (40000, False, "at risk"),
        (41000, False, "taken"),
        (42000, True, "taken"),
    ]
    (self_connect,) = seen["self_connected"]
    assert self_connect == {
        "kind": "connected",
        "local": {"host": "127.0.0.1", "port": 41000},
        "peer": {"host": "127.0.0.1", "port": 41000},
        "processes": [{"pid": 123, "name": "client"}],
    }
    assert [each["level"] for each in seen["destinations"]] == ["near the end", "low"]
    assert seen["destinations"][0]["share"] == pytest.approx(28001 / 28231)
    assert (seen["sockets"], seen["time_wait"]) == (100, 5)
    assert seen["remedies"][0]["kind"] == "reserve"


@pytest.mark.parametrize(("port", "status"), [(22, 0), (5432, 0), (40000, 1), (42000, 1)])
def test_the_documented_line_judges_one_port(port, status):
    (code,) = re.findall(r"--json \| python3 -c '(.*?)'\n```", DOCS, re.DOTALL)
    text = json.dumps(report(FULL, [port]))
    done = subprocess.run([sys.executable, "-c", code], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (status, "")


def test_processes_that_were_not_seen_are_null():
    unseen = self_connected(40000)._replace(processes=None)
    (found,) = report(facts(self_connected=(unseen,)))["self_connected"]
    assert found["processes"] is None
