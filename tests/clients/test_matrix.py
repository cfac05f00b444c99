"""Every client of the matrix, forced to connect to itself, steered and unsteered; and the table of docs/clients.md."""

import ast
import asyncio
import inspect
import re

import pytest

from safedial import testing
from safedial._tcp import steering
from tests.support import matrix, namespace

ROWS = matrix.ROWS
DOCUMENT = matrix.DOCUMENT.read_text()
SHOWN = dict(matrix.ROW.findall(DOCUMENT))


# A port that is held needs no steering.
UNSTEERED = [pytest.param(row, False, marks=pytest.mark.storm) for row in ROWS if not row.held]
# Clients that take two seconds to give up.
SLOW = ("kafka-python", "pymongo")
STEERED = [pytest.param(row, True, marks=[pytest.mark.storm] if row.name in SLOW else []) for row in ROWS]
WAYS = [*STEERED, *UNSTEERED]


@pytest.mark.parametrize(("row", "steered"), WAYS, ids=lambda way: getattr(way, "name", way))
def test_raises_the_clients_own_error_for_refused(row, steered, monkeypatch):
    if row.by_chance:
        namespace.require()
    if reason := row.lacking():
        pytest.skip(reason)
    if not steered:
        monkeypatch.setattr(steering, "_steerable", False)
    result = matrix.run(row.name)
    assert result.triggered, "the client was never about to connect to itself"
    assert not result.hung
    assert result.as_refused, f"{result.error} is not the client's error for a refused connection"
    assert not result.to_itself
    assert not result.leaked
    assert result.error == SHOWN[row.name], "run python -m tests.support.matrix to write the table"


def test_table_shows_every_client():
    assert matrix.table(SHOWN) in DOCUMENT
    assert list(SHOWN) == [row.name for row in ROWS]


SECTION = DOCUMENT.partition("\n## Recipes\n")[2].partition("\n## ")[0]
RECIPES = dict(re.findall(r"^### (.+)\n(?:(?!#|```).*\n)*```python\n((?:(?!```).*\n)+)", SECTION, re.MULTILINE))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.storm) if name in SLOW else name for name in RECIPES]
)
def test_recipe_runs_and_is_refused(name):
    # Nor does a fault reach a client that dials in C or binds its source port: its recipe is refused.
    unused = "ignore" if matrix.BY_NAME[name].by_chance else "error"
    assert namespace.call_outside(run_recipe, RECIPES[name], unused) == SHOWN.get(name, "safedial.SelfConnectError")


def run_recipe(recipe, unused):
    """Run *recipe* on a port where nobody listens, in a child process; return the name of its error."""
    port = testing.dead_port()
    code = compile(recipe, "recipe", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with testing.self_connect(port, unused=unused):
        try:
            if inspect.iscoroutine(running := eval(code, {"host": matrix.HOST, "port": port})):
                asyncio.run(running)
        except Exception as error:
            return matrix.named(error)
    return "nothing"


def test_every_other_client_has_a_recipe():
    others = {row.name.split(",")[0] for row in ROWS[matrix.OTHERS_FROM :]} - {"anyio on trio"}
    assert set(RECIPES) == others
