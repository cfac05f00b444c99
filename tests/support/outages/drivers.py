"""The rows of PostgreSQL's and MariaDB's drivers, and of SQLAlchemy over them."""

import contextlib

import aiomysql
import asyncpg
import mysql.connector
import pg8000
import psycopg
import psycopg2
import pymysql
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

import safedial
from safedial.adapters.sqlalchemy import protect
from tests.support.databases import USER
from tests.support.outages.rows import CONNECT, ENDLESS, Row, close, close_async, trusting

_INSERT = "INSERT INTO records VALUES ('{}')"


def login(place, default, **names):
    """Return the arguments host, port, user, password and database, the last under the name *database*."""
    arguments = {"host": place.host, "port": place.port, "user": place.user or USER}
    if place.password:
        arguments["password"] = place.password
    return arguments | {names.get("database", "database"): place.database or default}


# --- PostgreSQL ------------------------------------------------------------------------------------------


def libpq(place):
    tls = {"sslmode": "verify-full", "sslrootcert": place.ca} if place.ca else {"sslmode": "disable"}
    return login(place, "postgres", database="dbname") | {"connect_timeout": CONNECT} | tls


def psycopg_(place):
    return safedial.wrap(psycopg.connect, policy=place.policy)(**libpq(place), autocommit=True)


def psycopg2_(place):
    connection = safedial.wrap(psycopg2.connect, policy=place.policy)(**libpq(place))
    connection.autocommit = True
    return connection


def pg8000_(place):
    connect = safedial.wrap(pg8000.connect, policy=place.policy)
    connection = connect(**login(place, "postgres"), timeout=CONNECT, ssl_context=trusting(place))
    connection.autocommit = True
    return connection


def execute(connection, key):
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(_INSERT.format(key))


async def psycopg_async(place):
    connect = safedial.wrap(psycopg.AsyncConnection.connect, policy=place.policy)
    return await connect(**libpq(place), autocommit=True)


async def asyncpg_(place):
    connect = safedial.wrap(asyncpg.connect, policy=place.policy)
    return await connect(**login(place, "postgres"), timeout=CONNECT, ssl=trusting(place) or False)


async def execute_async(connection, key):
    await connection.execute(_INSERT.format(key))


def engine_psycopg(place):
    url = sqlalchemy.URL.create("postgresql+psycopg")
    return protect(sqlalchemy.create_engine(url, connect_args=libpq(place), pool_pre_ping=True), policy=place.policy)


def engine_asyncpg(place):
    arguments = login(place, "postgres") | {"timeout": CONNECT, "ssl": trusting(place) or False}
    url = sqlalchemy.URL.create("postgresql+asyncpg")
    return protect(create_async_engine(url, connect_args=arguments, pool_pre_ping=True), policy=place.policy)


def execute_engine(engine, key):
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(_INSERT.format(key)))


async def execute_async_engine(engine, key):
    async with engine.begin() as connection:
        await connection.execute(sqlalchemy.text(_INSERT.format(key)))


# --- MariaDB ---------------------------------------------------------------------------------------------


def pymysql_(place):
    connect = safedial.wrap(pymysql.connect, policy=place.policy)
    # connect_timeout ends with the connect: read_timeout bounds the wait for the greeting.
    limits = {"connect_timeout": CONNECT, "read_timeout": CONNECT}
    return connect(**login(place, USER), **limits, ssl=trusting(place), autocommit=True)


async def aiomysql_(place):
    connect = safedial.wrap(aiomysql.connect, policy=place.policy)
    names = login(place, USER, database="db")
    return await connect(**names, connect_timeout=CONNECT, ssl=trusting(place), autocommit=True)


def mysql_connector(*, pure):
    def connect(place):
        tls = {"ssl_ca": place.ca, "ssl_verify_cert": True} if place.ca else {"ssl_disabled": True}
        connect = safedial.wrap(mysql.connector.connect, policy=place.policy)
        options = {"connection_timeout": CONNECT, "use_pure": pure}
        return connect(**login(place, USER), **options, **tls)

    return connect


def execute_and_commit(connection, key):
    # In the C extension autocommit and commit() wait for the server while they hold the GIL, which the forwarder needs.
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(_INSERT.format(key))
        cursor.execute("COMMIT")


async def execute_aiomysql(connection, key):
    async with connection.cursor() as cursor:
        await cursor.execute(_INSERT.format(key))


def engine_pymysql(place):
    limits = {"connect_timeout": CONNECT, "read_timeout": CONNECT}
    arguments = login(place, USER) | limits | {"ssl": trusting(place)}
    url = sqlalchemy.URL.create("mysql+pymysql")
    return protect(sqlalchemy.create_engine(url, connect_args=arguments, pool_pre_ping=True), policy=place.policy)


# --- The rows --------------------------------------------------------------------------------------------


def dispose(engine):
    engine.dispose()


async def dispose_async(engine):
    await engine.dispose()


def wrapped(client, connect, server, name, write, close=close, **more):
    return Row(client, f"wrap({name}, policy=…)", server, connect, write, close, **more)


_ENGINE = "protect(create_engine(…), policy=…)"
_ASYNC_ENGINE = "protect(create_async_engine(…), policy=…)"
ROWS = [
    wrapped("psycopg", psycopg_, "PostgreSQL", "psycopg.connect", execute),
    wrapped(
        "psycopg, async", psycopg_async, "PostgreSQL", "psycopg.AsyncConnection.connect", execute_async, close_async
    ),
    wrapped("psycopg2", psycopg2_, "PostgreSQL", "psycopg2.connect", execute),
    wrapped("asyncpg", asyncpg_, "PostgreSQL", "asyncpg.connect", execute_async, close_async),
    wrapped("pg8000", pg8000_, "PostgreSQL", "pg8000.connect", execute),
    Row("SQLAlchemy, psycopg", _ENGINE, "PostgreSQL", engine_psycopg, execute_engine, dispose, keeps=True),
    Row(
        *("SQLAlchemy, asyncpg", _ASYNC_ENGINE, "PostgreSQL", engine_asyncpg, execute_async_engine, dispose_async),
        keeps=True,
    ),
    wrapped("PyMySQL", pymysql_, "MariaDB", "pymysql.connect", execute),
    wrapped("aiomysql", aiomysql_, "MariaDB", "aiomysql.connect", execute_aiomysql, notes={"TLS silent": ENDLESS}),
    wrapped("mysql-connector", mysql_connector(pure=True), "MariaDB", "mysql.connector.connect", execute_and_commit),
    wrapped(
        "mysql-connector, C", mysql_connector(pure=False), "MariaDB", "mysql.connector.connect", execute_and_commit
    ),
    Row("SQLAlchemy, PyMySQL", _ENGINE, "MariaDB", engine_pymysql, execute_engine, dispose, keeps=True),
]
# A row of the table that can't be tested here.
LACKING = () if mysql.connector.HAVE_CEXT else ("mysql-connector, C",)
