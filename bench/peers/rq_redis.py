"""RQ on Redis; it stores results by default. The worker forks for no job (SimpleWorker)."""

from collections.abc import Iterable

from redis import Redis
from rq import Queue

from bench.effects import work
from bench.peers.addresses import REDIS

REDIS_URL = REDIS  # the worker reads it here
queue = Queue(connection=Redis.from_url(REDIS))


def noop(number: int, seconds: float) -> int:
    return work(number, seconds)


def send(number: int, seconds: float) -> None:
    queue.enqueue(noop, number, seconds)


def send_many(numbers: Iterable[int]) -> None:
    queue.enqueue_many([Queue.prepare_data(noop, (number, 0.0)) for number in numbers])
