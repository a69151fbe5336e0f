"""RQ on Redis; it stores results by default. The worker forks for no job (SimpleWorker)."""

import time
from collections.abc import Iterable

from redis import Redis
from rq import Queue

from bench.effects import note
from bench.peers.addresses import REDIS

REDIS_URL = REDIS  # the worker reads it here
queue = Queue(connection=Redis.from_url(REDIS))


def noop(number: int, seconds: float) -> int:
    if seconds:
        time.sleep(seconds)
    note(number)
    return number


def send(number: int, seconds: float) -> None:
    queue.enqueue(noop, number, seconds)


def send_many(numbers: Iterable[int]) -> None:
    queue.enqueue_many([Queue.prepare_data(noop, (number, 0.0)) for number in numbers])
