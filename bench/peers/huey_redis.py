"""Huey on Redis; it stores results by default."""

from huey import RedisHuey

from bench.effects import work
from bench.peers.addresses import REDIS

huey = RedisHuey("bench", url=REDIS)


@huey.task()
def noop(number: int, seconds: float) -> int:
    return work(number, seconds)


def send(number: int, seconds: float) -> None:
    noop(number, seconds)
