"""The task of both of TaskIQ's brokers."""

from bench.effects import work_async


async def noop(number: int, seconds: float) -> int:
    return await work_async(number, seconds)
