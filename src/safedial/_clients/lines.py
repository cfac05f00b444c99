"""The clients that dial again by themselves, and for each the line that guards it. Pure."""

from collections.abc import Container
from types import MethodType, ModuleType
from typing import Any

from safedial._clients.factories import bare, packages_of

INSTALL = "call safedial.install() first"
_HOLD = "hold its port for as long as it lives, by safedial.install(hold=[(host, port)]) or safedial.hold((host, port))"
_POOL = ("Pool", "create_pool")
_RESP = ("BlockingConnectionPool", "ConnectionPool", "Sentinel", "from_url")
_HTTP_POOL = ("HTTPConnectionPool", "HTTPSConnectionPool", "PoolManager", "ProxyManager")
_SQLALCHEMY = ("AsyncEngine", "AsyncSession", "Engine", "Session", "create_async_engine", "create_engine")
# By the library that has an adapter with protect(): its clients, and the functions that make them.
ADAPTERS: dict[str, tuple[str, ...]] = {
    "aiohttp": ("ClientSession", "TCPConnector"),
    "httpx": ("AsyncClient", "Client"),
    "redis": ("Redis", "RedisCluster", "StrictRedis", *_RESP),
    "requests": ("Session", "session"),
    "sqlalchemy": (*_SQLALCHEMY, "async_sessionmaker", "sessionmaker"),
    "urllib3": _HTTP_POOL,
    "valkey": ("StrictValkey", "Valkey", "ValkeyCluster", *_RESP),
}


def _cluster(library: str, kind: str) -> tuple[Container[str] | None, str]:
    safe = f"safedial.adapters.{library}.SafeConnectionPool"
    return (kind, "from_url"), f"write {library}.{kind}.from_url(url, connection_pool_class={safe})"


# Clients that dial when they are used, or in threads or tasks of their own: by package or module, the names of the
# classes, and of the functions that make them (None: all), and the line that guards them.
_LINES: dict[str, tuple[Container[str] | None, str]] = {
    **{name: (names, f"use safedial.adapters.{name}.protect(...)") for name, names in ADAPTERS.items()},
    # The blocking ones dial while they are made.
    "redis.cluster": _cluster("redis", "RedisCluster"),
    "valkey.cluster": _cluster("valkey", "ValkeyCluster"),
    **dict.fromkeys(("aiomysql", "aiopg", "asyncmy"), (_POOL, INSTALL)),
    **dict.fromkeys(("motor", "pymongo"), (None, INSTALL)),
    "aio_pika": (("RobustConnection",), INSTALL),
    "aiokafka": (("AIOKafkaConsumer", "AIOKafkaProducer"), INSTALL),
    "asyncpg": (_POOL, "give the pool connect=safedial.wrap(asyncpg.connect)"),
    "grpc": (("Channel", "insecure_channel", "secure_channel"), _HOLD),
    "kafka": (("KafkaAdminClient", "KafkaConsumer", "KafkaProducer"), INSTALL),
    "nats": (("Client",), INSTALL),
    "paho": (("Client",), INSTALL),
    "psycopg_pool": (None, f"give the pool connection_class=safedial.wrap(psycopg.Connection), or {INSTALL}"),
    "pymemcache": (("Client", "HashClient", "PooledClient"), "give it socket_module=safedial.adapters.socket"),
    "zmq": (("Context", "Socket"), _HOLD),
}
# Their objects dial in C, in threads of their own, also if a method of theirs is called.
_IN_C = frozenset({"grpc", "zmq"})


def line_for(thing: Any) -> str | None:
    """Return the line that guards *thing*: a client, its class, or the function that makes one. None if unknown."""
    thing = bare(thing)
    has_name = hasattr(thing, "__name__") and not isinstance(thing, ModuleType)
    named: Any = thing if has_name else thing.__class__
    for each in named.__mro__ if isinstance(named, type) else (named,):
        names, line = _LINES.get(str(getattr(each, "__module__", None))) or _LINES.get(packages_of(each)[0], ((), ""))
        if names is None or getattr(each, "__name__", "") in names:
            return line
    return None


def line_in_c(function: Any) -> str | None:
    """Return the line for *function* if it is a method or callable of a library that dials in C; else None."""
    owner = owner_of(function) or bare(function)
    return _HOLD if not isinstance(owner, type) and _IN_C & {*packages_of(type(owner))} else None


def owner_of(function: Any) -> Any:
    """Return the object whose method *function* is; None if it is none."""
    function = bare(function)
    return function.__self__ if isinstance(function, MethodType) and not isinstance(function.__self__, type) else None
