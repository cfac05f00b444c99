"""Every client, on its real server, in every outage; the failures that no wait mends; the tables of docs/clients.md."""

import importlib
import pkgutil

import pytest

import safedial
from tests.support.databases import _directory, mariadb_command, postgres_command  # noqa: F401  # fixtures
from tests.support.outages import hosts, matrix, permanent, servers
from tests.support.outages.outage import BY_NAME, OUTAGES

# Some clients leave the socket of a failed handshake to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
SHOWN = matrix.shown()
FIXTURES = {"PostgreSQL": "postgres_command", "MariaDB": "mariadb_command"}
# What takes a second or less. The rest runs in `make storm`.
QUICK = {
    ("refused", "HTTP"),
    ("crash, restart", "Redis"),
    ("orderly restart", "PostgreSQL"),
    ("starting up", "PostgreSQL"),
    ("accepts, then FIN", "AMQP"),
    ("accepts, then RST", "WebSocket"),
    ("no such name", "Redis"),
    ("two addresses", "lines"),
    ("self-connect", "Memcached"),
}
QUICK_TO_FAIL = ("lines", "Redis", "PostgreSQL")
CELLS = [
    pytest.param(outage.name, kind, marks=() if (outage.name, kind) in QUICK else pytest.mark.storm)
    for outage in OUTAGES
    for kind in servers.KINDS
    if matrix.has(kind, outage)
]


@pytest.fixture(autouse=True, scope="module")
def _nothing_loads_late():
    # pytest rewrites the modules of its plugins, ours too, and CPython 3.11 can't parse in two threads (gh-106905).
    for module in pkgutil.walk_packages(safedial.__path__, "safedial."):
        if module.name != "safedial.__main__":
            importlib.import_module(module.name)


@pytest.fixture
def server(request, tmp_path):
    """A running server of the kind that the test is for."""
    kind = request.getfixturevalue("kind")
    fixture = FIXTURES.get(kind)
    with servers.KINDS[kind](request.getfixturevalue(fixture) if fixture else tmp_path) as running:
        yield running


@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_outage(name, kind, server, tmp_path):
    outage = BY_NAME[name]
    if outage.by_name and (reason := hosts.lacking()):
        pytest.skip(reason)
    marks, wrong = matrix.try_outage(outage, kind, server, tmp_path)
    assert not any(wrong.values()), matrix.written(wrong)
    assert marks == {row: SHOWN[row, name] for row in marks}, "run python -m tests.support.outages"


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK_TO_FAIL else pytest.param(kind, marks=pytest.mark.storm) for kind in servers.KINDS]
)
def test_a_failure_that_no_wait_mends_is_dialed_once(kind, server):
    server.lock()
    for failure in permanent.failures_of(server):
        marks, wrong = matrix.try_failure(failure, kind, server)
        assert not any(wrong.values()), f"{failure}\n{matrix.written(wrong)}"
        assert marks == {row: SHOWN[row, failure] for row in marks}, "run python -m tests.support.outages"


def test_tables_show_every_row_and_every_outage():
    assert matrix.TABLES.search(matrix.DOCUMENT.read_text()).group() == matrix.tables(SHOWN)
    assert matrix.NO not in SHOWN.values()
    there = {(row.name, outage.name) for row in matrix.ROWS for outage in OUTAGES if matrix.has(row.server, outage)}
    assert there <= {place for place, cell in SHOWN.items() if cell != matrix.NOT_THERE}
