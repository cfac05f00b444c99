"""The table: which recipe, used by which application, on which server."""

from typing import NamedTuple


class Row(NamedTuple):
    """One application.

    Attributes:
        name: its name.
        recipe: the heading of its recipe in docs/clients.md.
        app: the module of `apps` that uses it; empty for a recipe that dials by itself.
        swap: a text of the recipe, and what stands there in this row; empty for the recipe as it is.
        odd: whether it binds a source port before it connects.
        needs: a module that may be missing, because it has to be compiled.
    """

    name: str
    recipe: str
    app: str
    swap: tuple[str, ...] = ()
    odd: bool = False
    needs: str = ""


def _later(patch, imports):
    """Swap the recipe's lines, so that gevent or eventlet patches after install(): `gunicorn --preload` does so."""
    install = f"{imports}\nimport safedial\n\nsafedial.install()\n"
    return f"{patch}\n{install}", install + patch


_USER = '"USER": "app",'
_POOL = f'{_USER} "OPTIONS": {{"pool": {{"min_size": 1, "timeout": 0.2}}}},'
_IMPORT = "import safedial\n"
_PYMYSQL = "import pymysql, safedial\n\npymysql.install_as_MySQLdb()\n"
_POSTGRES = "postgresql+psycopg://app@{host}:{port}/postgres"
_PYMYSQL_URL = "mysql+pymysql://app@{host}:{port}/app"
_CONNECTOR_URL = "mysql+mysqlconnector://app@{host}:{port}/app"
_MYSQLCLIENT_URL = "mysql+mysqldb://app@{host}:{port}/app"
_PEEWEE = ("postgresql://app@{host}:{port}/postgres", "mysql://app@{host}:{port}/app")

# By the kind of server, a key of `outage.KINDS`.
ROWS = {
    "PostgreSQL": [
        Row("Django, psycopg", "Django on PostgreSQL", "django_database"),
        Row("Django, psycopg_pool", "Django on PostgreSQL", "django_database", (_USER, _POOL)),
        Row("Flask-SQLAlchemy, psycopg", "Flask-SQLAlchemy", "flask_sqlalchemy"),
        Row("Flask-SQLAlchemy, psycopg2", "Flask-SQLAlchemy", "flask_sqlalchemy", ("+psycopg:", "+psycopg2:")),
        Row("SQLModel, psycopg", "SQLModel", "sqlmodel"),
        Row("SQLModel, psycopg, async", "SQLModel", "sqlmodel_async"),
        Row("peewee, psycopg2", "peewee", "peewee"),
        Row("peewee, psycopg2, forked", "peewee", "forked"),
        Row("Tortoise, asyncpg", "Tortoise", "tortoise"),
        Row("psycopg_pool", "psycopg_pool", "psycopg_pool"),
        Row("psycopg_pool, async", "psycopg_pool", "psycopg_pool_async", (", open=True", ", open=False")),
    ],
    "MariaDB": [
        Row("Django, mysqlclient", "Django on MySQL", "django_database", needs="MySQLdb"),
        Row("Django, PyMySQL", "Django on MySQL", "django_database", (_IMPORT, _PYMYSQL)),
        Row("Flask-SQLAlchemy, PyMySQL", "Flask-SQLAlchemy", "flask_sqlalchemy", (_POSTGRES, _PYMYSQL_URL)),
        Row("Flask-SQLAlchemy, mysql-connector", "Flask-SQLAlchemy", "flask_sqlalchemy", (_POSTGRES, _CONNECTOR_URL)),
        Row("SQLModel, mysqlclient", "SQLModel", "sqlmodel", (_POSTGRES, _MYSQLCLIENT_URL), needs="MySQLdb"),
        Row("peewee, PyMySQL", "peewee", "peewee", _PEEWEE),
    ],
    "Redis": [
        Row("Django's cache", "Django's cache on Redis", "django_cache"),
        Row("FastAPI, uvloop", "FastAPI and Starlette", "fastapi"),
        Row("FastAPI, asyncio", "FastAPI and Starlette", "fastapi_asyncio"),
        Row("kombu", "kombu", "kombu"),
        Row("Celery, sender", "Celery", "celery_sender"),
        Row("Celery, prefork worker", "Celery", "celery_worker"),
        Row("multiprocessing, spawned", "multiprocessing", "spawned"),
    ],
    "ZeroMQ": [Row("ZeroMQ", "ZeroMQ", "zmq")],
}
TENACITY = Row("tenacity", "I have `@tenacity.retry` already", "tenacity")
# These have no server here: nobody ever listens.
REFUSED = [
    Row("kombu, AMQP", "kombu", "kombu_amqp", ("redis://{host}:{port}/0", "amqp://{host}:{port}")),
    Row("paho-mqtt", "MQTT: paho-mqtt", "", odd=True),
    Row("aiomqtt", "MQTT: aiomqtt", "aiomqtt", odd=True),
    Row("gevent", "gevent", ""),
    Row("gevent, patched later", "gevent", "", _later("monkey.patch_all()\n", "import gevent, socket")),
    Row("eventlet", "eventlet", ""),
    Row("eventlet, patched later", "eventlet", "", _later("eventlet.monkey_patch()\n", "import socket")),
    TENACITY,
]
