"""Where a dial waits: under Sentinel and Cluster in the client's own Retry, which asks for the server again."""

import asyncio
import contextlib
import functools
import threading
import time

import pytest
import tenacity

import safedial
from tests.support import namespace, redis_server
from tests.support.policies import retrying
from tests.support.redis_clients import done, kinds

import redis  # isort: skip  # after the line that skips without it

HOST = redis_server.HOST
WAITING = {
    "reconnect": safedial.reconnect(),
    "its own": retrying(3),
    "redial or more": tenacity.Retrying(retry=safedial.retry_if_spurious | safedial.retry_if_transient),
}
NOT_WAITING = {
    "default": safedial.Dialer(timeout=2, total_timeout=5),
    "None": safedial.Dialer(policy=None),
    "redial": safedial.Dialer(policy=safedial.redial(5)),
    "a copy of redial": safedial.Dialer(policy=safedial.redial().copy(sleep=time.sleep)),
}


@pytest.fixture(params=kinds(), ids=lambda kind: kind.name)
def kind(request):
    return request.param


def sentinel(kind):
    return kind.module.Sentinel([(HOST, 1)])


def by_sentinel(kind, dialer):
    kind.adapter.protect(sentinel(kind), dialer=dialer)


def by_client(kind, dialer):
    kind.adapter.protect(sentinel(kind).master_for("mymaster"), dialer=dialer)


def by_client_of_a_replica(kind, dialer):
    kind.adapter.protect(sentinel(kind).slave_for("mymaster"), dialer=dialer)


def by_pool(kind, dialer):
    pool = kind.module.sentinel.SentinelConnectionPool("mymaster", sentinel(kind))
    kind.adapter.protect(pool, dialer=dialer)


def by_master_for(kind, dialer):
    kind.adapter.protect(sentinel(kind)).master_for("mymaster", dialer=dialer)


def by_sentinels_own_arguments(kind, dialer):
    many = kind.module.Sentinel([(HOST, 1)], dialer=dialer)
    kind.adapter.protect(many).slave_for("mymaster")


def managed(kind, **attributes):
    """A class of Sentinel's connections that is safe without `protect`."""
    return type("Managed", (kind.module.sentinel.SentinelManagedConnection, kind.connection_class), attributes)


def by_safe_class(kind, dialer):
    client = sentinel(kind).master_for("mymaster", connection_class=managed(kind), dialer=dialer)
    client.connection_pool.make_connection()


def by_class_attribute(kind, dialer):
    client = sentinel(kind).master_for("mymaster", connection_class=managed(kind, dialer=dialer))
    client.connection_pool.make_connection()


def by_class_attribute_and_protect(kind, dialer):
    client = sentinel(kind).master_for("mymaster", connection_class=managed(kind, dialer=dialer))
    kind.adapter.protect(client)


SENTINEL_WAYS = [way for name, way in list(globals().items()) if name.startswith("by_")]


def by_cluster(kind, dialer):
    if kind.asynchronous:
        kind.adapter.protect(kind.module.RedisCluster(host=HOST, port=1), dialer=dialer)
        return
    pool = functools.partial(kind.adapter.SafeConnectionPool, dialer=dialer)
    url = f"{kind.library.__name__}://{HOST}:1"
    with pytest.raises(Exception, match="can") as caught:  # RedisClusterException, since nobody listens
        kind.module.RedisCluster.from_url(url, connection_pool_class=pool)
    if isinstance(caught.value.__cause__, ValueError):
        assert str(caught.value.__cause__) in str(caught.value)
        raise caught.value.__cause__


@pytest.mark.parametrize("way", [*SENTINEL_WAYS, by_cluster], ids=lambda way: way.__name__)
class TestEveryWayIn:
    @pytest.mark.parametrize("policy", WAITING)
    def test_dialer_that_waits_is_refused(self, kind, way, policy):
        with pytest.raises(ValueError, match=r"dialer must not wait under \w+: .* old master, .* lost.* retry=Retry"):
            way(kind, safedial.Dialer(policy=WAITING[policy]))

    @pytest.mark.parametrize("dialer", NOT_WAITING)
    def test_dialer_that_does_not_wait_is_taken(self, kind, way, dialer):
        way(kind, NOT_WAITING[dialer])


def test_refusal_leaves_the_client_as_it_was(kind):
    many = sentinel(kind)
    plain = many.sentinels[0].connection_pool.connection_class
    with pytest.raises(ValueError, match="dialer"):
        kind.adapter.protect(many, dialer=safedial.Dialer(policy=safedial.reconnect()))
    assert many.sentinels[0].connection_pool.connection_class is plain
    assert "master_for" not in vars(many)


def test_dialer_of_master_for_comes_before_sentinels(kind):
    first, second = safedial.Dialer(timeout=1), safedial.Dialer(timeout=2)
    many = kind.adapter.protect(sentinel(kind), dialer=first)
    for given, expected in (({}, first), ({"dialer": second}, second), ({"dialer": None}, first)):
        client = many.master_for("mymaster", **given)
        assert client.connection_pool.make_connection().dialer is expected


def test_dialer_may_wait_for_the_only_server(kind):
    dialer = safedial.Dialer(policy=safedial.reconnect())
    assert kind.safe(1, dialer).connection_pool.make_connection().dialer is dialer


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind.asynchronous], ids=lambda kind: kind.name)
def test_dialer_of_the_event_loop_does_not_dial_for_a_protected_client(kind, refused_port, events):
    """So a loop whose dials wait does no harm to it."""

    async def ping():
        client = kind.safe(refused_port)
        try:
            with pytest.raises(kind.library.ConnectionError):
                await client.ping()
        finally:
            await kind.close(client)

    dialer = safedial.Dialer(on_event=events.append)
    with asyncio.Runner(loop_factory=lambda: safedial.adapters.asyncio.new_event_loop(dialer=dialer)) as runner:
        runner.run(ping())
    assert events == []


# Seconds between two rounds of a client's Retry, and their number.
PAUSE, ROUNDS = 0.05, 300


class Writer:
    """A client of Sentinel that writes once, for as long as its Retry goes on. It notes what happens meanwhile."""

    def __init__(self, kind, safely, port):
        self.name = f"{kind.name}, {'safe' if safely else 'plain'}"
        self.rounds = 0
        self.named = []  # by Sentinel, before each dial
        self.dialed = []
        self.raised = []
        self.answered = False
        self._kind, self._safely, self._port = kind, safely, port

    def run(self, ready, go):
        """Connect, and say that it is *ready*. Write when it may *go*."""
        asyncio.run(self._run(ready, go))

    async def _run(self, ready, go):
        many = self._kind.module.Sentinel([(HOST, self._port)], socket_timeout=5)
        if self._safely:
            self._kind.adapter.protect(many, dialer=safedial.Dialer(on_event=self._heard))
        client = many.master_for("mymaster", socket_timeout=5, retry=self._retry(), connection_class=self._noting())
        try:
            await done(client.set(f"{self.name}, before", "kept"))
            ready.wait(30)
            go.wait(30)
            for _ in range(3):  # valkey does not retry a command whose connection breaks
                try:
                    await done(client.set(self.name, "kept"))
                except self._kind.library.ConnectionError as error:
                    self.raised.append(repr(error))
                else:
                    self.answered = True
                    break
        finally:
            for each in (client, *many.sentinels):
                await self._kind.close(each)

    def _heard(self, event):
        if event.address and event.address[1] != self._port:
            self.dialed.append(event.address)

    def _retry(self):
        kind, writer = self._kind, self

        class Counting(kind.library.backoff.ConstantBackoff):
            def compute(self, failures):
                writer.rounds += 1
                return super().compute(failures)

        module = kind.library.asyncio.retry if kind.asynchronous else kind.library.retry
        return module.Retry(Counting(PAUSE), ROUNDS)

    def _noting(self):
        named = self.named

        class Noting(self._kind.module.sentinel.SentinelManagedConnection):
            def connect_to(self, address):
                named.append(tuple(address))
                return super().connect_to(address)

        return Noting


def until(true, seconds=30.0):
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"not true within {seconds} s")
        time.sleep(0.02)


@contextlib.contextmanager
def watched_pair(directory):
    """A master, a replica in step with it, and a Sentinel that knows both and soon takes a master for dead."""
    settings = ["down-after-milliseconds mymaster 500", "failover-timeout mymaster 4000"]
    # The master begins at once to send its data to the replica.
    with (
        redis_server.server(directory, "--port", "{port}", "--repl-diskless-sync-delay", "0") as old,
        redis_server.server(directory, "--port", "{port}", "--replicaof", HOST, str(old.port)) as new,
        redis.Redis(HOST, new.port, decode_responses=True) as replica,
    ):
        until(lambda: replica.info("replication")["master_link_status"] == "up")
        with (
            redis_server.sentinel(directory, old.port, *settings) as watcher,
            redis.Redis(HOST, watcher.port, decode_responses=True) as asked,
        ):
            until(lambda: [each["master-link-status"] for each in asked.sentinel_slaves("mymaster")] == ["ok"])
            # Clients ask for the same. GET-MASTER-ADDR-BY-NAME has the answer a little earlier.
            yield old, replica, watcher.port, lambda: asked.sentinel_master("mymaster")["port"] == new.port


def fail_over(directory, in_flight):
    """Let all clients write at once while Sentinel replaces a dead master; return them, and what was written.

    If the writes are *in_flight*, the master dies after they were sent, else before. When the new master is there, the
    old one comes back, and takes itself for the master until Sentinel has told it.
    """
    with watched_pair(directory) as (old, new, sentinel_port, replaced):
        writers = [Writer(kind, safely, sentinel_port) for kind in kinds() for safely in (False, True)]
        ready, go = threading.Barrier(len(writers) + 1), threading.Event()
        threads = [threading.Thread(target=writer.run, args=(ready, go)) for writer in writers]
        for thread in threads:
            thread.start()
        ready.wait(30)
        until(lambda: new.exists(*[f"{writer.name}, before" for writer in writers]) == len(writers))
        with redis.Redis(HOST, old.port) as master:
            if in_flight:
                master.execute_command("CLIENT PAUSE", 60000, "WRITE")
                go.set()
                until(lambda: master.info("clients")["blocked_clients"] == len(writers))
        old.kill()
        go.set()
        until(replaced)
        # What Sentinel answered before is dialed by now, since a round asks it once.
        rounds = {writer: writer.rounds + 2 for writer in writers}
        until(lambda: all(writer.answered or writer.rounds >= rounds[writer] for writer in writers))
        old.start()
        for thread in threads:
            thread.join()
        written = {writer.name: new.get(writer.name) for writer in writers}
    return {
        writer.name: {name: value for name, value in vars(writer).items() if name[0] != "_"} for writer in writers
    }, written


class TestFailover:
    @pytest.mark.storm
    @pytest.mark.parametrize("in_flight", [False, True], ids=["idle", "in flight"])
    def test_takes_no_longer_than_with_a_plain_client_and_loses_no_write(self, tmp_path, in_flight):
        namespace.require()
        redis_server.require()
        seen, written = namespace.call(fail_over, tmp_path, in_flight)
        for kind in kinds():
            plain, safe = seen[f"{kind.name}, plain"], seen[f"{kind.name}, safe"]
            assert safe["answered"], kind.name
            assert written[f"{kind.name}, safe"] == "kept", kind.name
            assert safe["dialed"] == safe["named"], f"{kind.name}: one dial for each answer of Sentinel"
            # A round of one is as long as a round of the other. A busy machine may slow down one of the two.
            rounds = safe["rounds"], plain["rounds"]
            assert 0 < rounds[0] <= 2 * rounds[1] + 10, f"{kind.name}: {rounds}"
