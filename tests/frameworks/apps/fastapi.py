"""FastAPI on a real uvicorn, behind a Unix socket, so that only the application dials."""

import functools
import os
import tempfile
import threading
import time
import traceback

import httpx
import redis
import redis.asyncio.retry
import uvicorn
from fastapi import Request
from fastapi.responses import PlainTextResponse
from recipe import app, host, port
from redis.backoff import NoBackoff
from redis.retry import Retry

LOOP = "auto"
blocking = redis.Redis(host, port, retry=Retry(NoBackoff(), 1))


@app.post("/{key}")
def post(key: str):
    blocking.set(key, key)
    return key


@app.exception_handler(redis.RedisError)
def report(request: Request, error: redis.RedisError):
    return PlainTextResponse("".join(traceback.format_exception(error)), 500)


@functools.cache
def client():
    path = os.path.join(tempfile.mkdtemp(), "uvicorn")
    server = uvicorn.Server(uvicorn.Config(app, uds=path, loop=LOOP))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    # redis's ten retries wait for seconds.
    app.state.cache.set_retry(redis.asyncio.retry.Retry(NoBackoff(), 1))
    return httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://app", timeout=30)


def use(text):
    # The asynchronous route is the first to dial.
    responses = [client().get(f"/{text}"), client().post(f"/{text}"), client().get(f"/{text}")]
    for response in responses:
        if response.is_error:
            raise RuntimeError(response.text)
    return responses[-1].json()
