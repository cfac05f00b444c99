from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def use(text, host, port):
    with Redis(host, port, retry=Retry(NoBackoff(), 1), decode_responses=True) as client:
        client.set(text, text)
        return client.get(text)
