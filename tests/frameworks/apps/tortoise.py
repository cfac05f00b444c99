import asyncio

from recipe import Word, start
from tortoise import Tortoise

runner = asyncio.Runner()
runner.run(start())


async def write(text):
    await Tortoise.generate_schemas()
    await Word.create(text=text)
    return (await Word.get(text=text)).text


def use(text):
    return runner.run(write(text))
