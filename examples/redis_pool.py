"""A Redis pool that survives an outage, and a server that can always come back.

A redis-server is started on a port that the kernel may draw for any connect, and killed while four threads
use a pool. They dial on, without pause: a plain pool would in the end connect to itself, read back its own
commands as answers, and keep the server off its port.

pip install 'safedial[redis]'; apt-get install redis-server; python examples/redis_pool.py
"""

import shutil
import sys
import threading
import time
from collections import Counter

import redis

from safedial.adapters.redis import SafeConnection
from safedial.testing import Outage

SERVER = ["redis-server", "--bind", "{host}", "--port", "{port}", "--save", ""]


def work(pool: redis.ConnectionPool, name: str, seen: Counter, over: threading.Event) -> None:
    client = redis.Redis(connection_pool=pool)
    while not over.is_set():
        try:
            client.set(name, seen["right"])
            seen["right" if client.exists(name) == 1 else "wrong"] += 1
        except redis.ConnectionError:
            seen["refused"] += 1  # a program of yours would wait here, or let redis's Retry do so


def main() -> None:
    if shutil.which("redis-server") is None:
        sys.exit("This example starts a redis-server, and finds none: apt-get install redis-server")
    seen: Counter = Counter()
    over = threading.Event()
    with Outage(SERVER) as server:
        # The one line: connections of a safe class.
        pool = redis.ConnectionPool(connection_class=SafeConnection, host=server.host, port=server.port)
        threads = [threading.Thread(target=work, args=(pool, f"worker {n}", seen, over)) for n in range(4)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(0.3)
            server.kill()
            time.sleep(1.0)
            start = server.start()
            recovered = seen["right"]
            time.sleep(0.3)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        pool.disconnect()
    print(f"{seen['right']} right answers, {seen['wrong']} wrong ones, {seen['refused']} refused meanwhile")
    print(f"the server was back on its port at try {start.binds}, and the pool with it: {seen['right'] > recovered}")


if __name__ == "__main__":
    main()
