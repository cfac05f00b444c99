import asyncio

import psycopg_pool
from recipe import conninfo

runner = asyncio.Runner()


async def make_pool():
    pool = psycopg_pool.AsyncConnectionPool(conninfo, min_size=1, timeout=0.1, open=False)
    await pool.open(wait=True)
    return pool


pool = runner.run(make_pool())


async def read(text):
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT %s::text", [text])
        return (await cursor.fetchone())[0]


def use(text):
    return runner.run(read(text))
