"""A Redis pool that survives an outage, and a server that can always come back.

Starts a redis-server on a port in the ephemeral range, and kills it while four threads use a pool. The threads
go on dialing without a pause. A plain pool would sooner or later connect to itself, read back its own commands
as answers, and keep the server off its port.

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
            seen["refused"] += 1  # a real program would wait here, or use redis's Retry


def main() -> None:
    if shutil.which("redis-server") is None:
        sys.exit("This example needs redis-server: apt-get install redis-server")
    seen: Counter = Counter()
    over = threading.Event()
    with Outage(SERVER) as server:
        # The one line: a safe class of connections.
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
    print(f"{seen['right']} right answers, {seen['wrong']} wrong ones, {seen['refused']} refused connections")
    print(f"the server could bind its port at try {start.binds}, and the pool recovered: {seen['right'] > recovered}")


if __name__ == "__main__":
    main()
