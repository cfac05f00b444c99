"""Addresses that only libpq's service file, or an option file of MySQL's C library, has."""

import pytest

from safedial._clients.option_files import mysql_options, service

SERVICES = """
# the service of the application
[app]
host=db.example
port=5433

[other]
host=other.example
"""

OPTIONS = """
[mysqld]
port = 1
[client]
host = 'db.example'
; host = no.example
!includedir /etc
port="3307"
[app]
port=3308
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("PGSERVICE", "PGSERVICEFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PGSYSCONFDIR", str(tmp_path / "etc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "etc").mkdir()
    return tmp_path


@pytest.mark.parametrize("place", [".pg_service.conf", "etc/pg_service.conf"])
def test_service_file(home, place):
    (home / place).write_text(SERVICES)
    assert service({"service": "app"}) == {"host": "db.example", "port": "5433"}
    assert service({"service": "missing"}) == {}
    assert service({}) == {}


def test_service_of_the_environment(home, monkeypatch):
    (home / "services").write_text(SERVICES)
    monkeypatch.setenv("PGSERVICE", "other")
    monkeypatch.setenv("PGSERVICEFILE", str(home / "services"))
    assert service({"host": None}) == {"host": "other.example"}


def test_missing_or_broken_service_file(home):
    assert service({"service": "app"}) == {}
    (home / ".pg_service.conf").write_bytes(b"\xff\xfe[\n=\nhost\n[app]\nhost")
    assert service({"service": "app"}) == {}


def test_option_file(home):
    file = home / "my.cnf"
    file.write_text(OPTIONS)
    assert mysql_options(str(file), None) == {"host": "db.example", "port": "3307"}
    assert mysql_options(str(file), "app") == {"host": "db.example", "port": "3308"}
    assert mysql_options(str(home / "missing"), None) == {}
    assert mysql_options(None, None) == {}


def test_option_file_of_the_user_is_read_for_a_group(home):
    (home / ".my.cnf").write_text("[app]\nhost=own.example\n")
    assert mysql_options(None, "app")["host"] == "own.example"
    assert mysql_options(None, None) == {}
