"""arq on Redis; it stores results by default."""

from typing import Any

from arq import create_pool
from arq.connections import ArqRedis, RedisSettings

from bench.effects import work_async
from bench.peers.addresses import REDIS

settings = RedisSettings.from_dsn(REDIS)
pool: ArqRedis


async def noop(context: dict[str, Any], number: int, seconds: float) -> int:
    return await work_async(number, seconds)


class WorkerSettings:
    functions = [noop]
    redis_settings = settings
    max_jobs = 100
    poll_delay = 0.01  # seconds; it polls, by default twice a second


async def connect() -> None:
    global pool
    pool = await create_pool(settings)


async def send(number: int, seconds: float) -> None:
    await pool.enqueue_job("noop", number, seconds)
