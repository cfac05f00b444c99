"""Database drivers, and SQLAlchemy over them. Each is made safe and used by ``dial(wrap, host, port, **options)``."""

import asyncio
import contextlib
import functools
import itertools

import aiomysql
import asyncpg
import mysql.connector
import mysql.connector.aio
import pg8000
import psycopg
import psycopg2
import pymysql
import pytest
import sqlalchemy
import tenacity
import uvloop
from sqlalchemy.ext.asyncio import create_async_engine

import safedial
from safedial._retry import transient
from safedial.adapters.sqlalchemy import protect
from tests.support.databases import USER

QUESTION = "SELECT 6 * 7"


def plain(factory, **_):
    """Stands in for wrap() and protect() in a run without safedial."""
    return factory


def ask(connection, question=QUESTION):
    with contextlib.closing(connection), contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(question)
        return cursor.fetchone()[0]


def use(connect, **arguments):
    """Return the function that dials with *connect*, of a blocking driver."""
    names = {"user": "user", "timeout": "timeout", **arguments.pop("names", {})}

    def dial(wrap, host, port, *, timeout=None, question=QUESTION, **options):
        limit = {} if timeout is None else {names["timeout"]: timeout}
        return ask(wrap(connect)(host=host, port=port, user=USER, **arguments, **limit, **options), question)

    return dial


def use_psycopg_async(wrap, host, port, *, question=QUESTION, **options):
    async def main():
        connect = wrap(psycopg.AsyncConnection.connect)
        async with await connect(host=host, port=port, user=USER, dbname="postgres", **options) as connection:
            cursor = await connection.execute(question)
            return (await cursor.fetchone())[0]

    return asyncio.run(main())


def use_psycopg_class(wrap, host, port, *, question=QUESTION, **options):
    return ask(
        wrap(psycopg.Connection).connect(host=host, port=port, user=USER, dbname="postgres", **options), question
    )


def use_asyncpg(wrap, host, port, *, question=QUESTION, runner=asyncio.run, **options):
    async def main():
        connection = await wrap(asyncpg.connect)(host=host, port=port, user=USER, database="postgres", **options)
        try:
            return await connection.fetchval(question)
        finally:
            await connection.close()

    return runner(main())


def use_aiomysql(wrap, host, port, *, timeout=None, question=QUESTION, **options):
    async def main():
        connect = wrap(aiomysql.connect)
        async with connect(host=host, port=port, user=USER, connect_timeout=timeout, **options) as connection:
            cursor = await connection.cursor()
            await cursor.execute(question)
            return (await cursor.fetchone())[0]

    return asyncio.run(main())


def use_mysql_async(wrap, host, port, *, timeout=5, question=QUESTION, **options):
    async def main():
        connect = wrap(mysql.connector.aio.connect)
        connection = await connect(host=host, port=port, user=USER, connection_timeout=timeout, **options)
        async with connection, await connection.cursor() as cursor:
            await cursor.execute(question)
            return (await cursor.fetchone())[0]

    return asyncio.run(main())


def use_engine(url, **options):
    def dial(wrap, host, port, *, question=QUESTION):
        safe = plain if wrap is plain else functools.partial(protect, **getattr(wrap, "keywords", {}))
        engine = safe(sqlalchemy.create_engine(url.format(host=host, port=port), **options))
        try:
            with engine.connect() as connection:
                return connection.scalar(sqlalchemy.text(question))
        finally:
            engine.dispose()

    return dial


def use_async_engine(url, **options):
    def dial(wrap, host, port, *, question=QUESTION):
        async def main():
            safe = plain if wrap is plain else functools.partial(protect, **getattr(wrap, "keywords", {}))
            engine = safe(create_async_engine(url.format(host=host, port=port), **options))
            try:
                async with engine.connect() as connection:
                    return await connection.scalar(sqlalchemy.text(question))
            finally:
                await engine.dispose()

        return asyncio.run(main())

    return dial


MYSQL = {
    "PyMySQL": use(pymysql.connect, names={"timeout": "connect_timeout"}),
    "mysql-connector": use(mysql.connector.connect, use_pure=True, names={"timeout": "connection_timeout"}),
    "mysql-connector, C": use(mysql.connector.connect, use_pure=False, names={"timeout": "connection_timeout"}),
    "mysql-connector, async": use_mysql_async,
    "aiomysql": use_aiomysql,
    "SQLAlchemy, PyMySQL": use_engine(f"mysql+pymysql://{USER}@{{host}}:{{port}}/"),
    "SQLAlchemy, mysql-connector": use_engine(f"mysql+mysqlconnector://{USER}@{{host}}:{{port}}/?use_pure=true"),
    "SQLAlchemy, aiomysql": use_async_engine(f"mysql+aiomysql://{USER}@{{host}}:{{port}}/"),
}
if not mysql.connector.HAVE_CEXT:
    del MYSQL["mysql-connector, C"]
POSTGRES = {
    "asyncpg": use_asyncpg,
    "asyncpg, ssl=False": functools.partial(use_asyncpg, ssl=False),
    "pg8000": use(pg8000.connect, database="postgres"),
    "SQLAlchemy, asyncpg": use_async_engine(f"postgresql+asyncpg://{USER}@{{host}}:{{port}}/postgres"),
    "SQLAlchemy, pg8000": use_engine(f"postgresql+pg8000://{USER}@{{host}}:{{port}}/postgres"),
}
# These dial in C.
LIBPQ = {
    "psycopg": use(psycopg.connect, dbname="postgres", names={"timeout": "connect_timeout"}),
    "psycopg, async": use_psycopg_async,
    "psycopg, the class": use_psycopg_class,
    "psycopg2": use(psycopg2.connect, dbname="postgres", names={"timeout": "connect_timeout"}),
    "SQLAlchemy, psycopg": use_engine(f"postgresql+psycopg://{USER}@{{host}}:{{port}}/postgres"),
    "SQLAlchemy, psycopg, async": use_async_engine(f"postgresql+psycopg://{USER}@{{host}}:{{port}}/postgres"),
    "SQLAlchemy, psycopg2": use_engine(f"postgresql+psycopg2://{USER}@{{host}}:{{port}}/postgres"),
    "asyncpg, uvloop": functools.partial(use_asyncpg, runner=uvloop.run),
}
C = {name: use for name, use in MYSQL.items() if name == "mysql-connector, C"} | LIBPQ
PYTHON = {name: use for name, use in (MYSQL | POSTGRES).items() if name not in C}
ALL = PYTHON | C


def failure(dial, wrap, host, port, **options):
    with pytest.raises(Exception) as caught:  # noqa: PT011  # any error: the caller checks it
        dial(wrap, host, port, **options)
    return caught.value


def retrying(times, **options):
    return tenacity.Retrying(
        **{"retry": safedial.retry_if_transient, "wait": tenacity.wait_fixed(0.01)} | options,
        stop=tenacity.stop_after_attempt(times),
    )


def behind(error):
    """Return *error* and the errors behind it, however SQLAlchemy and the drivers link them."""
    known = list(transient.errors_of(error))
    linked = [(each.__context__, getattr(each, "original_exception", None)) for each in known]
    return [*known, *itertools.chain(*linked)]


def until_it_answers():
    """Return a policy for PostgreSQL, which listens a moment before it accepts logins."""
    return retrying(500)


def patient(dial, host, port, **options):
    return dial(functools.partial(safedial.wrap, policy=until_it_answers()), host, port, **options)


def safe_libpq(connect):
    return safedial.wrap(connect, policy=until_it_answers())
