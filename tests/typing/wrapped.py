"""The types of what `wrap` returns, checked by mypy and pyright in strict mode; never run."""

import functools
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, assert_type, overload

import psycopg
import psycopg_pool
import websockets
from psycopg.rows import DictRow, TupleRow, dict_row

import safedial

T = TypeVar("T")

# Functions with keyword arguments. (pyright does not know the generic type of psycopg.connect itself.)
assert_type(safedial.wrap(psycopg.connect, policy=safedial.reconnect())("host=db"), psycopg.Connection[TupleRow])
safedial.wrap(psycopg.connect)(5)  # type: ignore[arg-type]

# Classes stay classes, also for pools.
safe: type[psycopg.Connection[Any]] = safedial.wrap(psycopg.Connection)
assert_type(safedial.wrap(psycopg.Connection).connect("host=db"), psycopg.Connection[TupleRow])
assert_type(
    safedial.wrap(psycopg.Connection[DictRow]).connect("host=db", row_factory=dict_row), psycopg.Connection[DictRow]
)
psycopg_pool.ConnectionPool("host=db", connection_class=safedial.wrap(psycopg.Connection))
psycopg_pool.ConnectionPool("host=db", connection_class=safedial.wrap(psycopg.Connection[DictRow]))
psycopg_pool.AsyncConnectionPool("host=db", connection_class=safedial.wrap(psycopg.AsyncConnection))


class Generics(Generic[T]):
    """A library's generic client."""

    def __init__(self, value: T) -> None: ...


assert_type(safedial.wrap(Generics)(5), Generics[int])
assert_type(safedial.wrap(Generics[str])("a"), Generics[str])


@overload
def dial(address: str) -> bytes: ...
@overload
def dial(address: int) -> list[bytes]: ...
def dial(address: str | int) -> bytes | list[bytes]:
    raise NotImplementedError


assert_type(safedial.wrap(dial)("db"), bytes)
assert_type(safedial.wrap(dial)(5432), list[bytes])
assert_type(safedial.wrap(functools.partial(dial, "db"))(), bytes)


@contextmanager
def connected(host: str) -> Generator[bytes]:
    yield host.encode()


with safedial.wrap(connected)("db") as entered:
    assert_type(entered, bytes)


@safedial.wrap
def decorated(host: str) -> bytes:
    raise NotImplementedError


decorate: Callable[[str], bytes] = decorated


async def connect(host: str, *, port: int = 5432) -> Generics[int]:
    raise NotImplementedError


async def main() -> None:
    assert_type(await safedial.wrap(connect)("db", port=5), Generics[int])
    assert_type(await safedial.wrap(psycopg.AsyncConnection.connect)("host=db"), psycopg.AsyncConnection[TupleRow])
    async for connection in safedial.wrap(websockets.connect)("ws://db"):
        assert_type(connection, websockets.ClientConnection)
    async with safedial.wrap(websockets.connect)("ws://db") as connection:
        assert_type(connection, websockets.ClientConnection)
    assert_type(await safedial.wrap(websockets.connect)("ws://db"), websockets.ClientConnection)
