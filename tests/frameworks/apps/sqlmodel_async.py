import asyncio

import sqlmodel
from recipe import Word, engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

engine = create_async_engine(engine.url)
runner = asyncio.Runner()


async def write(text):
    async with engine.begin() as connection:
        await connection.run_sync(sqlmodel.SQLModel.metadata.create_all)
    async with AsyncSession(engine) as session:
        session.add(Word(text=text))
        await session.commit()
        return (await session.exec(sqlmodel.select(Word).where(Word.text == text))).one().text


def use(text):
    return runner.run(write(text))
