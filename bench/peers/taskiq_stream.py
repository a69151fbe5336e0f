"""TaskIQ on a Redis stream: acknowledged when the result is saved."""

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from bench.peers.addresses import REDIS
from bench.peers.taskiq_task import noop

broker = RedisStreamBroker(REDIS).with_result_backend(RedisAsyncResultBackend(REDIS, result_ex_time=3600))
task = broker.task(task_name="noop")(noop)
connect = broker.startup


async def send(number: int, seconds: float) -> None:
    await task.kiq(number, seconds)
