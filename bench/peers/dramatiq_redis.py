"""Dramatiq on Redis, with its results middleware."""

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench.effects import work
from bench.peers.addresses import REDIS

broker = RedisBroker(url=REDIS)
broker.add_middleware(Results(backend=RedisBackend(url=REDIS)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop(number: int, seconds: float) -> int:
    return work(number, seconds)


def send(number: int, seconds: float) -> None:
    noop.send(number, seconds)
