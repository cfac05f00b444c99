"""Applications of real frameworks, with safedial.install() and without, while their servers are away."""

import ast

import pytest
import tenacity

import safedial
from safedial import testing
from tests.frameworks import outage, recipes, rows, uses
from tests.support import namespace
from tests.support.databases import _directory, mariadb_command, postgres_command  # noqa: F401  # fixtures

FIXTURES = {"PostgreSQL": "postgres_command", "MariaDB": "mariadb_command"}
# One that dials in a C library. The rest takes longer, and runs in `make storm`.
QUICK = {"Django, psycopg"}


CELLS = [
    pytest.param(kind, row, marks=() if row.name in QUICK else pytest.mark.storm, id=row.name)
    for kind, table in rows.ROWS.items()
    for row in table
]


@pytest.fixture
def data(request, tmp_path):
    """What a kind of server is made of."""
    namespace.require()
    kind = request.getfixturevalue("kind")
    return request.getfixturevalue(FIXTURES[kind]) if kind in FIXTURES else tmp_path


@pytest.mark.parametrize(("kind", "row"), CELLS)
def test_application_outlives_its_server_with_install_and_meets_itself_without(kind, row, data):
    if row.needs:
        pytest.importorskip(row.needs)
    installed, plain = namespace.call_with_accounts(outage.through_outage, row, kind, data, seconds=600)
    assert installed.faults == []
    assert installed.uses >= outage.USES
    assert installed.recovered
    assert uses.MET in plain.faults
    assert any(fault.startswith(outage.TAKEN) for fault in plain.faults)


@pytest.mark.storm
@pytest.mark.parametrize("row", rows.REFUSED, ids=lambda row: row.name)
def test_recipe_is_refused_with_install_and_meets_itself_without(row):
    namespace.require()
    installed = namespace.call(outage.while_refused, row, True)
    assert installed.faults == []
    assert installed.uses
    assert uses.MET in namespace.call(outage.while_refused, row, False).faults


@pytest.mark.storm
def test_safe_connect_inside_a_retry_needs_no_install():
    namespace.require()
    row = rows.TENACITY._replace(swap=("socket.create_connection(", "safedial.safe_connect("))
    assert namespace.call(outage.while_refused, row, False).faults == []


def test_policies_multiply():
    events = []
    rounds = {"retry": safedial.retry_if_transient, "wait": tenacity.wait_none(), "reraise": True}
    inner = tenacity.Retrying(stop=tenacity.stop_after_attempt(2), **rounds)

    @tenacity.retry(stop=tenacity.stop_after_attempt(3), **rounds)
    def connect(port):
        return safedial.safe_connect(("127.0.0.1", port), policy=inner, on_event=events.append)

    with testing.refused_port() as port, pytest.raises(ConnectionRefusedError):
        connect(port)
    assert [event.round for event in events if event.kind == "gave_up"] == [2, 2, 2]


def test_each_recipe_is_run():
    run = [row for table in rows.ROWS.values() for row in table] + rows.REFUSED
    assert {row.recipe for row in run if not row.swap} == set(recipes.RECIPES)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipe_is_short(name):
    code = recipes.RECIPES[name]
    ast.parse(code)
    assert len([line for line in code.splitlines() if line]) <= 15
    assert max(map(len, code.splitlines())) <= 120
