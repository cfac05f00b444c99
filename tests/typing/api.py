"""The types of the public API, checked by mypy and pyright in strict mode; never run."""

import asyncio
import socket
from io import TextIOWrapper
from typing import Any, Literal, assert_type

import aiohttp
import httpx
import redis
import redis.asyncio
import requests
import sqlalchemy
import urllib3
import valkey
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from tenacity import AsyncRetrying, Retrying
from tenacity.retry import retry_base

import safedial
from safedial import testing

safe = safedial.safe_connect(("db", 5432))
assert_type(safe, socket.socket)
assert_type(safedial.safe_connect(("db", "postgresql"), 3), socket.socket)
assert_type(safedial.safe_connect((None, 80), None, ("127.0.0.1", 0), all_errors=True), socket.socket)
assert_type(
    safedial.safe_connect(
        ("db", 5432),
        timeout=1.5,
        policy=safedial.reconnect(within=30),
        on_event=print,
        steer=False,
        family=socket.AF_INET6,
        total_timeout=30,
        happy_eyeballs_delay=None,
        resolver=socket.getaddrinfo,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    ),
    socket.socket,
)

dialer = safedial.Dialer(timeout=5, policy=AsyncRetrying(reraise=True), source_address=("127.0.0.1", 0))
assert_type(dialer.dial(("db", 5432)), socket.socket)
assert_type(safedial.redial(attempts=5), Retrying)
assert_type(safedial.reconnect(within=60, first=0.1, cap=10), Retrying)
assert_type(safedial.reconnect(within=None, names=False, also=(EOFError, LookupError)), Retrying)
assert_type(safedial.reconnect(also=lambda error: "busy" in str(error)), Retrying)
for connection in safedial.connections(("db", 5432), timeout=3, policy=safedial.reconnect(within=None), on_event=print):
    with connection as sock:
        assert_type(sock, socket.socket)
for lost in safedial.connections(lambda: open("/dev/null"), stable_after=3):  # noqa: SIM115  # any factory
    with lost as file:
        assert_type(file, TextIOWrapper)
spurious: retry_base = safedial.retry_if_spurious
transient: retry_base = safedial.retry_if_transient
assert_type(safedial.is_self_connected(safe), bool)
assert_type(safedial.is_self_connected(3), bool)


async def resolver(host: object, port: object, **hints: int) -> list[Any]:
    """A user's resolver, for asyncio."""
    return await asyncio.get_running_loop().getaddrinfo("db", 5432, **hints)


class Greeting(asyncio.Protocol):
    """A user's protocol."""


safedial.connections(("db", 5432), all_errors=True)  # type: ignore[call-overload]
safedial.connections(("db", 5432), sock=safe)  # type: ignore[call-overload]


async def main() -> None:
    reader, writer = await safedial.open_connection("db", 5432, ssl=True, limit=1024, timeout=3, policy=None)
    assert_type(reader, asyncio.StreamReader)
    assert_type(writer, asyncio.StreamWriter)
    async for connection in safedial.connections(("db", 5432), ssl=True, limit=1024, stable_after=3):
        async with connection as (reader, writer):
            assert_type(reader, asyncio.StreamReader)
            assert_type(writer, asyncio.StreamWriter)
    async for lost in safedial.connections(lambda: asyncio.open_unix_connection("/run/db")):
        async with lost as (reader, writer):
            assert_type(reader, asyncio.StreamReader)
    transport, protocol = await safedial.adapters.asyncio.create_connection(
        Greeting, "db", 5432, happy_eyeballs_delay=0.25
    )
    await safedial.open_connection("db", 5432, total_timeout=30, resolver=resolver)
    await safedial.Dialer(total_timeout=30, happy_eyeballs_delay=0.1, resolver=resolver).dial_async(("db", 5432))
    assert_type(transport, asyncio.Transport)
    assert_type(protocol, Greeting)
    assert_type(await dialer.dial_async(("db", 5432)), socket.socket)


def hook(event: safedial.DialEvent) -> None:
    assert_type(event.round, int)
    assert_type(event.elapsed, float)
    assert_type(event.error, Exception | None)
    assert_type(event.wait, float | None)


safedial.Dialer(on_event=hook)

try:
    safedial.safe_connect(("db", 5432))
except safedial.SelfConnectError as error:
    refused: ConnectionRefusedError = error
    assert_type(error.host, str)
    assert_type(error.port, int)
except safedial.PortsExhaustedError as error:
    assert_type(error.usage, safedial.PortUsage)
    assert_type(error.usage.in_use, int | None)
    assert_type(error.usage.reserved, int | None)
    assert_type(error.usage.remedy, str)

# A wrong type is an error for both checkers: mypy reports an ignore that is not needed.
safedial.safe_connect("db:5432")  # type: ignore[arg-type]
safedial.safe_connect(("db", 5432), policy="reconnect")  # type: ignore[arg-type]
safedial.safe_connect(("db", 5432), retries=3)  # type: ignore[call-arg]
safedial.safe_connect(("db", 5432), total_timeout="30")  # type: ignore[arg-type]
safedial.Dialer(resolver="8.8.8.8")  # type: ignore[arg-type]
safedial.safe_connect(("db", 5432), resolver=resolver)  # type: ignore[arg-type]


# safedial.testing
with testing.self_connect(5432, times=2) as fault:
    assert_type(fault, testing.Fault)
    assert_type(fault.triggered, int)


@testing.ports_exhausted(5432, unused="warn")
def decorated(port: int) -> str:
    return str(port)


assert_type(decorated(5432), str)
testing.self_connect(5432, unused="no")  # type: ignore[arg-type]
with testing.address_not_available() as fault, testing.ports_exhausted(5432), testing.refused_port() as refused_port:
    assert_type(refused_port, int)
assert_type(testing.dead_port("::1"), int)
with testing.silent_port() as silent, testing.server_port("::1") as stable:
    assert_type((silent, stable), tuple[int, int])
with testing.name_failure("db", socket.EAI_NONAME, times=2, unused="warn") as fault:
    assert_type(fault, testing.Fault)
testing.name_failure("db", "EAI_AGAIN")  # type: ignore[arg-type]
with testing.Outage(["redis-server", "--port", "{port}"]) as outage, testing.fast_retries() as waits:
    assert_type(outage.address, tuple[str, int])
    assert_type(outage.start(), testing.Start)
    outage.refuse_for(2, unused="warn")
    outage.refuse_for(seconds=0.5)
    outage.refuse_for("2")  # type: ignore[arg-type]
    assert_type(waits, list[float])
assert_type(testing.assert_resilient(lambda host, port: safedial.safe_connect((host, port))), list[testing.Finding])
testing.assert_resilient(safedial.open_connection, faults=["outage"], server=testing.echo, dials_per_second=5)
testing.Outage(server=7)  # type: ignore[arg-type]
with testing.Outage(testing.hang_up, latency=0.5, reset_after=100), testing.hanging_up(2, testing.echo) as hanging_up:
    assert_type(hanging_up, testing.HangingUp)
    assert_type(hanging_up.hung_up, int)
testing.hanging_up(server=["redis-server"])  # type: ignore[arg-type]
assert_type(testing.in_namespace(testing.dead_port, port_range=(40000, 40001)), int)


# The guard, and other people's factories, which keep their types.
class Client:
    """A library's client."""

    def __init__(self, host: str, *, port: int = 6379) -> None: ...


async def connect(host: str, port: int) -> Client:
    return Client(host, port=port)


@safedial.guard()
def guarded(host: str) -> Client:
    with safedial.guard(), safedial.hold((host, 6379)):
        return Client(host)


@safedial.guard()
async def guarded_async(host: str) -> Client:
    return await connect(host, 6379)


@safedial.guard
def guarded_bare(host: str, *, port: int = 6379) -> Client:
    return Client(host, port=port)


@safedial.guard
async def guarded_bare_async(host: str) -> Client:
    return await connect(host, 6379)


@safedial.guard(on_event=hook)
def guarded_and_heard(host: str) -> Client:
    return Client(host)


async def guards() -> None:
    assert_type(guarded_bare("db", port=1), Client)
    assert_type(await guarded_bare_async("db"), Client)
    assert_type(guarded_and_heard("db"), Client)
    assert_type(await safedial.guard(connect, on_event=hook)("db", port=6379), Client)
    async with safedial.guard(on_event=hook) as nothing:
        assert_type(nothing, None)
    assert_type(safedial.is_guarded(), Literal["guard", "install"] | None)
    guarded_bare(6379)  # type: ignore[arg-type]
    safedial.guard("127.0.0.1")  # type: ignore[call-overload]
    safedial.guard(address=("127.0.0.1", 80))  # type: ignore[call-overload]
    safedial.guard(policy=None)  # type: ignore[call-overload]
    safedial.hold("127.0.0.1", 80)  # type: ignore[arg-type, call-arg]
    safedial.hold(("127.0.0.1", 80))(connect)  # type: ignore[operator]


async def wrapped() -> None:
    assert_type(guarded("db"), Client)
    assert_type(await guarded_async("db"), Client)
    assert_type(safedial.wrap(Client)("db", port=6379), Client)
    assert_type(await safedial.wrap(connect, policy=safedial.reconnect())("db", 6379), Client)
    safedial.wrap(Client, address=("db", 6379), policy=None)("db")
    safedial.wrap(connect, address=lambda host, port: (host, port))
    safedial.wrap(Client)(6379)  # type: ignore[arg-type]
    safedial.wrap(Client, policy="reconnect")  # type: ignore[call-overload]


safedial.install()
safedial.install(on_event=print, hold=[("127.0.0.1", 5555)])
safedial.install(hold=("127.0.0.1", 5555))  # type: ignore[arg-type]  # one pair in place of a list
safedial.install([("127.0.0.1", 5555)])  # type: ignore[call-arg, arg-type]
safedial.install(policy=None)  # type: ignore[call-arg]
safedial.uninstall()


# The adapters return what they get. What they refuse when they run is a type error, too.
adapters = safedial.adapters
assert_type(adapters.redis.protect(redis.Redis(), dialer=dialer), redis.Redis)
assert_type(adapters.redis.protect(redis.asyncio.Redis()), redis.asyncio.Redis)
assert_type(adapters.redis.protect(redis.ConnectionPool()), redis.ConnectionPool)
assert_type(adapters.requests.protect(requests.Session(), max_retries=3), requests.Session)
assert_type(adapters.urllib3.protect(urllib3.PoolManager()), urllib3.PoolManager)
assert_type(adapters.httpx.protect(httpx.AsyncClient()), httpx.AsyncClient)
assert_type(adapters.aiohttp.protect(aiohttp.ClientSession(), policy=None), aiohttp.ClientSession)
assert_type(adapters.sqlalchemy.protect(sqlalchemy.create_engine("sqlite://")), sqlalchemy.Engine)
assert_type(adapters.sqlalchemy.protect(create_async_engine("sqlite://")), AsyncEngine)
assert_type(adapters.socket.create_connection(("db", 5432), policy=None), adapters.socket.socket)
assert_type(adapters.socket.fromfd(3, socket.AF_INET, socket.SOCK_STREAM), adapters.socket.socket)
adapters.valkey.protect(valkey.Valkey())
adapters.redis.protect("redis://db")  # type: ignore[type-var]
adapters.redis.protect(redis.Redis)  # type: ignore[type-var]
adapters.valkey.protect("valkey://db")  # type: ignore[type-var]
adapters.requests.protect("https://db")  # type: ignore[type-var]
adapters.requests.protect(httpx.AsyncClient())  # type: ignore[type-var]
adapters.httpx.protect(requests.Session())  # type: ignore[type-var]
adapters.urllib3.protect("https://db")  # type: ignore[type-var]
adapters.aiohttp.protect("https://db")  # type: ignore[type-var]
adapters.sqlalchemy.protect("postgresql://db")  # type: ignore[type-var]
adapters.redis.protect(redis.Redis(), dialer=safedial.reconnect())  # type: ignore[arg-type]
adapters.requests.protect(requests.Session(), dialer=safedial.reconnect())  # type: ignore[arg-type]
