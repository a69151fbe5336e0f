"""Huey on Redis; it stores results by default."""

import time

from huey import RedisHuey

from bench.effects import note
from bench.peers.addresses import REDIS

huey = RedisHuey("bench", url=REDIS)


@huey.task()
def noop(number: int, seconds: float) -> int:
    if seconds:
        time.sleep(seconds)
    note(number)
    return number


def send(number: int, seconds: float) -> None:
    noop(number, seconds)
