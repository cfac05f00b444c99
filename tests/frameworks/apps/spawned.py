"""A child that is spawned: its function's module knows nothing of safedial."""

from recipe import host, pool, port

from tests.frameworks.apps import plain_redis


def use(text):
    return pool.submit(plain_redis.use, text, host, port).result()
