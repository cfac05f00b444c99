"""The clients of redis and valkey, blocking and asyncio, with their adapters."""

import asyncio
import contextlib
import inspect
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("redis", reason="needs redis: pip install redis")
import redis.asyncio

from safedial.adapters import redis as adapter
from tests.support.redis_server import HOST


async def done(answer):
    """Return *answer*, awaited if it is an awaitable."""
    return await answer if inspect.isawaitable(answer) else answer


@dataclass(frozen=True)
class Kind:
    """One library, blocking or asyncio, with its adapter. By default its clients do not retry."""

    name: str
    adapter: Any
    library: Any
    asynchronous: bool

    @property
    def module(self):
        return self.library.asyncio if self.asynchronous else self.library

    @property
    def connection_class(self):
        return self.adapter.SafeAsyncConnection if self.asynchronous else self.adapter.SafeConnection

    def retry(self, retries=0):
        module = self.library.asyncio.retry if self.asynchronous else self.library.retry
        return module.Retry(self.library.backoff.NoBackoff(), retries)

    def client(self, port, **kwargs):
        kwargs = {"host": HOST, "port": port, "retry": self.retry(), "socket_timeout": 5} | kwargs
        return self.module.Redis(**kwargs)

    def safe(self, port, dialer=None, **kwargs):
        return self.adapter.protect(self.client(port, **kwargs), dialer=dialer)

    def use(self, make, *commands):
        """Make a client, run *commands* (by default PING), close it, and return the answers."""

        async def use():
            client = make()
            try:
                return [await done(client.execute_command(*command)) for command in commands or [("PING",)]]
            finally:
                await self.close(client)

        return asyncio.run(use())

    async def close(self, client):
        if hasattr(client, "disconnect_connection_pools"):  # a cluster
            client.disconnect_connection_pools()
        await done(client.aclose() if self.asynchronous else client.close())
        if pool := getattr(client, "connection_pool", None):  # a client does not close a pool that it was given
            await done(pool.disconnect())

    def error(self, make):
        with pytest.raises(Exception) as raised:  # noqa: PT011  # the callers check which one
            self.use(make)
        return raised.value


def kinds():
    found = [Kind("redis", adapter, redis, False), Kind("redis.asyncio", adapter, redis, True)]
    with contextlib.suppress(ImportError):
        import valkey
        import valkey.asyncio

        from safedial.adapters import valkey as valkeys

        found += [Kind("valkey", valkeys, valkey, False), Kind("valkey.asyncio", valkeys, valkey, True)]
    return found
