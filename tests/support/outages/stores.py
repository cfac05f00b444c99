"""The rows of Redis, Valkey and Memcached."""

import contextlib

import pymemcache
import redis
import redis.asyncio
import valkey
import valkey.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

import safedial
from tests.support.outages.rows import CONNECT, DEAD, FACTORY, Row, aclose, close, dialer, trusting

LIMITS = {"socket_connect_timeout": CONNECT}


def resp_client(kind, retry):
    """Return a function that makes a client whose own Retry does not wait: only one of the two may."""

    def make(place, limits=LIMITS):
        tls = {"ssl": True, "ssl_ca_certs": place.ca} if place.ca else {}
        login = {"username": place.user, "password": place.password, "db": place.database or 0}
        return kind(host=place.host, port=place.port, socket_timeout=CONNECT, retry=retry(), **login, **limits, **tls)

    return make


REDIS = {
    "redis": resp_client(redis.Redis, lambda: Retry(NoBackoff(), 0)),
    "redis, async": resp_client(redis.asyncio.Redis, lambda: AsyncRetry(NoBackoff(), 0)),
    "valkey": resp_client(valkey.Valkey, lambda: valkey.retry.Retry(valkey.backoff.NoBackoff(), 0)),
    "valkey, async": resp_client(
        valkey.asyncio.Valkey, lambda: valkey.asyncio.retry.Retry(valkey.backoff.NoBackoff(), 0)
    ),
}


def resp_factory(make, protect):
    def dial(place):
        def connect():
            with contextlib.ExitStack() as stack:
                client = stack.enter_context(contextlib.closing(protect(make(place))))
                client.ping()
                stack.pop_all()
                return client

        return safedial.wrap(connect, policy=place.policy)()

    return dial


def resp_factory_async(make, protect):
    async def dial(place):
        async def connect():
            client = protect(make(place))
            try:
                await client.ping()
            except BaseException:
                await client.aclose()
                raise
            return client

        return await safedial.wrap(connect, policy=place.policy)()

    return dial


def resp_protected(make, protect):
    return lambda place: protect(make(place, {}), dialer=dialer(place))


def increment(client, key):
    assert client.incr(key) == 1


async def increment_async(client, key):
    assert await client.incr(key) == 1


def resp_rows():
    for name, make in REDIS.items():
        asynchronous = name.endswith("async")
        write, end = (increment_async, aclose) if asynchronous else (increment, close)
        protect = getattr(safedial.adapters, name.partition(",")[0]).protect
        factory = (resp_factory_async if asynchronous else resp_factory)(make, protect)
        yield Row(name, FACTORY, "Redis", factory, write, end)
        # redis.asyncio does not look whether the connection that it takes from its pool is dead.
        notes = {"crash, restart": DEAD, "orderly restart": DEAD} if name == "redis, async" else {}
        options = {"covers": "dial", "keeps": True, "notes": notes}
        yield Row(name, "protect(client, dialer=…)", "Redis", resp_protected(make, protect), write, end, **options)


def pymemcache_(place):
    def connect():
        tls = {"tls_context": trusting(place)} if place.ca else {}
        limits = {"connect_timeout": CONNECT, "timeout": CONNECT}
        dials = safedial.adapters.socket
        client = pymemcache.Client((place.host, place.port), socket_module=dials, **limits, **tls)
        client.version()
        return client

    return safedial.wrap(connect, policy=place.policy)()


def increment_memcached(client, key):
    assert client.add(key, "0", noreply=False)
    assert client.incr(key, 1, noreply=False) == 1


ROWS = [*resp_rows(), Row("pymemcache", FACTORY, "Memcached", pymemcache_, increment_memcached, close)]
