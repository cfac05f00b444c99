"""The same on asyncio's own loop: uvicorn prefers uvloop."""

from tests.frameworks.apps import fastapi

fastapi.LOOP = "asyncio"
use = fastapi.use
